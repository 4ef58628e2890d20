"""Resizing on tensors against the published preprocessing, which resizes 8-bit pictures with PIL."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, PILToTensor, Resize

from genbench_scorers import pixels
from genbench_scorers.pixels import CLIP_MEAN, CLIP_STD, cropped, normalised, padded


def photograph(height: int, width: int) -> Image.Image:
    """Smooth shapes with edges and noise, 8 bits."""
    y, x = np.mgrid[:height, :width]
    draw = np.random.default_rng(3)
    base = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 13)], -1) * 90 + 128
    base[(x - width / 2) ** 2 + (y - height / 2) ** 2 < (min(height, width) / 4) ** 2] = 250
    return Image.fromarray((base + draw.normal(0, 12, base.shape)).clip(0, 255).astype(np.uint8))


def tensor(image: Image.Image) -> Tensor:
    return PILToTensor()(image)[None].float() / 255


@pytest.mark.parametrize("size", [(96, 96), (64, 96), (131, 97), (24, 20), (32, 32)])
def test_crop_is_clips_up_to_eight_bits(size: tuple[int, int]) -> None:
    """PIL rounds after each of its two passes: about one step of 1/255 at most, a third of one on average."""
    image = photograph(*size)
    published = tensor(Compose([Resize(32, interpolation=InterpolationMode.BICUBIC), CenterCrop(32)])(image))
    difference = (cropped(tensor(image), 32) - published).abs()
    assert float(difference.max()) <= 1.2 / 255 and float(difference.mean()) <= 0.35 / 255


@pytest.mark.parametrize("size", [(96, 96), (64, 96), (131, 97), (24, 20)])
def test_padding_is_hpss_up_to_eight_bits(size: tuple[int, int]) -> None:
    """The longer side to 32, black around the middle, the odd row or column at the end (open_clip's ResizeMaxSize)."""
    image, scale = photograph(*size), 32 / max(size)
    high, wide = round(size[0] * scale), round(size[1] * scale)
    canvas = Image.new("RGB", (32, 32))
    canvas.paste(image.resize((wide, high), Image.Resampling.BICUBIC), ((32 - wide) // 2, (32 - high) // 2))
    difference = (padded(tensor(image), 32) - tensor(canvas)).abs()
    assert float(difference.max()) <= 1.2 / 255 and float(difference.mean()) <= 0.35 / 255


def test_normalisation_is_clips() -> None:
    image = tensor(photograph(32, 32))
    assert torch.allclose(normalised(image), Normalize(CLIP_MEAN, CLIP_STD)(image), atol=1e-6)
    assert (CLIP_MEAN[0], CLIP_STD[2]) == (0.48145466, 0.27577711)


def test_pictures_of_the_right_size_keep_their_pixels() -> None:
    image = tensor(photograph(32, 32))
    assert torch.equal(cropped(image, 32), image) and torch.equal(padded(image, 32), image)


def test_overshoot_is_clipped() -> None:
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 32:] = 1
    found = pixels.bicubic(edge, 30, 30)
    assert (float(found.min()), float(found.max())) == (0.0, 1.0)


def test_gradients_are_those_of_the_linear_filter() -> None:
    images = (torch.rand(1, 3, 48, 40, dtype=torch.float64) * 0.2 + 0.4).float().requires_grad_()
    (gradient,) = torch.autograd.grad(padded(images, 24).sum(), images)
    moved = images.detach().clone()
    moved[0, 1, 20, 13] += 0.1
    change = float(padded(moved, 24).sum() - padded(images.detach(), 24).sum())
    assert change == pytest.approx(0.1 * float(gradient[0, 1, 20, 13]), rel=1e-2)
