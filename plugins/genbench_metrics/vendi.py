"""Vendi score: the effective number of different pictures (Friedman and Dieng, arXiv:2210.02410)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from genbench.kinds import About
from genbench_metrics.features import checked
from genbench_metrics.subsets import Subset, vendi_subsets


def vendi_score(x: Tensor) -> float:
    """exp of the entropy of the eigenvalues of K / n, K the cosine similarities of x (n, d); in [1, min(n, d)]."""
    unit = torch.nn.functional.normalize(x, dim=1)
    gram = unit @ unit.T if len(unit) < unit.shape[1] else unit.T @ unit  # both have the same non-zero eigenvalues
    shares = torch.linalg.eigvalsh(gram / len(unit)).clamp(min=0)
    return float(torch.special.entr(shares).sum().exp())


@dataclass(frozen=True)
class Vendi:
    """Diversity of a set in an encoder's features, larger is more diverse; with groups, the mean over groups."""

    bounds: ClassVar[tuple[float, float]] = (1.0, inf)
    larger_is_better: ClassVar[bool] = True
    about: ClassVar[About] = About(
        "Vendi score: the effective number of different pictures in a set.",
        paper="Friedman and Dieng, The Vendi Score: A Diversity Evaluation Metric for Machine Learning, TMLR 2023",
        url="https://arxiv.org/abs/2210.02410",
    )

    def value(self, features: Tensor, reference: Tensor | None = None, groups: Sequence[object] | None = None) -> float:
        """Score of features (n, d); `groups` (n,) averages the scores of the groups (diversity within a prompt)."""
        x = checked(features, 1, "vendi")
        if groups is None:
            return vendi_score(x)
        rows: dict[object, list[int]] = {}
        for row, group in enumerate(groups):
            rows.setdefault(group, []).append(row)
        return sum(vendi_score(x[members]) for members in rows.values()) / len(rows)

    def subsets(self, features: Tensor, reference: Tensor | None) -> Subset:
        """Return a function from row numbers to the score of these rows; no reference takes part."""
        return vendi_subsets(checked(features, 1, "vendi"))
