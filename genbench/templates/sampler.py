"""The plugin `newname`: a second-order sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from genbench import solvers
from genbench.kinds import About, Context, Denoise, Model, Schedule, State
from genbench.options import Range


@dataclass(frozen=True)
class Newname:
    """DDIM with its prediction extrapolated from the last two (Adams-Bashforth)."""

    order: Annotated[float, Range(0, 1)] = 0.5  # weight of the extrapolation; 0 is DDIM

    about: ClassVar[About] = About(
        "One line: what this sampler does differently.",
        contract=1,
        paper="Author et al., Title",
        url="",
        license="",
        cost="1 x plain",
    )

    def schedule(self, steps: int, model: Model, shape: tuple[int, ...]) -> Schedule:
        """Visit the levels of the model's own sampler, with one evaluation at each."""
        base = model.sampler.schedule(steps, model, shape)
        return Schedule(base.levels, tuple((level,) for level in base.levels[:-1]), base.init_scale)

    def step(self, state: State, denoise: Denoise, ctx: Context) -> State:
        """Return the state after outer step `state.index`; what has to be remembered goes into `memory`."""
        here, there = ctx.schedule.levels[state.index], ctx.schedule.levels[state.index + 1]
        eps = denoise(state.x, here).eps
        ahead = eps + self.order * (eps - state.memory.get("eps", eps))
        x = solvers.ddim(state.x, ahead, here.alpha, here.sigma, there.alpha, there.sigma)
        return state.replace(x=x, index=state.index + 1, memory={"eps": eps})
