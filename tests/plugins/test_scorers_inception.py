"""inception against torchvision's Inception v3 with TensorFlow's pooling, on weights by the published table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from genbench.errors import ModelError, UsageError
from genbench_scorers import inception
from genbench_scorers.inception import Inception
from tests.plugins.scorers_inception import inception_state


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Tensor]]]:
    file = tmp_path_factory.mktemp("inception") / "weights-inception-2015-12-05-6726825d.pth"
    tensors = inception_state()
    torch.save(tensors, file)
    yield str(file), tensors
    inception.opened.cache_clear()
    file.unlink()


def torchvision_features(tensors: dict[str, Tensor], x: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """torchvision's own modules; its average pools leave the border out, and that of the last block is a maximum."""
    module: Any = torchvision.models.inception
    net: Any = module.Inception3(num_classes=1008, aux_logits=False, init_weights=False, transform_input=False)
    unknown = net.load_state_dict(tensors, strict=False).unexpected_keys
    assert not unknown
    last: list[bool] = []

    def pool(y: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
        if last:
            return F.max_pool2d(y, kernel_size, stride, padding)
        return F.avg_pool2d(y, kernel_size, stride, padding, count_include_pad=False)

    changed = {"avg_pool2d": pool, "max_pool2d": F.max_pool2d, "relu": F.relu}
    monkeypatch.setattr(module, "F", SimpleNamespace(**changed))
    net.Mixed_7c.register_forward_pre_hook(lambda *_: last.append(True))
    net.fc = torch.nn.Identity()
    with torch.no_grad():
        return net.eval()(x)


def test_features_are_torchvisions(weights: tuple[str, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = Inception(weights[0]).embed_images(images)
    expected = torchvision_features(weights[1], (images * 255 - 128) / 128, monkeypatch)
    assert found.shape == (1, 2048)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    assert len(found.unique()) > 1000


def test_resize_is_tensorflow_ones() -> None:
    """Value at i is that at i * old / new between its neighbours, the last one repeated; one pixel at a time."""
    images = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(2))
    found = inception.pixels(images) * 128 + 128
    grey = images[0, 0] * 255
    for i, j in [(0, 0), (1, 1), (100, 33), (250, 150), (298, 298)]:
        y, x = i * 5 / 299, j * 7 / 299
        top, left = int(y), int(x)
        below, right = min(top + 1, 4), min(left + 1, 6)
        upper = grey[top, left] * (1 - (x - left)) + grey[top, right] * (x - left)
        lower = grey[below, left] * (1 - (x - left)) + grey[below, right] * (x - left)
        assert float(found[0, 0, i, j]) == pytest.approx(float(upper * (1 - (y - top)) + lower * (y - top)), abs=1e-3)


def test_pictures_of_the_right_size_keep_their_pixels() -> None:
    images = torch.rand(1, 3, 299, 299)
    assert torch.allclose(inception.pixels(images), (images * 255 - 128) / 128, atol=1e-6)


def test_gradients_reach_the_pixels_through_the_resize() -> None:
    images = torch.rand(1, 3, 64, 64).requires_grad_()
    (gradient,) = torch.autograd.grad(inception.pixels(images).square().sum(), images)
    assert gradient.isfinite().all() and (gradient != 0).all()


def test_no_text_side() -> None:
    with pytest.raises(UsageError, match="no text side"):
        Inception().embed_texts(["a cube"])


def test_without_weights_it_says_where_they_are() -> None:
    with pytest.raises(ModelError, match=r"6726825d.pth .*torch-fidelity and give inception.weights=FILE"):
        Inception().version()


def test_a_file_of_another_network(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(ModelError, match=r"no FID Inception: .*0 are there"):
        Inception(str(tmp_path / "resnet.pth")).embed_images(torch.rand(1, 3, 8, 8))
