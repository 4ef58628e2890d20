"""Budgets: what is read, the largest number that fits, what is left of the time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from genbench.errors import UsageError
from genbench_search.budget import Allowance, Budget, largest, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", Budget()), ("200nfe", Budget(nfe=200)), ("30s", Budget(seconds=30.0)), (" 0.5 S", Budget(seconds=0.5))],
)
def test_what_is_read(text: str, expected: Budget) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["200", "30 minutes", "-3s", "nfe", "0s", "1.5nfe", "nan s"])
def test_what_is_not_says_how_to_write_it(text: str) -> None:
    with pytest.raises(UsageError, match="search.budget="):
        parse(text)


@given(st.integers(0, 500), st.integers(0, 3), st.none() | st.integers(0, 400))
def test_the_largest_number_that_fits(limit: int, least: int, most: int | None) -> None:
    fitting = [n for n in range(least, 501 if most is None else max(most, least) + 1) if n <= limit]
    assert largest(lambda n: n <= limit, least, most) == (fitting[-1] if fitting else None)


def test_what_is_left_is_told_in_evaluations_at_the_speed_so_far() -> None:
    times = iter([0.0, 4.0])
    where: Any = SimpleNamespace(spent=8)
    assert Allowance(10.0, reserve=3, clock=lambda: next(times)).left(where) == 6 * 2 - 3
    unmeasured: Any = SimpleNamespace(spent=0)
    assert Allowance(1.0).left(unmeasured) == Allowance().left(where) == float("inf")
