"""The points of a rendering's inverted trajectory: which ones, and how the first is reached."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genbench.scenes.scores import Sight


@dataclass(frozen=True)
class Times:
    """Whole timesteps s <= mu <= t."""

    s: int
    mu: int
    t: int


def times_of(
    sight: Sight,
    warm: float,
    ratio: float,
    interval: tuple[float, float],
    t_min: float,
    t_max: tuple[float, float],
) -> Times:
    """t evenly below a largest time that falls while `warm` goes from 1 to 0; s an interval below it; mu between.

    Indices count as in the released code, whose list of timesteps begins at 1.
    """
    count = sight.prior.count
    gap = int(count * (interval[1] + warm * (interval[0] - interval[1])) + 1e-9)
    low, high = int(count * t_min), int(count * (t_max[1] + warm * (t_max[0] - t_max[1])) + 1e-9)
    t = int(torch.randint(low, max(low + 1, high), (1,), generator=sight.generator))
    s = max(t - gap, 0)
    mu = round(s + ratio * (t - s))
    return Times(*(min(index + 1, count - 1) for index in (s, mu, t)))


def inverted(sight: Sight, noise: Tensor, until: int, stride: float, strides: int) -> Tensor:
    """z taken along the network's own path to timestep `until`, told nothing: coarse DDIM inversion.

    It begins with a little noise at a timestep at most `strides` strides below, which is nearly always the first.
    """
    prior, step = sight.prior, max(1, int(sight.prior.count * stride))
    here = max(until - step * strides, 1)
    x = prior.noised(sight.z, noise, _rows(here, sight.z))
    while here < until:
        there = min(here + step, until)
        at, to = _rows(here, x), _rows(there, x)
        (eps,) = prior.eps((x, at, sight.texts.empty))
        x, here = prior.moved(x, eps, at, to), there
    return x


def _rows(index: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), index, device=x.device)
