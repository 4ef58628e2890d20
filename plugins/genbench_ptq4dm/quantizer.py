"""Uniform quantization (arXiv:2211.15736, section 3.1): x^ = s (clamp(round(x / s) + z, 0, 2^b - 1) - z).

Activations have one step s and one integer zero point z per tensor, in 8 bits without sign. Weights have one step per
output channel and no zero point: q in [-(2^(b-1) - 1), 2^(b-1) - 1], so that -w is represented as well as w.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

LEVELS = 256
"""Of an activation: 8 bits."""


@dataclass(frozen=True)
class Grid:
    """The values scale * (q - zero), q in 0 ... 255, that an activation is rounded to; scale is a float32 above 0."""

    scale: float
    zero: int

    @classmethod
    def over(cls, low: float, high: float) -> Grid:
        """The grid over [low, high] and 0, which it represents exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(torch.tensor((high - low) / (LEVELS - 1), dtype=torch.float32))
        if scale == 0.0:
            return cls(1.0, 0)
        return cls(scale, min(max(round(-low / scale), 0), LEVELS - 1))

    def quantize(self, x: Tensor) -> Tensor:
        """Integers of a tensor, uint8, in the order of operations of `fake`."""
        return self._integers(x).to(torch.uint8)

    def quantize_signed(self, x: Tensor) -> Tensor:
        """The same integers minus 128, int8."""
        return (self._integers(x) - LEVELS // 2).to(torch.int8)

    def _integers(self, x: Tensor) -> Tensor:
        return torch.round(x.float() * (1 / self.scale) + self.zero).clamp(0, LEVELS - 1)

    def fake(self, x: Tensor) -> Tensor:
        """x rounded to the grid, in its own dtype; the gradient passes where x is not clipped."""
        wide = x if x.dtype == torch.float64 else x.float()
        return torch.fake_quantize_per_tensor_affine(wide, self.scale, self.zero, 0, LEVELS - 1).to(x.dtype)


def largest(bits: int) -> int:
    """The largest integer of a weight."""
    return 2 ** (bits - 1) - 1


@dataclass(frozen=True)
class Rounded:
    """A layer's weight as integers, int8 (out, ...), with the step of each output channel, float32 (out,).

    `grid` is the one of the layer's input; None where weights alone are quantized.
    """

    weight: Tensor
    scale: Tensor
    bits: int = 8
    grid: Grid | None = None

    @classmethod
    def of(cls, weight: Tensor, limits: Tensor, bits: int = 8, grid: Grid | None = None) -> Rounded:
        """Round a weight (out, ...) whose channels are clipped to [-limits, limits], (out,)."""
        scale = (limits.float() / largest(bits)).where(limits > 0, torch.ones_like(limits, dtype=torch.float32))
        q = torch.round(weight.float() / per_channel(scale, weight)).clamp(-largest(bits), largest(bits))
        return cls(q.to(torch.int8), scale, bits, grid)

    def weights(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """What the integers stand for, (out, ...)."""
        return (self.weight.to(self.scale.dtype) * per_channel(self.scale, self.weight)).to(dtype)

    def reduced(self) -> Rounded:
        """One bit less: u8 x s8 products are then at most 255 * 64, and two of them add up in 16 bits."""
        return replace(self, weight=torch.round(self.weight.float() / 2).to(torch.int8), scale=self.scale * 2)


def per_channel(scale: Tensor, like: Tensor) -> Tensor:
    """Steps (out,) in the shape in which they multiply a weight."""
    return scale.reshape(-1, *[1] * (like.ndim - 1))


def pack4(weight: Tensor) -> Tensor:
    """Integers in [-8, 7], two to a byte: uint8 (ceil(n / 2),), the first one low."""
    nibbles = (weight.flatten().to(torch.int16) & 15).to(torch.uint8)
    padded = torch.nn.functional.pad(nibbles, (0, len(nibbles) % 2))
    return padded[::2] | (padded[1::2] << 4)


def unpack4(packed: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The integers of `pack4`, int8 of this shape."""
    nibbles = torch.stack([packed & 15, packed >> 4], 1).flatten()[: torch.Size(shape).numel()]
    signed = nibbles.to(torch.int8)
    return torch.where(signed > 7, signed - 16, signed).reshape(shape)
