"""`search.budget=200nfe` or `30s`: how many candidates fit."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from genbench.errors import UsageError
from genbench.kinds import Space

_TEXT = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>nfe|s)")


@dataclass(frozen=True)
class Budget:
    """Network evaluations (guidance counted as two) or seconds of one picture; None where that is not limited."""

    nfe: int | None = None
    seconds: float | None = None


def parse(text: str) -> Budget:
    """Read `200nfe`, `30s` or nothing. Raises UsageError for a plain number, another unit, or zero."""
    if not text:
        return Budget()
    found = _TEXT.fullmatch(text.strip().lower())
    if found is None:
        unit = " needs a unit" if re.fullmatch(r"[0-9.]+", text.strip()) else " is no budget"
        raise UsageError(
            f"search.budget={text}{unit}: write {text}nfe for network evaluations or {text}s for seconds of one picture"
            if "unit" in unit
            else f"search.budget={text}{unit}: write 200nfe for network evaluations or 30s for seconds of one picture"
        )
    number = float(found["number"])
    whole = found["unit"] == "s" or number == int(number)
    if number <= 0 or not whole:
        raise UsageError(f"search.budget={text}: evaluations are a whole number above 0, seconds a number above 0")
    return Budget(seconds=number) if found["unit"] == "s" else Budget(nfe=int(number))


def largest(fits: Callable[[int], bool], least: int, most: int | None) -> int | None:
    """Return the largest whole number in [least, most] that fits, None where not even the least does; `fits` holds up
    to some number and not beyond.
    """
    if not fits(least):
        return None
    low, step = least, 1
    while (most is None or low + step <= most) and fits(low + step):
        low, step = low + step, step * 2
    while step > 1:
        step //= 2
        if (most is None or low + step <= most) and fits(low + step):
            low += step
    return low


@dataclass
class Allowance:
    """What is left of a budget in seconds. `reserve`: evaluations that are still owed at the end (a final walk)."""

    seconds: float | None = None
    reserve: int = 0
    clock: Callable[[], float] = time.perf_counter
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def left(self, space: Space) -> float:
        """Evaluations that fit into the time left, at the speed so far; endless without a limit or a measurement."""
        if self.seconds is None or space.spent == 0:
            return float("inf")
        passed = self.clock() - self.began
        return (self.seconds - passed) * space.spent / max(passed, 1e-9) - self.reserve
