"""Discriminator heads on a denoising network's features, and the losses they are trained with and train with.

A map (c, height, width) gets the stack of DMD2's `cls_pred_branch`: convolutions that halve it down to 4 x 4 and one
that takes the rest, each with GroupNorm and SiLU, then a logit. Tokens (n, c) of a transformer are a map again where n
is a square, and get FastGen's lighter head. Layers are numbered as in those codes, so their weights fit by key.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, isqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, softplus

from genbench.errors import ModelError

SMALLEST_MAP = 4  # one convolution takes it whole
R1_NOISE = 0.1
"""Standard deviation of the noise that `approximate_r1` asks for."""


class Discriminator(nn.Module):
    """One head for each feature; `shapes` without the batch axis, (c, height, width) or (n, c). Weights by `seed`.

    Raises ModelError for features of another shape.
    """

    def __init__(self, shapes: Sequence[Sequence[int]], seed: int) -> None:
        super().__init__()
        self.shapes = tuple(tuple(shape) for shape in shapes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleList(head(shape) for shape in self.shapes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """K features of b samples each to logits (b, K): positive where a picture looks real."""
        found = tuple(tuple(feature.shape[1:]) for feature in features)
        if found != self.shapes:
            raise ModelError(f"the discriminator was made for features {self.shapes} and is given {found}")
        dtype = next(self.parameters()).dtype
        rows = zip(self.heads, features, strict=True)
        return torch.cat([each(spatial(feature.to(dtype))).flatten(1) for each, feature in rows], 1)


def head(shape: Sequence[int]) -> nn.Module:
    """The head for one feature of this shape (no batch axis). Raises ModelError for another number of axes."""
    match tuple(shape):
        case (c, height, width):
            return map_head(c, height, width)
        case (n, c):
            return token_head(c) if _is_map(n) else nn.Linear(c, 1)
        case other:
            raise ModelError(f"a feature is a map (c, height, width) or tokens (n, c), not {other}")


def map_head(c: int, height: int, width: int) -> nn.Sequential:
    """(b, c, height, width) to (b, 1, 1, 1). At 8 x 8, SD 1.5's; at 32 x 32, SDXL's, as DMD2 has them."""
    layers: list[nn.Module] = []
    while max(height, width) > SMALLEST_MAP:
        (kh, sh, height), (kw, sw, width) = _halved(height), _halved(width)
        layers += [nn.Conv2d(c, c, (kh, kw), (sh, sw), padding=1), _norm(c), nn.SiLU()]
    layers += [nn.Conv2d(c, c, (height, width), stride=SMALLEST_MAP), _norm(c), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(c, 1, 1))


def token_head(c: int) -> nn.Sequential:
    """(b, c, height, width) of at least 2 x 2 to (b, 1): FastGen's head for image transformers."""
    half = max(1, c // 2)
    first = nn.Conv2d(c, half, 4, stride=2, padding=1)
    return nn.Sequential(
        first, _norm(half), nn.LeakyReLU(0.2), nn.Conv2d(half, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def spatial(feature: Tensor) -> Tensor:
    """Tokens (b, n, c) as a map (b, c, sqrt n, sqrt n), or their mean (b, c) where n is no square; maps as they are."""
    if feature.ndim != 3:
        return feature
    b, n, c = feature.shape
    return feature.mT.reshape(b, c, isqrt(n), isqrt(n)) if _is_map(n) else feature.mean(1)


def groups(c: int) -> int:
    """Groups of a GroupNorm over c channels: at most 32, of 8 channels at least where there are so many.

    After the last convolution a group holds nothing but its channels; one of a single channel would always be zero.
    """
    return gcd(32, c, max(1, c // 8))


def _norm(c: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups(c), c)


def _halved(side: int) -> tuple[int, int, int]:
    """Kernel and stride along one side, and what is left of it; a side that is small already is kept."""
    return (4, 2, side // 2) if side > SMALLEST_MAP else (3, 1, side)


def _is_map(n: int) -> bool:
    return n > 1 and isqrt(n) ** 2 == n


# --- losses -------------------------------------------------------------------------------------------------------


def generator_loss(fake: Tensor) -> Tensor:
    """Logits (b, K) of the student's pictures to the mean of softplus(-logit): the non-saturating GAN loss."""
    return softplus(-fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(fake) + softplus(-real), each a mean over its logits (b, K); optimal at log p / q."""
    return softplus(fake).mean() + softplus(-real).mean()


def approximate_r1(real: Tensor, perturbed: Tensor, gamma: float) -> Tensor:
    """gamma mean (D(x) - D(x + 0.1 n))^2 of logits (b, K): a gradient penalty without its gradient.

    Seaweed-APT (arXiv:2501.08316); x are real latents at their noise level, n noise of deviation `R1_NOISE`.
    """
    return gamma * mse_loss(real, perturbed)
