"""What score distillation methods share: what they are asked, how noise levels are drawn, how a gradient is weighed.

A direction is the gradient of a loss with respect to clean latents z that a camera sees; none of it goes through the
network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from genbench.scenes.prior import Prior
from genbench.scenes.prompting import Texts

Weighting = Literal["sds", "uniform", "fantasia3d"]


@dataclass(frozen=True)
class Sight:
    """What a direction is asked about: clean latents `z` (b, ...) of b cameras, and what they are told.

    `progress` in [0, 1) is the share of the iterations that are done; all chance comes from `generator`, on the CPU.
    """

    prior: Prior
    z: Tensor
    texts: Texts
    guidance_scale: float
    progress: float
    generator: torch.Generator

    def noise(self) -> Tensor:
        """Unit noise like z."""
        return torch.randn(self.z.shape, generator=self.generator, dtype=self.z.dtype).to(self.z.device)

    def times(self, low: int, high: int) -> Tensor:
        """A whole timestep in [low, high] for every row, (b,)."""
        drawn = torch.randint(low, max(low, high) + 1, (len(self.z),), generator=self.generator)
        return drawn.to(self.z.device)


Direction = Callable[[Sight], Tensor]
"""The gradient on z, (b, ...), as it is injected; called without autograd."""


@runtime_checkable
class Learning(Protocol):
    """What a direction that learns as it goes has besides: what a checkpoint keeps of it."""

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


def annealed(ends: tuple[float, float], progress: float) -> float:
    """From the first to the second, linear in progress."""
    return ends[0] + (ends[1] - ends[0]) * progress


def bounds(sight: Sight, t_min: tuple[float, float], t_max: tuple[float, float]) -> tuple[int, int]:
    """The least and the largest timestep at this progress, from shares of the schedule; inside the table."""
    count = sight.prior.count
    low, high = (int(count * annealed(ends, sight.progress)) for ends in (t_min, t_max))
    return min(low, count - 1), min(high, count - 1)


def weights(sight: Sight, t: Tensor, weighting: Weighting) -> Tensor:
    """w(t) of timesteps (b,), (b, 1, 1, 1): 1 - alpha_bar (sds), 1, or sqrt(alpha_bar) (1 - alpha_bar)."""
    alpha, variance = sight.prior.alpha(t), sight.prior.sigma(t) ** 2
    match weighting:
        case "sds":
            return variance
        case "uniform":
            return torch.ones_like(variance)
        case "fantasia3d":
            return alpha * variance


def guided(prompt: Tensor, without: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: without + scale (prompt - without)."""
    return without + scale * (prompt - without)
