"""The Inception network of FID (Heusel et al., arXiv:1706.08500), from the weights that torch-fidelity publishes.

The network is TensorFlow's Inception of 2015-12-05, `weights-inception-2015-12-05-6726825d.pth` of torch-fidelity's
release v0.2.0 (pytorch-fid's file has the same names): average pools leave the border out, and the last block pools by
maximum. Its input is resized as TensorFlow 1 does, bilinear without antialiasing and without centring pixels.
Batch normalisation (eps 0.001) is folded into the convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from genbench.errors import ModelError, UsageError
from genbench.kinds import About
from genbench_scorers import weights
from genbench_scorers.batches import in_batches
from genbench_scorers.clip import Pictures

SIDE, EPS = 299, 0.001
PUBLISHED = (
    "download weights-inception-2015-12-05-6726825d.pth from the release v0.2.0 of github.com/toshas/torch-fidelity "
    "and give inception.weights=FILE"
)
Folded = Mapping[str, tuple[Tensor, Tensor]]


# --- input --------------------------------------------------------------------------------------------------------


def resized_axis(x: Tensor, size: int, dim: int) -> Tensor:
    """Linear interpolation along one axis at i * old / new, TensorFlow 1's rule; differentiable."""
    old = x.shape[dim]
    at = torch.arange(size, dtype=torch.float32, device=x.device) * (old / size)
    low = at.floor().long()
    share = (at - low).reshape([-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)])
    return torch.lerp(x.index_select(dim, low), x.index_select(dim, (low + 1).clamp(max=old - 1)), share)


def pixels(images: Tensor) -> Tensor:
    """Pictures (n, 3, h, w) in [0, 1] -> (n, 3, 299, 299), (255 x - 128) / 128."""
    x = resized_axis(resized_axis(images.float() * 255, SIDE, -2), SIDE, -1)
    return (x - 128) / 128


# --- network ------------------------------------------------------------------------------------------------------


def folded(state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Convolutions by name as (weight, bias), batch normalisation folded in. Raises KeyError for a missing part."""
    found = {}
    for name in sorted(key.removesuffix(".conv.weight") for key in state if key.endswith(".conv.weight")):
        gain = state[f"{name}.bn.weight"] / (state[f"{name}.bn.running_var"] + EPS).sqrt()
        bias = state[f"{name}.bn.bias"] - state[f"{name}.bn.running_mean"] * gain
        found[name] = (state[f"{name}.conv.weight"] * gain[:, None, None, None], bias)
    return found


def conv(x: Tensor, net: Folded, name: str, stride: int = 1, same: bool = True) -> Tensor:
    """One convolution and ReLU; `same` pads so that stride 1 keeps the size."""
    weight, bias = net[name]
    sides = (weight.shape[2] // 2, weight.shape[3] // 2) if same else 0
    return F.conv2d(x, weight, bias, stride, sides).relu()


def path(x: Tensor, net: Folded, block: str, *names: str) -> Tensor:
    """Convolutions one after the other."""
    return reduce(lambda y, name: conv(y, net, f"{block}.{name}"), names, x)


def mean_pool(x: Tensor) -> Tensor:
    """3x3 mean that keeps the size and leaves the border out."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def block_a(x: Tensor, net: Folded, block: str) -> Tensor:
    """1x1, 5x5 and double 3x3 at 35 x 35."""
    fives = path(x, net, block, "branch5x5_1", "branch5x5_2")
    threes = path(x, net, block, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
    ones, pooled = path(x, net, block, "branch1x1"), path(mean_pool(x), net, block, "branch_pool")
    return torch.cat([ones, fives, threes, pooled], 1)


def block_b(x: Tensor, net: Folded, block: str) -> Tensor:
    """From 35 to 17."""
    one = conv(x, net, f"{block}.branch3x3", 2, same=False)
    double = path(x, net, block, "branch3x3dbl_1", "branch3x3dbl_2")
    return torch.cat([one, conv(double, net, f"{block}.branch3x3dbl_3", 2, same=False), F.max_pool2d(x, 3, 2)], 1)


def block_c(x: Tensor, net: Folded, block: str) -> Tensor:
    """Factorised 7x7 at 17 x 17."""
    sevens = path(x, net, block, *(f"branch7x7_{i}" for i in (1, 2, 3)))
    doubles = path(x, net, block, *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)))
    ones, pooled = path(x, net, block, "branch1x1"), path(mean_pool(x), net, block, "branch_pool")
    return torch.cat([ones, sevens, doubles, pooled], 1)


