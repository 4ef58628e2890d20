"""What a picture costs in network evaluations, as the schedule and the plugins state it before anything is drawn.

A plugin states its cost with a method `evaluations(plain: int, ctx: Context) -> int`: the evaluations of one picture
with it, where one without it takes `plain` (guidance counted as two). A step wrapper is asked also for parts of a walk:
then the other steps of `ctx.schedule.evaluations` are empty, and `plain` is what is left. A plugin that says `timed`
leaves the number to the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

from genbench.chain import Chain
from genbench.kinds import Context, Level


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
    """Network evaluations of one picture, or of one scene, with the plugins that state theirs."""
    scene: Any = chain.scene
    if scene is not None:
        return scene.evaluations(0, ctx) if states_cost(scene) else 0
    walk = trajectory_evaluations(chain, ctx)
    search: Any = chain.search
    return search.evaluations(walk, priced(chain, ctx)) if states_cost(search) else walk


def priced(chain: Chain, ctx: Context) -> Context:
    """Return a context in which `price` knows the plugins of a run."""
    return replace(ctx, price=partial(_part_of_walk, chain))


def price(ctx: Context, since: int = 0, until: int | None = None) -> int:
    """Evaluations of one row's walk that begins at outer step `since` and stops at `until` (default: the end)."""
    return (ctx.price or partial(_part_of_walk, Chain()))(ctx, since, ctx.schedule.steps if until is None else until)


def _part_of_walk(chain: Chain, ctx: Context, since: int, until: int) -> int:
    """What precedes the first step (noise transforms that evaluate) belongs to walks from step 0."""
    part = _masked(ctx, since, until)
    evaluations = plain_evaluations(part)
    stating: list[Any] = [plugin for plugin in chain.steps if states_cost(plugin)]
    if stating:
        singles = [_masked(ctx, i, i + 1, fresh=False) for i in range(ctx.schedule.steps)]
        whole = _stated(stating, ctx)
        additive = sum(_stated(stating, single) for single in singles) == whole
        evaluations = _stated(stating, part) if additive else round(whole * evaluations / plain_evaluations(ctx))
    for plugin in filter(states_cost, chain.noise if since == 0 < until else ()):
        evaluations = cast(Any, plugin).evaluations(evaluations, ctx)
    return evaluations


def _stated(wrappers: list[Any], ctx: Context) -> int:
    evaluations = plain_evaluations(ctx)
    for plugin in wrappers if evaluations else ():
        evaluations = plugin.evaluations(evaluations, ctx)
    return evaluations


def _masked(ctx: Context, since: int, until: int, fresh: bool = True) -> Context:
    """The context of a part of the walk: the other steps evaluate nothing."""
    levels = [each if since <= i < until else () for i, each in enumerate(ctx.schedule.evaluations)]
    if fresh and 0 < since < until:
        levels[since] = _entered(ctx, since)
    return replace(ctx, schedule=replace(ctx.schedule, evaluations=tuple(levels)))


def _entered(ctx: Context, index: int) -> tuple[Level, ...]:
    """Network calls of the first step of a walk that begins midway; some solvers warm up wherever they begin."""
    entered: Callable[..., tuple[Level, ...]] | None = getattr(ctx.sampler, "entered", None)
    return ctx.schedule.evaluations[index] if entered is None else entered(ctx.schedule, index)


def unstated(chain: Chain) -> tuple[Any, ...]:
    """The plugins that may add network evaluations and do not say how many.

    Most noise transforms add none and say nothing; those that add some state it.
    """
    may = (*chain.steps, *filter(None, (chain.search, chain.scene)))
    return tuple(plugin for plugin in may if not states_cost(plugin))


def states_cost(plugin: object) -> bool:
    """Whether a plugin has a method `evaluations`, and no clock (`timed`) that decides instead."""
    return callable(getattr(plugin, "evaluations", None)) and not getattr(plugin, "timed", False)
