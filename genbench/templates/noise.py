"""The plugin `newname`: correlates neighbouring pixels of the initial noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from genbench.kinds import About, Context, Start
from genbench.options import Range


@dataclass(frozen=True)
class Newname:
    """Mix each noise value with its left neighbour, keeping unit variance."""

    strength: Annotated[float, Range(0, 1)] = 0.2  # weight of the neighbour; 0 is neutral

    about: ClassVar[About] = About(
        "One line: what this changes and why.",
        contract=1,
        paper="Author et al., Title",
        url="",
        license="",
        cost="1 x plain",
        neutral={"strength": 0.0},
    )

    def transform_noise(self, start: Start, ctx: Context) -> Start:
        """Return a start with other noise, (b, ...) of unit variance; change nothing in place."""
        mixed = start.noise + self.strength * start.noise.roll(1, -1)
        return replace(start, noise=mixed / (1 + self.strength**2) ** 0.5)
