"""What walks and parts of walks cost, by the schedule and by what plugins state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from genbench import cost
from genbench.chain import Chain
from genbench.kinds import About, Context, Step
from genbench.testing import toy_context

STEPS = 10


@dataclass(frozen=True)
class Doubling:
    """A wrapper that evaluates the first steps twice, and says so by the schedule it is shown."""

    until: int = 4
    about: ClassVar[About] = About("Doubles.")

    def evaluations(self, plain: int, ctx: Context) -> int:
        return plain + 2 * sum(1 for levels in ctx.schedule.evaluations[: self.until] if levels)

    def wrap_step(self, step: Step, ctx: Context) -> Step:
        return step


@dataclass(frozen=True)
class Opaque(Doubling):
    """The same, of which only the total is known."""

    def evaluations(self, plain: int, ctx: Context) -> int:
        return plain + 2 * self.until


@dataclass(frozen=True)
class Preparing:
    about: ClassVar[About] = About("Evaluates before the walk.")

    def evaluations(self, plain: int, ctx: Context) -> int:
        return plain + 3

    def transform_noise(self, start: Any, ctx: Context) -> Any:
        return start


def ctx() -> Context:
    return toy_context([1], steps=STEPS)


def priced(*steps: Any, noise: tuple[Any, ...] = ()) -> Context:
    return cost.priced(Chain(steps=steps, noise=noise), ctx())


def test_parts_of_a_plain_walk() -> None:
    assert cost.price(ctx()) == cost.plain_evaluations(ctx()) == 20
    assert cost.price(ctx(), 3, 7) == 8 and cost.price(ctx(), 7) == 6 and cost.price(ctx(), 4, 4) == 0


def test_a_wrapper_that_reads_the_schedule_is_priced_step_by_step() -> None:
    asked = priced(Doubling())
    assert cost.price(asked) == 28
    assert [cost.price(asked, i, i + 1) for i in range(STEPS)] == [4] * 4 + [2] * 6
    assert cost.price(asked, 2, 6) == 2 * 4 + 2 * 2


def test_a_wrapper_that_knows_its_total_alone_is_spread_evenly() -> None:
    asked = priced(Opaque())
    assert cost.price(asked) == 28 and cost.price(asked, 5) == 14


def test_what_precedes_the_walk_belongs_to_its_first_part() -> None:
    asked = priced(Doubling(), noise=(Preparing(),))
    assert (
        cost.price(asked) == 31 == cost.trajectory_evaluations(Chain(steps=(Doubling(),), noise=(Preparing(),)), ctx())
    )
    assert cost.price(asked, 0, 1) == 7 and cost.price(asked, 1, 2) == 4 and cost.price(asked, 0, 0) == 0


def test_another_schedule_is_priced_by_the_same_plugins() -> None:
    short = toy_context([1], steps=3)
    asked = replace(priced(Doubling()), schedule=short.schedule)
    assert cost.price(asked) == 3 * 4


@dataclass(frozen=True)
class Twice:
    about: ClassVar[About] = About("Searches.")
    timed: bool = False

    def evaluations(self, plain: int, ctx: Context) -> int:
        return plain + cost.price(ctx, 5)

    def search(self, space: Any) -> Any: ...


def test_a_search_is_told_the_price_of_parts() -> None:
    assert cost.picture_evaluations(Chain(search=Twice(), steps=(Doubling(8),)), ctx()) == 36 + (10 + 6)


def test_a_search_that_a_clock_ends_states_nothing() -> None:
    timed: Any = Twice(timed=True)
    assert cost.picture_evaluations(Chain(search=timed), ctx()) == 20
    assert cost.unstated(Chain(search=timed)) == (timed,) and cost.unstated(Chain(search=Twice())) == ()


@pytest.mark.parametrize(("sampler", "midway"), [("plms", 4), ("ddim", 2), ("heun", 4)])
def test_solvers_that_warm_up_are_priced_where_they_begin(sampler: str, midway: int) -> None:
    from genbench.backbones.toy import Ancestral
    from genbench.schedulers import named_sampler

    asked = ctx()
    walker = named_sampler(sampler, Ancestral().scheduler)
    asked = replace(asked, sampler=walker, schedule=walker.schedule(STEPS, asked.model, (3, 8, 8)))
    assert cost.price(asked, 5, 6) == midway
