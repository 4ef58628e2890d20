"""Squared maximum mean discrepancy between two sets of features: KID (polynomial kernel) and CMMD (Gaussian kernel).

MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)   (Gretton et al., JMLR 13 (2012), lemma 6)

The unbiased estimate leaves the diagonal out of the first two means. Kernel matrices are summed in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from genbench.kinds import About
from genbench_metrics.features import checked_pair
from genbench_metrics.subsets import Subset, mmd_subsets

BLOCK = 2048  # rows of a kernel matrix held at once

Kernel = Callable[[Tensor, Tensor], Tensor]


def polynomial(x: Tensor, y: Tensor) -> Tensor:
    """(x . y / d + 1)^3 for all pairs, (n, m) (Binkowski et al., arXiv:1801.01401, section 4)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(x: Tensor, y: Tensor, bandwidth: float = 10.0) -> Tensor:
    """exp(-|x - y|^2 / (2 bandwidth^2)) for all pairs, (n, m)."""
    return (-torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * bandwidth**2)).exp()


def between(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    """Sum over y of k(x_i, y), (n,)."""
    return torch.cat([kernel(rows, y).sum(1) for rows in x.split(BLOCK)])


def diagonal(x: Tensor, kernel: Kernel) -> Tensor:
    """k(x_i, x_i), (n,)."""
    return torch.cat([kernel(row, row).flatten() for row in x.split(1)])


def mean_within(x: Tensor, kernel: Kernel, unbiased: bool) -> Tensor:
    """Mean of k over pairs of x; unbiased leaves out pairs of a point with itself."""
    total = between(x, x, kernel).sum()
    n = len(x)
    return (total - diagonal(x, kernel).sum()) / (n * (n - 1)) if unbiased else total / n**2


def mmd2(x: Tensor, y: Tensor, kernel: Kernel, unbiased: bool) -> float:
    """Squared MMD of x (n, d) and y (m, d); the unbiased estimate may be negative."""
    cross = between(x, y, kernel).sum() / (len(x) * len(y))
    return float(mean_within(x, kernel, unbiased) + mean_within(y, kernel, unbiased) - 2 * cross)


def kid_without(x: Tensor, y: Tensor, groups: Tensor) -> list[float]:
    """Unbiased polynomial MMD^2 with each group of x left out in turn, from one pass over the kernel matrices."""
    to_y, constant = between(x, y, polynomial), mean_within(y, polynomial, True)
    names = groups.unique()
    onehot = (groups[:, None] == names).double()
    shares = onehot.T @ torch.cat([polynomial(rows, x) for rows in x.split(BLOCK)]) @ onehot  # (g, g) sums of k
    own = onehot.T @ diagonal(x, polynomial)
    n = len(x) - onehot.sum(0)
    pairs = shares.sum() - 2 * shares.sum(1) + shares.diagonal() - (own.sum() - own)
    cross = (to_y.sum() - onehot.T @ to_y) / (n * len(y))
    return (pairs / (n * (n - 1)) + constant - 2 * cross).tolist()


@dataclass(frozen=True)
class Kid:
    """Kernel Inception distance on an encoder's features: unbiased at every n, smaller is better, 0 in expectation."""

    about: ClassVar[About] = About(
        "KID: unbiased squared MMD with the cubic kernel (x.y/d + 1)^3; fit for few pictures.",
        paper="Binkowski et al., Demystifying MMD GANs, ICLR 2018",
        url="https://arxiv.org/abs/1801.01401",
    )

    def value(self, features: Tensor, reference: Tensor | None = None, groups: Sequence[object] | None = None) -> float:
        """Distance of features (n, d) to reference (m, d)."""
        x, y = checked_pair(features, reference, 2, "kid")
        return mmd2(x, y, polynomial, unbiased=True)

    def without(self, features: Tensor, reference: Tensor | None, groups: Sequence[int]) -> list[float]:
        """Values with each group of pictures left out in turn, in order of group number; for jackknife intervals."""
        x, y = checked_pair(features, reference, 2, "kid")
        return kid_without(x, y, torch.as_tensor(list(groups)))

    def subsets(self, features: Tensor, reference: Tensor | None) -> Subset:
        """Return a function from row numbers to the distance of these rows."""
        x, y = checked_pair(features, reference, 2, "kid")
        to_y, constant = between(x, y, polynomial) / len(y), mean_within(y, polynomial, True)
        return mmd_subsets(polynomial(x, x), to_y, constant, unbiased=True)


@dataclass(frozen=True)
class Cmmd:
    """CMMD on unit-length features: 1000 x the biased MMD^2 with a Gaussian kernel, as published; smaller is better."""

    bandwidth: float = field(default=10.0, metadata={"range": (1e-6, None)})  # of the Gaussian kernel

    about: ClassVar[About] = About(
        "CMMD: squared MMD with a Gaussian kernel of bandwidth 10 on unit-length features, times 1000.",
        paper="Jayasumana et al., Rethinking FID: Towards a Better Evaluation Metric for Image Generation, CVPR 2024",
        url="https://arxiv.org/abs/2401.09603",
    )

    def value(self, features: Tensor, reference: Tensor | None = None, groups: Sequence[object] | None = None) -> float:
        """Distance of features (n, d) to reference (m, d), each scaled to length 1."""
        pair = checked_pair(features, reference, 2, "cmmd")
        x, y = (torch.nn.functional.normalize(part, dim=1) for part in pair)
        return 1000 * mmd2(x, y, self._kernel, unbiased=False)

    def subsets(self, features: Tensor, reference: Tensor | None) -> Subset:
        """Return a function from row numbers to the distance of these rows."""
        pair = checked_pair(features, reference, 2, "cmmd")
        x, y = (torch.nn.functional.normalize(part, dim=1) for part in pair)
        to_y, constant = between(x, y, self._kernel) / len(y), mean_within(y, self._kernel, False)
        value = mmd_subsets(self._kernel(x, x), to_y, constant, unbiased=False)
        return lambda rows: 1000 * value(rows)

    def _kernel(self, x: Tensor, y: Tensor) -> Tensor:
        return gaussian(x, y, self.bandwidth)
