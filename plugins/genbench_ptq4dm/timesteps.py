"""At which steps the calibration set is taken: the draw of arXiv:2211.15736 (NDTC), and what it is compared with.

t counts noise levels of the walk that is calibrated for: 0 is the last thing that the network is given, the least
noisy one, and steps - 1 the first, pure noise. NDTC draws t from a normal distribution whose mean lies below the
middle, and clamps it. The paper and its published code differ in how wide it is:

    paper   t ~ N(mean T, T / 2)          "standard deviation sqrt(T / 2)": 4 of 30 steps, 11 of 250
    code    t ~ N(0.4 T, (0.4 T)^2)       12 of 30 steps, 100 of 250; 16 % fall on t = 0 and 7 % on the other end
"""

from __future__ import annotations

from math import floor, sqrt
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["ndtc", "uniform", "one", "images", "noise", "diffused"]
Reading = Literal["paper", "code"]
CODE_SPREAD = 0.4


def deviation(steps: int, reading: Reading) -> float:
    """The standard deviation of NDTC in steps."""
    return sqrt(steps / 2) if reading == "paper" else CODE_SPREAD * steps


def levels(
    kind: Kind, count: int, steps: int, seed: int = 0, *, mean: float = 0.4, reading: Reading = "code", at: float = 0.5
) -> Tensor:
    """The noise level t of each of `count` samples, (count,) int64 in [0, steps - 1], 0 the least noisy.

    `mean` and `at` (the level of `one`) are in units of steps.
    """
    chance = torch.Generator().manual_seed(seed)
    match kind:
        case "ndtc":
            drawn = mean * steps + deviation(steps, reading) * torch.randn(count, generator=chance)
            return drawn.floor().long().clamp(0, steps - 1)
        case "uniform" | "diffused":
            return torch.randint(steps, (count,), generator=chance)
        case "one":
            return torch.full((count,), min(floor(at * steps), steps - 1))
        case "images":
            return torch.zeros(count, dtype=torch.int64)
        case "noise":
            return torch.full((count,), steps - 1)


def outer_steps(t: Tensor, steps: int) -> Tensor:
    """The outer step at which the network is given noise level t: walks begin with the noisiest."""
    return steps - 1 - t
