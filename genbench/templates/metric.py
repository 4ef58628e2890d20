"""The metric `newname`: distance between the means of two sets of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from genbench.kinds import About

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Newname:
    """Euclidean distance between mean features; without a reference, to the origin."""

    weight: float = 1.0  # factor of the value

    about: ClassVar[About] = About(
        "One line: what a small value means.",
        contract=1,
        paper="Author et al., Title",
        url="",
        license="",
    )

    def value(self, features: Tensor, reference: Tensor | None = None, groups: Sequence[object] | None = None) -> float:
        """Features (n, d), reference (m, d); returns one number for the set."""
        mean = features.mean(0) if reference is None else features.mean(0) - reference.mean(0)
        return self.weight * float(mean.norm())
