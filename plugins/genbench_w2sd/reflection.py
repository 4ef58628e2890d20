"""One reflection (arXiv:2502.00473, algorithm 1): a step down with the strong denoiser, the same back with the weak.

    y  = x  moved from level i to level i+1 with eps_S(x)
    x~ = y  moved from level i+1 to level i with eps_W(y)

DDIM's formula moves both ways; on exploding levels it is Euler's step, on those of rectified flow the flow's. In closed
form x~ = x + (sigma_{i+1} alpha_i / alpha_{i+1} - sigma_i) (eps_S - eps_W); the bracket is negative, so x moves along
the difference of the scores, strong minus weak (theorem 1). Everything here is a pure function and draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from genbench.kinds import Denoise, Level, Memory, State
from genbench.sampling import move

Label = Literal["state", "published"]
Bookkeeping = Literal["exact", "published"]

ANCHORS = ("last_sample", "sample")
"""What UniPC's corrector and singlestep solvers remember of the step before, and step from instead of from x."""


def reflect(
    x: Tensor,
    strong: Denoise,
    weak: Denoise,
    levels: Sequence[Level],
    i: int,
    label: Label = "state",
    bookkeeping: Bookkeeping = "exact",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return x~ (b, ...) for x at level i, float32 or better; the networks are asked in `dtype` (default: x's own).

    `label`: what the way back tells the network of y, its own level (`state`) or level i (`published`, eq. 4 of the
    paper). `bookkeeping="published"` moves back by the coefficients of level i+2 to i+1, as the authors' code does
    since diffusers 0.22; i+2 has to exist.
    """
    here, ahead = levels[i], levels[i + 1]
    told = ahead if label == "state" else replace(here, scale=ahead.scale)
    below, above = (ahead, here) if bookkeeping == "exact" else (levels[i + 2], ahead)
    asked = dtype or x.dtype
    y = move(x.to(torch.promote_types(x.dtype, torch.float32)), strong, here, ahead, asked)
    return move(y, weak, below, above, asked, told)


def placed(state: State, x: Tensor, levels: Sequence[Level]) -> State:
    """Put x in the place of the state's own, (b, ...), also for solvers that go on from a point they remember.

    Such a point lies one level back, where a shift of x is as large as sigma is there.
    """
    shift = x - state.x
    carried = {name: _shifted(state, name, shift, levels) for name in ANCHORS if state.memory.get(name) is not None}
    memory: Memory = {**state.memory, **carried} if carried else state.memory
    return state.replace(x=x.to(state.x.dtype), memory=memory)


def _shifted(state: State, name: str, shift: Tensor, levels: Sequence[Level]) -> Tensor:
    before, here = levels[state.index - 1], levels[state.index]
    point: Tensor = state.memory[name]
    return (point + before.sigma / here.sigma * shift).to(point.dtype)
