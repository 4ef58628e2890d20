"""The smooth estimate of a JPEG's size against JPEGs, and its parts against definitions."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image
from torch import Tensor

from genbench_scorers.compressibility import Compressibility, cosines, jpeg_bits, scaled


def pictures() -> Tensor:
    """From a flat colour to noise, over smooth shades and edges."""
    generator = torch.Generator().manual_seed(0)
    made: list[Tensor] = []
    for size in (1, 2, 4, 8, 16, 32, 64):
        coarse = torch.rand(1, 3, size, size, generator=generator)
        for strength in (0.2, 0.6, 1.0):
            smooth = torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear", align_corners=False)
            made.append((0.5 + strength * (smooth - 0.5)).clamp(0, 1))
    return torch.cat(made)


def jpeg(image: Tensor, quality: int) -> int:
    pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return 8 * len(stream.getvalue())


def ranks(values: Tensor) -> Tensor:
    return values.argsort().argsort().double()


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_pictures_are_ordered_as_their_jpegs_are(quality: int) -> None:
    images = pictures()
    real = torch.tensor([jpeg(image, quality) for image in images]).double()
    told = jpeg_bits(images, quality)
    agreement = torch.corrcoef(torch.stack([ranks(real), ranks(told)]))[0, 1]
    assert agreement > 0.95


def test_the_basis_is_orthonormal_and_the_tables_are_libjpegs() -> None:
    assert torch.allclose(cosines() @ cosines().T, torch.eye(8), atol=1e-6)
    image = Image.new("RGB", (16, 16))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=75)
    with Image.open(io.BytesIO(stream.getvalue())) as opened:
        written = opened.quantization[0]  # type: ignore[attr-defined]
    from genbench_scorers.compressibility import LUMA

    assert sorted(written) == sorted(scaled(LUMA, 75).int().flatten().tolist())


def test_a_flat_picture_costs_next_to_nothing_and_noise_a_lot() -> None:
    flat, noise = torch.full((1, 3, 20, 30), 0.5), torch.rand(1, 3, 20, 30)
    score = Compressibility().score(images=torch.cat([flat, noise]), prompts=["", ""])
    assert -0.05 < float(score[0]) <= 0 and float(score[1]) < -2


def test_the_gradient_makes_a_picture_simpler() -> None:
    image = pictures()[-1:].clone().requires_grad_()
    scorer = Compressibility()
    before = scorer.score(images=image, prompts=[""])
    (slope,) = torch.autograd.grad(before.sum(), image)
    after = scorer.score(images=(image + 0.5 * slope / slope.abs().max()).clamp(0, 1), prompts=[""])
    assert float(after.detach()) > float(before.detach())
