"""Which noise levels a distillation trains at: published laws, on the levels of the model's own schedule.

A law draws one number per sample; the level is the one of the schedule that comes nearest. sd draws levels evenly in
[2 %, 98 %] of the time (arXiv:2405.14867, arXiv:2406.01561), edm draws sigma: log-normal for the network that learns to
denoise and Karras' grid for the student (arXiv:2404.04057, its training code), flow a logit-normal (arXiv:2509.25127).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genbench.kinds import Level, Model

Law = Literal["sd", "edm", "flow"]
Purpose = Literal["denoising", "student"]
RHO, SIGMA_MIN, SIGMA_MAX, LATEST = 7.0, 0.002, 80.0, 0.8


@dataclass(frozen=True)
class Laws:
    """The levels (n, noisiest first) of a schedule, and the law they are drawn by."""

    levels: tuple[Level, ...]
    law: Law

    @classmethod
    def of(cls, levels: Sequence[Level], model: Model, law: Law | None = None) -> Laws:
        """The named law; by default the one of the model's kind: flow for rectified flows, sd for the rest."""
        own: Law = "flow" if model.prediction_type == "flow_prediction" else "sd"
        return cls(tuple(levels), law or own)

    def rows(self, purpose: Purpose, generators: Sequence[torch.Generator]) -> list[int]:
        """One level's number for every sample, from the sample's own generator."""
        draw = {"sd": self._even, "edm": self._karras, "flow": self._logit_normal}[self.law]
        return [draw(purpose, generator) for generator in generators]

    def _even(self, purpose: Purpose, generator: torch.Generator) -> int:
        count = len(self.levels)
        first, last = round(0.02 * count), round(0.98 * count)
        return int(torch.randint(first, max(last, first + 1), (1,), generator=generator))

    def _karras(self, purpose: Purpose, generator: torch.Generator) -> int:
        if purpose == "denoising":
            sigma = torch.exp(-1.2 + 1.2 * torch.randn(1, dtype=torch.float64, generator=generator))
        else:
            sigma = karras_sigma(LATEST * torch.rand(1, dtype=torch.float64, generator=generator))
        return int((self._each(lambda level: level.sigma / level.alpha).log() - sigma.log()).abs().argmin())

    def _logit_normal(self, purpose: Purpose, generator: torch.Generator) -> int:
        drawn = torch.randn(1, dtype=torch.float64, generator=generator)
        sigma = torch.sigmoid(torch.log(torch.tensor(2.0)) + 1.6 * drawn)
        return int((self._each(lambda level: level.sigma / (level.alpha + level.sigma)) - sigma).abs().argmin())

    def _each(self, of: Callable[[Level], Tensor]) -> Tensor:
        """A number of every level, (n,)."""
        return torch.stack([torch.as_tensor(of(level)).double().cpu() for level in self.levels])


def karras_sigma(u: Tensor) -> Tensor:
    """The student's level in arXiv:2404.04057: u = 0 is the cleanest, 0.002; its code draws u up to 0.8, 24.41."""
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    return (high + (1 - u) * (low - high)) ** RHO
