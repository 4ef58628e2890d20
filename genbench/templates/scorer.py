"""The scorer `newname`: contrast of a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from genbench.kinds import About

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Newname:
    """Standard deviation of a picture's values; knows nothing of the prompt."""

    weight: float = 1.0  # factor of the score

    about: ClassVar[About] = About(
        "One line: what a high score means.",
        contract=1,
        paper="Author et al., Title",
        url="",
        license="",
    )

    def score(
        self, *, images: Tensor, prompts: Sequence[str], rows: Sequence[Mapping[str, object]] | None = None
    ) -> Tensor:
        """Score pictures (b, 3, h, w) in [0, 1]; returns (b,), larger is better."""
        return self.weight * images.flatten(1).std(1)
