"""Layers that multiply integers one by one, by the kernels that torch brings.

    processor   onednn's int8 convolution and product, those of torch's own x86 backend: uint8 inputs, int8 weights
    GPU         `torch._int_mm`, int8 x int8 -> int32; a convolution is a product of patches

A sum of integers is exact, so both compute what the layer computes in floating point, up to the rounding of float32.
On a processor without VNNI or AMX onednn adds pairs of products up in 16 bits, which overflow; weights of 7 bits do not
(see `genbench.instructions`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genbench.errors import UsageError
from genbench_ptq4dm.layers import Quantized, QuantizedConv2d, QuantizedLinear, quantized_layers
from genbench_ptq4dm.quantizer import LEVELS, Grid

INT_MM: Any = torch._int_mm  # pyright: ignore[reportPrivateImportUsage]  # torch's one product of int8 on a GPU
SIGNED = LEVELS // 2
NO_GRADIENT = "integers pass no gradient; use ptq4dm.engine=simulate, which computes the same in floating point"


def use_kernels(network: nn.Module) -> None:
    """Let the quantized layers of a network multiply integers, in the network itself."""
    for layer in quantized_layers(network).values():
        if layer.grid is not None:
            layer.kernel = kernel(layer)


def kernel(layer: Quantized) -> Callable[[Tensor], Tensor]:
    """The kernel of one layer for the device that it is on."""
    if layer.integers.device.type == "cpu":
        return OneDnn(layer)
    return Patches(layer)


class OneDnn:
    """A layer on a processor. Its weights are packed for the kernel once."""

    def __init__(self, layer: Quantized) -> None:
        self.layer, self.zeros = layer, torch.zeros(len(layer.step), dtype=torch.int64)
        self.packed = self._packed()

    def __call__(self, x: Tensor) -> Tensor:
        check_gradient(x)
        made = self._product(_grid(self.layer).quantize(x))
        return made.to(x.dtype)

    def _packed(self) -> Tensor:
        layer, grid, ops = self.layer, _grid(self.layer), torch.ops.onednn
        if isinstance(layer, QuantizedConv2d):
            shape = layer.stride, layer.padding, layer.dilation, layer.groups
            return ops.qconv_prepack(layer.integers, layer.step, grid.scale, grid.zero, *shape, None)
        return ops.qlinear_prepack(layer.integers, None)

    @torch.compiler.disable  # inductor takes these kernels with constant weights alone
    def _product(self, q: Tensor) -> Tensor:
        layer, grid, ops = self.layer, _grid(self.layer), torch.ops.onednn
        bias = None if layer.bias is None else layer.bias.detach().float()
        given: Any = (q, grid.scale, grid.zero, self.packed, layer.step, self.zeros, bias)
        told: Any = (1.0, 0, torch.float32, "none", [], "")
        if isinstance(layer, QuantizedConv2d):
            shape = layer.stride, layer.padding, layer.dilation, layer.groups
            return ops.qconv_pointwise(*given, *shape, *told)
        return ops.qlinear_pointwise(*given, *told)

    def __deepcopy__(self, memo: dict[int, Any]) -> OneDnn:
        return _copied(self, memo)


class Patches:
    """A layer as one product of int8 matrices: (rows, k) @ (k, out), sizes padded to multiples of 8.

    With q = uint8 - 128 and z' = z - 128:  sum_k w s_w s (q - z') = s s_w (sum_k w q - z' sum_k w).
    """

    def __init__(self, layer: Quantized) -> None:
        self.layer = layer
        flat = layer.integers.flatten(1)
        self.k, self.out = flat.shape[1], flat.shape[0]
        self.matrix = padded(flat, -self.out % 8, -self.k % 8).t()  # (k, out), column by column
        self.offset = flat.sum(1, dtype=torch.int32)

    def __call__(self, x: Tensor) -> Tensor:
        check_gradient(x)
        q = _grid(self.layer).quantize_signed(x)
        if isinstance(self.layer, QuantizedLinear):
            return self._scaled(q.flatten(0, -2)).reshape(*x.shape[:-1], self.out).to(x.dtype)
        layer: Any = self.layer
        rows, height, width = patches(q, layer, _grid(self.layer).zero - SIGNED)
        made = self._scaled(rows).reshape(len(x), height, width, self.out)
        return made.permute(0, 3, 1, 2).to(x.dtype)

    def _scaled(self, rows: Tensor) -> Tensor:
        """int8 (rows, k) to float32 (rows, out)."""
        layer, grid = self.layer, _grid(self.layer)
        tall = padded(rows, max(0, 32 - len(rows)), -self.k % 8)
        total = INT_MM(tall, self.matrix)[: len(rows), : self.out]
        made = (total - (grid.zero - SIGNED) * self.offset).float() * (layer.step * grid.scale)
        return made if layer.bias is None else made + layer.bias.float()

    def __deepcopy__(self, memo: dict[int, Any]) -> Patches:
        return _copied(self, memo)


def padded(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """The matrix with so many rows and columns of zeros more; itself where there are none."""
    return F.pad(matrix, (0, columns, 0, rows)) if rows or columns else matrix


def patches(q: Tensor, layer: nn.Conv2d, zero: int) -> tuple[Tensor, int, int]:
    """The patches of q (b, c, h, w) that a convolution multiplies, (b h' w', c kh kw), with h' and w'.

    Outside the picture lies `zero`, which stands for 0. Raises UsageError for groups, dilation and padding by name.
    """
    if layer.groups != 1 or layer.dilation != (1, 1) or isinstance(layer.padding, str):
        raise UsageError("a convolution with groups or dilation has no int8 kernel here; use ptq4dm.engine=simulate")
    (ph, pw), (kh, kw), (sh, sw) = layer.padding, layer.kernel_size, layer.stride
    seen = F.pad(q, (pw, pw, ph, ph), value=zero).unfold(2, kh, sh).unfold(3, kw, sw)
    height, width = seen.shape[2:4]
    return seen.permute(0, 2, 3, 1, 4, 5).reshape(len(q) * height * width, -1), height, width


def check_gradient(x: Tensor) -> None:
    """Raise UsageError where a gradient is asked for."""
    if x.requires_grad and torch.is_grad_enabled():
        raise UsageError(NO_GRADIENT)


def _grid(layer: Quantized) -> Grid:
    if layer.grid is None:
        raise ValueError("a layer whose input is not quantized has no integer kernel")
    return layer.grid


def _copied(kernel: Any, memo: dict[int, Any]) -> Any:
    """A copied network's kernel belongs to the copied layer; packed weights are shared."""
    import copy

    made = copy.copy(kernel)
    memo[id(kernel)] = made
    made.layer = copy.deepcopy(kernel.layer, memo)
    return made
