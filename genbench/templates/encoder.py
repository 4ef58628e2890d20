"""The encoder `newname`: coarse colours of pictures, letters of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch

from genbench.kinds import About
from genbench.options import Range

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Newname:
    """Pictures as grid x grid mean colours; texts as how often each of as many character classes occurs."""

    grid: Annotated[int, Range(1, 16)] = 4  # cells per side; features have 3 * grid * grid dimensions

    about: ClassVar[About] = About(
        "One line: what these features tell apart.",
        contract=1,
        paper="Author et al., Title",
        url="",
        license="",
    )

    def embed_images(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, d)."""
        return torch.nn.functional.adaptive_avg_pool2d(images, self.grid).flatten(1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed n texts as (n, d), the same d as pictures."""
        counts = torch.zeros(len(texts), 3 * self.grid**2)
        for row, text in zip(counts, texts, strict=True):
            for letter in text:
                row[ord(letter) % len(row)] += 1
        return counts