def block_d(x: Tensor, net: Folded, block: str) -> Tensor:
    """From 17 to 8."""
    threes = conv(path(x, net, block, "branch3x3_1"), net, f"{block}.branch3x3_2", 2, same=False)
    sevens = path(x, net, block, *(f"branch7x7x3_{i}" for i in (1, 2, 3)))
    return torch.cat([threes, conv(sevens, net, f"{block}.branch7x7x3_4", 2, same=False), F.max_pool2d(x, 3, 2)], 1)


def block_e(x: Tensor, net: Folded, block: str, pooled: Tensor) -> Tensor:
    """Split 3x3 at 8 x 8; `pooled` is x after the block's own pooling."""
    threes = path(x, net, block, "branch3x3_1")
    doubles = path(x, net, block, "branch3x3dbl_1", "branch3x3dbl_2")
    split = [(threes, "branch3x3_2a"), (threes, "branch3x3_2b"), (doubles, "branch3x3dbl_3a")]
    halves = [path(y, net, block, name) for y, name in (*split, (doubles, "branch3x3dbl_3b"))]
    ones = path(x, net, block, "branch1x1")
    return torch.cat([ones, *halves, path(pooled, net, block, "branch_pool")], 1)


def features(net: Folded, x: Tensor) -> Tensor:
    """Pool3 features (n, 2048) of pixels (n, 3, 299, 299)."""
    x = conv(conv(x, net, "Conv2d_1a_3x3", 2, same=False), net, "Conv2d_2a_3x3", same=False)
    x = F.max_pool2d(conv(x, net, "Conv2d_2b_3x3"), 3, 2)
    x = F.max_pool2d(conv(conv(x, net, "Conv2d_3b_1x1"), net, "Conv2d_4a_3x3", same=False), 3, 2)
    x = reduce(lambda y, name: block_a(y, net, name), ("Mixed_5b", "Mixed_5c", "Mixed_5d"), x)
    x = block_b(x, net, "Mixed_6a")
    x = reduce(lambda y, name: block_c(y, net, name), ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), x)
    x = block_d(x, net, "Mixed_7a")
    x = block_e(x, net, "Mixed_7b", mean_pool(x))
    return block_e(x, net, "Mixed_7c", F.max_pool2d(x, 3, 1, 1)).mean((2, 3))


# --- encoder ------------------------------------------------------------------------------------------------------


@cache
def opened(file: Path, device: str) -> Folded:
    """The folded network of a file, on a device, once per process. Raises ModelError for another layout."""
    try:
        net = folded(weights.state_dict(file))
        if len(net) != 94:
            raise KeyError(f"one of 94 convolutions ({len(net)} are there)")
    except KeyError as error:
        raise ModelError(f"{file} is no FID Inception: {error} is missing; {PUBLISHED}") from error
    return {name: (weight.float().to(device), bias.float().to(device)) for name, (weight, bias) in net.items()}


@dataclass(frozen=True)
class Inception:
    """FID's features, (n, 2048); `frechet@inception` is FID, `kid@inception` KID."""

    weights: str = ""  # torch-fidelity's weights-inception-2015-12-05-6726825d.pth, or hf:org/name/file
    batch: Pictures = 32  # pictures through the network at once

    resize: ClassVar[str] = "to 299 x 299, bilinear, not antialiased, pixels not centred (TensorFlow 1)"
    about: ClassVar[About] = About(
        "Inception features of FID and KID, from torch-fidelity's weights.",
        paper="Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017",
        url="https://arxiv.org/abs/1706.08500",
        license="Apache-2.0",
        cost="one Inception v3 forward per picture",
    )

    def embed_images(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, 2048); differentiable."""
        net = opened(weights.found_file(self.weights, "inception.weights", PUBLISHED), str(images.device))
        return in_batches(images, [""] * len(images), self.batch, lambda x, _: features(net, pixels(x)))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Raises UsageError: the network sees pictures only."""
        raise UsageError("the encoder inception has no text side; choose clip for texts")

    def version(self) -> str:
        """What the weights hash to."""
        return weights.version(weights.found_file(self.weights, "inception.weights", PUBLISHED))
