"""Improved precision and recall (Kynkaanniemi et al., arXiv:1904.06991).

A set's manifold is the union of balls around its points, each as large as the distance to the point's k-th nearest
neighbour in the set. Precision is the share of pictures in the reference's manifold, recall the share of the reference
in the pictures' manifold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from genbench.kinds import About
from genbench.options import Range
from genbench_metrics.features import checked_pair

BLOCK = 1024  # rows of a distance matrix held at once
PAPER = "Kynkaanniemi et al., Improved Precision and Recall Metric for Assessing Generative Models, NeurIPS 2019"
Neighbours = Annotated[int, Range(1, 100)]


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (n, m), exactly 0 between equal points."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def radii(x: Tensor, k: int) -> Tensor:
    """Distance of each point of x (n, d) to its k-th nearest other point, (n,); n > k."""
    return torch.cat([distances(rows, x).kthvalue(k + 1, dim=1).values for rows in x.split(BLOCK)])


def covered(points: Tensor, centres: Tensor, reach: Tensor) -> float:
    """Share in [0, 1] of points (n, d) in a ball around some centre (m, d) of radius reach (m,), its edge included."""
    inside = [(distances(rows, centres) <= reach).any(1) for rows in points.split(BLOCK)]
    return float(torch.cat(inside).double().mean())


@dataclass(frozen=True)
class Precision:
    """Share of pictures that look like some reference picture, in [0, 1]: fidelity. Compare at equal n and m."""

    neighbours: Neighbours = 3  # k: which neighbour sets a ball's radius

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    larger_is_better: ClassVar[bool] = True
    about: ClassVar[About] = About(
        "Improved precision: share of pictures within the reference's manifold.",
        paper=PAPER,
        url="https://arxiv.org/abs/1904.06991",
    )

    def value(self, features: Tensor, reference: Tensor | None = None, groups: Sequence[object] | None = None) -> float:
        """Share of features (n, d) covered by reference (m, d), m > neighbours."""
        x, y = checked_pair(features, reference, self.neighbours + 1, "precision")
        return covered(x, y, radii(y, self.neighbours))


@dataclass(frozen=True)
class Recall:
    """Share of reference pictures that look like some picture, in [0, 1]: coverage. Compare at equal n and m."""

    neighbours: Neighbours = 3  # k: which neighbour sets a ball's radius

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    larger_is_better: ClassVar[bool] = True
    about: ClassVar[About] = About(
        "Improved recall: share of the reference within the pictures' manifold.",
        paper=PAPER,
        url="https://arxiv.org/abs/1904.06991",
    )

    def value(self, features: Tensor, reference: Tensor | None = None, groups: Sequence[object] | None = None) -> float:
        """Share of reference (m, d) covered by features (n, d), n > neighbours."""
        x, y = checked_pair(features, reference, self.neighbours + 1, "recall")
        return covered(y, x, radii(x, self.neighbours))
