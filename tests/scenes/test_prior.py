"""Models as priors: levels, conventions, encoding; what is no prior is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from genbench.backbones import adapt
from genbench.backbones.toy import ToyModel
from genbench.errors import ModelError, UsageError
from genbench.kinds import Ledger, Model
from genbench.scenes.cameras import orbit
from genbench.scenes.prior import Prior, check_encoder
from genbench.scenes.prompting import Prompting, blended
from tests import tiny

SIZE = 32


def opened(pipeline: Any) -> Model:
    model: Any = adapt(pipeline, Ledger())
    return model


def test_levels_grow_noisier() -> None:
    for model in (ToyModel(), opened(tiny.sd("v_prediction")), opened(tiny.sd3())):
        over = Prior.of(model, SIZE, SIZE)
        assert over.count == 1000 and (over.sigmas.diff() >= 0).all() and (over.alphas > 0).all()


def test_a_diffusion_models_levels_are_its_training_levels() -> None:
    pipeline = tiny.sd()
    over = Prior.of(opened(pipeline), SIZE, SIZE)
    assert over.times.tolist() == list(range(1000))
    torch.testing.assert_close(over.alphas**2, pipeline.scheduler.alphas_cumprod, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["sd", "sdxl", "pixart_sigma", "hunyuan", "sd3", "flux"])
def test_every_row_has_a_level_of_its_own(family: str) -> None:
    model = opened(tiny.tiny(family))
    over = Prior.of(model, SIZE, SIZE)
    z = torch.randn(2, *model.latent_shape(SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    told, t = over.prompt(["a red cube", "a blue sphere"]), torch.tensor([100, 700])
    with torch.no_grad():
        both, _ = over.eps((z, t, told), (z, t.flip(0), told))
        for row in (0, 1):
            one = {name: value[row : row + 1] for name, value in told.items()}
            (alone,) = over.eps((z[row : row + 1], t[row : row + 1], one))
            torch.testing.assert_close(both[row : row + 1], alone, atol=2e-4, rtol=1e-3)
    assert model.ledger.evaluations == 6  # type: ignore[attr-defined]


def test_one_step_of_ddim_and_back() -> None:
    over = Prior.of(ToyModel(), SIZE, SIZE)
    x, eps = torch.randn(2, 2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    low, high = torch.tensor([100, 200]), torch.tensor([300, 250])
    there = over.moved(x, eps, low, high)
    torch.testing.assert_close(over.moved(there, eps, high, low), x, atol=1e-4, rtol=1e-4)


def test_pictures_are_encoded_at_the_models_size_with_a_gradient() -> None:
    model = opened(tiny.sd())
    over = Prior.of(model, SIZE, SIZE)
    pictures = torch.rand(2, 3, 24, 24, requires_grad=True)
    z = over.encode(pictures, torch.Generator().manual_seed(0))
    assert z.shape == (2, *model.latent_shape(SIZE, SIZE)) and z.dtype == torch.float32
    assert torch.equal(z, over.encode(pictures, torch.Generator().manual_seed(0)))
    torch.autograd.backward(z.sum())
    assert pictures.grad is not None and pictures.grad.abs().sum() > 0


def test_what_is_no_prior_is_refused_before_weights_load(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="follows no text"):
        check_encoder("digits", "unconditional")
    tiny.sd().save_pretrained(tmp_path / "whole")
    check_encoder(str(tmp_path / "whole"), "sd")
    decoder = {key: value for key, value in _vae(tmp_path / "whole").items() if not key.startswith("encoder.")}
    from safetensors.torch import save_file

    save_file(decoder, tmp_path / "whole" / "vae" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ModelError, match="has no VAE encoder"):
        check_encoder(str(tmp_path / "whole"), "sd")


def _vae(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")


def test_words_for_the_side_that_is_seen() -> None:
    over = Prior.of(ToyModel(), SIZE, SIZE)
    cameras = orbit(torch.tensor([10.0, 10, 10, 60]), torch.tensor([0.0, 45, 180, 0]), 4, 30, 8, 8)
    prompting = Prompting.of(over, "red", "blue", ("red", "green", "blue"))
    assert torch.allclose(prompting.weights(cameras)[1], torch.tensor([0.5, 0.5, 0]))
    assert prompting.texts(cameras).prompt["weights"].shape == (4, 8)
    nearest = Prompting.of(over, "red", "", ("red", "green", "blue", "white"), blend=False).weights(cameras)
    assert nearest.argmax(1).tolist()[2:] == [2, 3] and nearest.sum(1).tolist() == [1] * 4
    with pytest.raises(UsageError, match="three"):
        Prompting.of(over, "red", "", ("front", "back"))


def test_masks_are_not_blended() -> None:
    told = {"states": torch.tensor([[0.0], [4.0]]), "mask": torch.tensor([[1, 0], [1, 1]])}
    mixed = blended(told, torch.tensor([[0.25, 0.75]]))
    assert mixed["states"].tolist() == [[3.0]] and mixed["mask"].tolist() == [[1, 1]]
