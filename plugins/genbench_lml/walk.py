"""What the steps of one schedule need in plain numbers, worked out once: levels, orders, weights of secants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from genbench.errors import UsageError
from genbench.kinds import Schedule
from genbench_lml.bases import Base, Point, base_gain, orders, points
from genbench_lml.curvature import newton_gain, ritz_value, secant_gain, spectrum_weight

TRUST = 3.0
"""A picture's own weight stays within so many times the scale-free spectrum's."""


@dataclass(frozen=True)
class Walk:
    """A base, its schedule, and for mode=curvature the damping mu; `weights[i]` is step i's with ritz=spectrum."""

    base: Base
    schedule: Schedule
    points: tuple[Point, ...] = ()
    orders: tuple[int, ...] = ()
    mu: float = 0.0
    weights: tuple[float, ...] = ()

    def ratio(self, index: int, back: int = 1) -> float:
        """tau of `back` steps before over tau of this one; inf where the walk began at alpha = 0, and before it."""
        return self.points[index - back].tau / self.points[index].tau if index >= back else math.inf

    def gain(self, index: int, j: Tensor, order: int) -> Tensor:
        """What step `index` lacks along an eigendirection j: the damped Newton gain less what its order gives."""
        r = self.points[index + 1].tau / self.points[index].tau
        return newton_gain(j, r, self.mu) - base_gain(j, self.base.kind, order, r, self.ratio(index))

    def weight(self, index: int, eps: Tensor, history: Sequence[Tensor]) -> float | Tensor:
        """Of eps_before - eps: one number from the scale-free spectrum, or one per row where two steps are known."""
        if len(history) < 2:
            return self.weights[index]
        ratio = self.ratio(index)
        j = ritz_value(history[0] - eps, history[1] - history[0], ratio, self.ratio(index, 2))
        weight = self.gain(index, j, self.orders[index]) / (secant_gain(j, ratio) - 1)
        reach = TRUST * abs(self.weights[index])
        return weight.clamp(-reach, reach).to(eps.dtype)


def laid_out(base: Base, schedule: Schedule) -> Walk:
    """Return the walk of the released transform: no curvature."""
    return Walk(base, schedule, points(schedule), orders(base, schedule.steps))


def weighed(walk: Walk, mu: float) -> Walk:
    """Return the walk with its secants' weights. Raises UsageError for a base of order 3."""
    if max(walk.orders) > 2:
        raise UsageError("lml: the model's own solver has order 3, mode=curvature corrects 1 and 2; name lml.base=")
    damped = replace(walk, mu=mu)
    steps = range(1, walk.schedule.steps)
    weights = [spectrum_weight(partial(damped.gain, i, order=walk.orders[i]), walk.ratio(i)) for i in steps]
    return replace(damped, weights=(0.0, *weights))
