"""How few bits a picture needs as a JPEG, with a gradient: DDPO's compressibility (arXiv:2305.13301) made smooth.

JPEG turns 8 x 8 blocks of luma and halved chroma into cosine coefficients c, divides them by a table q and stores the
rounded numbers in about log2(1 + |c / q|) bits each. Rounding is left out, so that gradients pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from genbench.kinds import About

BLOCK = 8
YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
"""The tables of ITU-T T.81, annex K."""


def cosines() -> Tensor:
    """The orthonormal DCT-II of length 8, (8, 8): row k is frequency k."""
    k, n = torch.meshgrid(torch.arange(BLOCK), torch.arange(BLOCK), indexing="ij")
    scale = torch.where(k == 0, math.sqrt(1 / BLOCK), math.sqrt(2 / BLOCK))
    return scale * torch.cos(math.pi * (2 * n + 1) * k / (2 * BLOCK))


def scaled(table: Sequence[Sequence[int]], quality: int) -> Tensor:
    """A table at a quality in [1, 100], as libjpeg scales it."""
    factor = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(table) * factor + 50) // 100).clamp(1, 255).float()


def bits(channel: Tensor, table: Tensor) -> Tensor:
    """Bits of one channel (b, h, w) in [0, 255], whole blocks: (b,)."""
    b, h, w = channel.shape
    blocks = (channel - 128).reshape(b, h // BLOCK, BLOCK, w // BLOCK, BLOCK).transpose(2, 3)
    basis = cosines().to(channel)
    coefficients = basis @ blocks @ basis.T / table.to(channel)
    mean = coefficients[..., 0, 0].reshape(b, -1)
    steps = (mean[:, 1:] - mean[:, :-1]).abs().add(1).log2().sum(1) + mean[:, :1].abs().add(1).log2().sum(1)
    return coefficients.abs().add(1).log2().sum((1, 2, 3, 4)) - mean.abs().add(1).log2().sum(1) + steps


def jpeg_bits(images: Tensor, quality: int) -> Tensor:
    """Estimated bits of pictures (b, 3, h, w) in [0, 1], (b,); edges are repeated to whole blocks."""
    pixels = 255 * images.float()
    h, w = (-side % (2 * BLOCK) for side in pixels.shape[-2:])
    padded = F.pad(pixels, (0, w, 0, h), mode="replicate")
    luma, *chroma = torch.einsum("kc,bchw->kbhw", torch.tensor(YCBCR).to(padded), padded)
    total = bits(luma, scaled(LUMA, quality))
    for channel in chroma:
        total = total + bits(F.avg_pool2d(channel[:, None] + 128, 2)[:, 0], scaled(CHROMA, quality))
    return total


@dataclass(frozen=True)
class Compressibility:
    """Minus the bits per pixel that a JPEG of the picture takes, estimated; the prompt plays no part."""

    quality: int = field(default=75, metadata={"range": (1, 100)})  # of the JPEG

    resize: ClassVar[str] = "as they are"
    about: ClassVar[About] = About(
        "How little a JPEG of the picture takes: minus bits per pixel, with a gradient.",
        paper="Black et al., Training Diffusion Models with Reinforcement Learning, ICLR 2024 (the reward)",
        url="https://arxiv.org/abs/2305.13301",
        license="Apache-2.0",
    )

    def score(
        self, *, images: Tensor, prompts: Sequence[str], rows: Sequence[Mapping[str, object]] | None = None
    ) -> Tensor:
        """(b,), at most 0; plain pictures are near it."""
        return -jpeg_bits(images, self.quality) / (images.shape[-2] * images.shape[-1])
