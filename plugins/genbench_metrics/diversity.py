"""Diversity within a prompt: how unlike each other the pictures of one prompt are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genbench.errors import UsageError
from genbench.kinds import About
from genbench_metrics.features import checked


def mean_distance(x: Tensor) -> float:
    """Mean of 1 - cosine over the pairs of n >= 2 rows of x (n, d), in [0, 2].

    The sum of all cosines is the squared length of the sum of unit rows; n of them are of a row with itself.
    """
    n, unit = len(x), torch.nn.functional.normalize(x, dim=1)
    return float(1 - (unit.sum(0).square().sum() - n) / (n * (n - 1)))


@dataclass(frozen=True)
class Diversity:
    """Mean of 1 - cosine between pictures of one prompt in an encoder's features, averaged over prompts; in [0, 2]."""

    bounds: ClassVar[tuple[float, float]] = (0.0, 2.0)
    larger_is_better: ClassVar[bool] = True
    about: ClassVar[About] = About(
        "Diversity within a prompt: mean of 1 - cosine between its pictures, averaged over prompts."
    )

    def value(self, features: Tensor, reference: Tensor | None = None, groups: Sequence[object] | None = None) -> float:
        """Of features (n, d); `groups` (n,) are the prompts, one for all where they are None.

        A prompt with one picture does not count; raises UsageError where every prompt has one.
        """
        x = checked(features, 2, "diversity")
        rows: dict[object, list[int]] = {}
        for row, group in enumerate(groups or [None] * len(x)):
            rows.setdefault(group, []).append(row)
        found = [mean_distance(x[members]) for members in rows.values() if len(members) > 1]
        if not found:
            raise UsageError("diversity needs two or more pictures of a prompt; draw more seeds, seeds=0..3")
        return sum(found) / len(found)
