"""What the prior is told of a scene, seen from where the camera stands: a prompt with words for front, side and back.

The words' encodings are blended by the azimuth (arXiv:2311.11284, its code), or the nearest is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genbench.errors import UsageError
from genbench.scenes.cameras import Cameras, front_side_back
from genbench.scenes.prior import Prior, Told

OVERHEAD_DEG = 45.0
"""From this elevation on a camera looks from above (a fourth word)."""


@dataclass(frozen=True)
class Texts:
    """What the network is told of b pictures: the prompt as seen from there, what to avoid, and nothing at all."""

    prompt: Told
    negative: Told
    empty: Told


@dataclass(frozen=True)
class Prompting:
    """Encoded texts of one scene: `views` has a row for each word (one without words), the others one row each."""

    views: Told
    negative: Told
    empty: Told
    blend: bool = True

    @staticmethod
    def of(prior: Prior, prompt: str, negative: str, words: Sequence[str], blend: bool = True) -> Prompting:
        """Encode once. `words` are none, three (front, side, back) or four (from above). Raises UsageError."""
        check_words(words)
        texts = [f"{prompt}, {word}" if word else prompt for word in words] or [prompt]
        with torch.no_grad():
            return Prompting(prior.prompt(texts), prior.prompt([negative]), prior.prompt([""]), blend)

    def texts(self, cameras: Cameras) -> Texts:
        """What is told of the pictures of these cameras."""
        weights = self.weights(cameras)
        rows = [0] * len(cameras)
        return Texts(blended(self.views, weights), repeated(self.negative, rows), repeated(self.empty, rows))

    def weights(self, cameras: Cameras) -> Tensor:
        """How much of each view's encoding a camera takes, (c, views), rows sum to 1."""
        count = len(next(iter(self.views.values())))
        if count == 1:
            return torch.ones(len(cameras), 1)
        around = torch.tensor([front_side_back(float(azimuth)) for azimuth in cameras.azimuth_deg])
        above = (cameras.elevation_deg >= OVERHEAD_DEG).float()[:, None]
        weights = around if count == 3 else torch.cat([around * (1 - above), above], 1)
        return weights if self.blend else torch.eye(count)[weights.argmax(1)]


def check_words(words: Sequence[str]) -> None:
    """Refuse a number of words that stand for no sides. Raises UsageError."""
    if len(words) not in (0, 3, 4):
        raise UsageError(f"view_words= are three (front, side, back), four (from above) or none, not {len(words)}")


def blended(told: Told, weights: Tensor) -> Told:
    """Rows mixed by `weights` (c, n); masks and numbers that are no encodings come from the row of most weight."""
    nearest = weights.argmax(1)
    return {
        name: torch.einsum("cn,n...->c...", weights.to(rows), rows) if _mixes(rows) else rows[nearest.to(rows.device)]
        for name, rows in told.items()
    }


def _mixes(rows: Tensor) -> bool:
    return rows.is_floating_point() and not torch.equal(rows, rows[:1].expand_as(rows))


def repeated(told: Told, rows: Sequence[int]) -> Told:
    """Select or repeat rows."""
    return {name: value[list(rows)] for name, value in told.items()}
