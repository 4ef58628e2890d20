"""What a picture costs in network evaluations, as the schedule and the plugins state it before anything is drawn.

A plugin states its cost with a method `evaluations(plain: int, ctx: Context) -> int`: the evaluations of one picture
with it, where one without it takes `plain` (guidance counted as two).
"""

from __future__ import annotations

from typing import Any, cast

from genbench.chain import Chain
from genbench.kinds import Context


def plain_evaluations(ctx: Context) -> int:
    """Network evaluations of one picture without plugins."""
    return sum(len(levels) for levels in ctx.schedule.evaluations) * rows_per_call(ctx)


def rows_per_call(ctx: Context) -> int:
    """Evaluations of one call at the run's guidance: 2 with classifier-free guidance at any scale but 0 and 1."""
    return len(ctx.conditioning.halves(ctx.model.guidance_weight(ctx.guidance_scale)))


def trajectory_evaluations(chain: Chain, ctx: Context) -> int:
    """Network evaluations of one walk from noise to picture with the plugins that state theirs, a search left out."""
    evaluations = plain_evaluations(ctx)
    for plugin in filter(states_cost, (*chain.steps, *chain.noise)):
        evaluations = cast(Any, plugin).evaluations(evaluations, ctx)
    return evaluations


def picture_evaluations(chain: Chain, ctx: Context) -> int:
    """Network evaluations of one picture with the plugins that state theirs."""
    walk = trajectory_evaluations(chain, ctx)
    search: Any = chain.search
    return search.evaluations(walk, ctx) if states_cost(search) else walk


def unstated(chain: Chain) -> tuple[Any, ...]:
    """The plugins that may add network evaluations and do not say how many.

    Most noise transforms add none and say nothing; those that add some state it.
    """
    may = (*chain.steps, *((chain.search,) if chain.search else ()))
    return tuple(plugin for plugin in may if not states_cost(plugin))


def states_cost(plugin: object) -> bool:
    """Whether a plugin has a method `evaluations`."""
    return callable(getattr(plugin, "evaluations", None))
