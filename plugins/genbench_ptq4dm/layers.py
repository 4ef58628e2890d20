"""Linear layers and convolutions with integer weights, in the place of a network's own.

What stays in floating point is everything else, as in arXiv:2211.15736: SiLU, softmax and normalisations, the products
of attention, sums and concatenations. Integers stand where kernels take them: at a layer's weight and at its input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genbench_ptq4dm.quantizer import Rounded, pack4, per_channel, unpack4

BASE = ".base_layer"
"""What peft calls the layer that a LoRA is added to."""
Kernel = Callable[[Tensor], Tensor]
Float = nn.Linear | nn.Conv2d


class Quantized(nn.Module):
    """What both kinds share. `weight` is what the integers stand for, computed when it is asked for.

    `kernel` multiplies integers; without one the layer computes in floating point what they stand for, which is the
    reference that kernels are compared with.
    """

    integers: Tensor
    step: Tensor
    bias: Any
    kernel: Kernel | None

    def take(self, layer: Float, rounded: Rounded) -> None:
        """Take over a layer's shape, bias and dtype."""
        self.shape, self.bits, self.grid = tuple(layer.weight.shape), rounded.bits, rounded.grid
        self.dtype, self.kernel = layer.weight.dtype, None
        packed = rounded.weight if rounded.bits == 8 else pack4(rounded.weight)
        self.register_buffer("integers", packed.to(layer.weight.device).contiguous())
        self.register_buffer("step", rounded.scale.to(layer.weight.device))
        self.bias = layer.bias
        self.training = layer.training

    @property
    def rounded(self) -> Rounded:
        """The integers and steps."""
        integers = self.integers if self.bits == 8 else unpack4(self.integers, self.shape)
        return Rounded(integers, self.step, self.bits, self.grid)

    @property
    def weight(self) -> Tensor:
        rounded = self.rounded
        return rounded.weight.to(self.dtype) * per_channel(self.step, rounded.weight).to(self.dtype)

    def seen(self, x: Tensor) -> Tensor:
        """The input as the layer multiplies it."""
        return x if self.grid is None else self.grid.fake(x)


class QuantizedLinear(Quantized, nn.Linear):  # pyright: ignore[reportIncompatibleVariableOverride]  # weight is computed
    """y = W^ x^ + b."""

    def __init__(self, layer: nn.Linear, rounded: Rounded) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.take(layer, rounded)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # nn.Linear says `input`
        if self.kernel is not None:
            return self.kernel(x)
        return F.linear(self.seen(x), self.weight, self.bias)


class QuantizedConv2d(Quantized, nn.Conv2d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """The convolution of x^ with W^, padded with zeros."""

    def __init__(self, layer: nn.Conv2d, rounded: Rounded) -> None:
        nn.Module.__init__(self)
        for name in (*nn.Conv2d.__constants__, "_reversed_padding_repeated_twice"):
            setattr(self, name, getattr(layer, name))
        self.take(layer, rounded)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # nn.Conv2d says `input`
        if self.kernel is not None:
            return self.kernel(x)
        return F.conv2d(
            self.seen(x), self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )  # fmt: skip


# --- in a network -----------------------------------------------------------------------------------------------------


def float_layers(network: nn.Module, keep: Sequence[str] = ()) -> dict[str, Float]:
    """The layers that can be quantized, by name; those of LoRAs cannot, nor those with a word of `keep` in the name.

    A layer that a LoRA was added to has the name that it has without.
    """
    found: dict[str, Float] = {}
    for name, module in network.named_modules():
        plain = type(module) is nn.Linear or (type(module) is nn.Conv2d and module.padding_mode == "zeros")
        own = name.replace(BASE, "")
        if plain and ".lora_" not in name and not any(word in own for word in keep):
            found[own] = module  # type: ignore[assignment]  # `plain` says which
    return found


def quantized_layers(network: nn.Module) -> dict[str, Quantized]:
    """The layers that are quantized, by name."""
    return {name.replace(BASE, ""): m for name, m in network.named_modules() if isinstance(m, Quantized)}


def replace_layers(network: nn.Module, rounded: Mapping[str, Rounded]) -> None:
    """Put quantized layers in the place of those of these names, in the network itself."""
    places = {name.replace(BASE, ""): name for name, module in network.named_modules() if isinstance(module, Float)}
    for own, integers in rounded.items():
        parent, _, last = places[own].rpartition(".")
        layer: Any = network.get_submodule(places[own])
        made = QuantizedLinear(layer, integers) if isinstance(layer, nn.Linear) else QuantizedConv2d(layer, integers)
        setattr(network.get_submodule(parent), last, made)


# --- which weights these are ------------------------------------------------------------------------------------------

SAMPLES = 8
ROUNDING = 2.0**-7
"""Relative: weights that were stored in bfloat16 or float16 are the same weights."""


def fingerprint(layers: Mapping[str, Float]) -> Tensor:
    """A few weights of every layer, in order of names, float32 (layers, 8)."""
    return torch.stack([_samples(layers[name].weight) for name in sorted(layers)])


def _samples(weight: Tensor) -> Tensor:
    flat = weight.detach().flatten()
    return flat[torch.linspace(0, len(flat) - 1, SAMPLES, device=flat.device).long()].float().cpu()


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two fingerprints are those of the same weights, whatever dtype they lie in."""
    return one.shape == other.shape and bool(((one - other).abs() <= ROUNDING * one.abs() + 1e-6).all())
