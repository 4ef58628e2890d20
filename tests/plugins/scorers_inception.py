"""What torch-fidelity's Inception file holds: names and shapes, and a filling at random."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _inception() -> dict[str, tuple[int, int, int, int]]:
    """Convolutions (out, in, height, width) of torch-fidelity's weights-inception-2015-12-05-6726825d.pth."""
    stem = {
        "Conv2d_1a_3x3": (32, 3, 3, 3),
        "Conv2d_2a_3x3": (32, 32, 3, 3),
        "Conv2d_2b_3x3": (64, 32, 3, 3),
        "Conv2d_3b_1x1": (80, 64, 1, 1),
        "Conv2d_4a_3x3": (192, 80, 3, 3),
    }
    a = lambda into, pool: {  # noqa: E731
        "branch1x1": (64, into, 1, 1),
        "branch5x5_1": (48, into, 1, 1),
        "branch5x5_2": (64, 48, 5, 5),
        "branch3x3dbl_1": (64, into, 1, 1),
        "branch3x3dbl_2": (96, 64, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
        "branch_pool": (pool, into, 1, 1),
    }
    b = {
        "branch3x3": (384, 288, 3, 3),
        "branch3x3dbl_1": (64, 288, 1, 1),
        "branch3x3dbl_2": (96, 64, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
    }
    c = lambda c7: {  # noqa: E731
        "branch1x1": (192, 768, 1, 1),
        "branch7x7_1": (c7, 768, 1, 1),
        "branch7x7_2": (c7, c7, 1, 7),
        "branch7x7_3": (192, c7, 7, 1),
        "branch7x7dbl_1": (c7, 768, 1, 1),
        "branch7x7dbl_2": (c7, c7, 7, 1),
        "branch7x7dbl_3": (c7, c7, 1, 7),
        "branch7x7dbl_4": (c7, c7, 7, 1),
        "branch7x7dbl_5": (192, c7, 1, 7),
        "branch_pool": (192, 768, 1, 1),
    }
    d = {
        "branch3x3_1": (192, 768, 1, 1),
        "branch3x3_2": (320, 192, 3, 3),
        "branch7x7x3_1": (192, 768, 1, 1),
        "branch7x7x3_2": (192, 192, 1, 7),
        "branch7x7x3_3": (192, 192, 7, 1),
        "branch7x7x3_4": (192, 192, 3, 3),
    }
    e = lambda into: {  # noqa: E731
        "branch1x1": (320, into, 1, 1),
        "branch3x3_1": (384, into, 1, 1),
        "branch3x3_2a": (384, 384, 1, 3),
        "branch3x3_2b": (384, 384, 3, 1),
        "branch3x3dbl_1": (448, into, 1, 1),
        "branch3x3dbl_2": (384, 448, 3, 3),
        "branch3x3dbl_3a": (384, 384, 1, 3),
        "branch3x3dbl_3b": (384, 384, 3, 1),
        "branch_pool": (192, into, 1, 1),
    }
    blocks = {"5b": a(192, 32), "5c": a(256, 64), "5d": a(288, 64), "6a": b, "6b": c(128), "6c": c(160), "6d": c(160)}
    blocks |= {"6e": c(192), "7a": d, "7b": e(1280), "7c": e(2048)}
    mixed = {f"Mixed_{key}.{name}": shape for key, block in blocks.items() for name, shape in block.items()}
    return stem | mixed


INCEPTION = _inception()


def inception_state(seed: int = 0) -> dict[str, Tensor]:
    """The table filled at random, with batch normalisation beside each convolution, and the classifier."""
    draw = torch.Generator().manual_seed(seed)
    found = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    for name, shape in INCEPTION.items():
        found[f"{name}.conv.weight"] = torch.randn(shape, generator=draw) * math.sqrt(2 / math.prod(shape[1:]))
        found[f"{name}.bn.weight"] = 1 + 0.2 * torch.randn(shape[0], generator=draw)
        found[f"{name}.bn.bias"] = 0.2 * torch.randn(shape[0], generator=draw)
        found[f"{name}.bn.running_mean"] = 0.2 * torch.randn(shape[0], generator=draw)
        found[f"{name}.bn.running_var"] = 0.5 + torch.rand(shape[0], generator=draw)
    return found
