"""How numbers are written, alike in the terminal, in report.md, on the page and in plots: plain decimals.

All values of one metric have the same decimals, as many as show three significant digits of a typical interval's half
width. What is small throughout (KID on features of unit length) is multiplied by a power of a thousand, which stands
behind the metric's name. Rates are per cent, their differences percentage points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, isfinite, isnan, log10
from statistics import median

from genbench.evaluation.lines import Line
from genbench.evaluation.statistics import Estimate

MOST = 6  # decimals
SMALL = 0.01  # below it, throughout, values are multiplied
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
POINTS = "points"


@dataclass(frozen=True)
class Style:
    """How one metric's values are written: times 10^`power`, with `decimals`; differences with `finer` ones."""

    decimals: int = 1
    finer: int = 1
    power: int = 0
    rate: bool = False

    @property
    def factor(self) -> float:
        return 100.0 if self.rate else 10.0**self.power

    def label(self, metric: str) -> str:
        """The metric's name with its unit, where values are multiplied."""
        return f"{metric} ×10{str(self.power).translate(RAISED)}" if self.power else metric

    def value(self, found: Estimate) -> tuple[str, str]:
        """The mean and its interval as text; the interval is empty where there is none."""
        mean, low, high = (_plain(each * self.factor, self.decimals) for each in (found.mean, found.low, found.high))
        return mean + (" %" if self.rate else ""), "" if isnan(found.low) else f"[{low}, {high}]"

    def difference(self, found: Estimate) -> tuple[str, str]:
        """The same of a difference, with its sign."""
        parts = (found.mean, found.low, found.high)
        mean, low, high = (_plain(each * self.factor, self.finer, "+") for each in parts)
        return mean + (f" {POINTS}" if self.rate else ""), "" if isnan(found.low) else f"[{low}, {high}]"


RATE = Style(rate=True)


def styles(lines: Sequence[Line]) -> dict[str, Style]:
    """Return each metric's style, from its values on all prompts where it has them."""
    found: dict[str, Style] = {}
    for metric in dict.fromkeys(line.metric for line in lines):
        own = [line for line in lines if line.metric == metric]
        whole = [line for line in own if line.group == "all"] or own
        differences = [line.difference for line in whole if line.difference]
        found[metric] = RATE if own[0].rate else fitted([line.estimate for line in whole], differences)
    return found


def fitted(values: Sequence[Estimate], differences: Sequence[Estimate] = ()) -> Style:
    """Return the style that shows these values, and what of their differences is certain, and no more."""
    bounds = [abs(each) for found in values for each in (found.mean, found.low, found.high) if isfinite(each)]
    largest = max(bounds, default=0.0)
    power = -3 * floor(log10(largest) / 3) if 0 < largest < SMALL else 0
    scale = 10.0**power
    halves, finer = (_halves(estimates, scale) for estimates in (values, differences))
    decimals = _decimals(median(halves), 3) if halves else _decimals(largest * scale, 4)
    return Style(decimals, max(decimals, _decimals(median(finer), 2)) if finer else decimals, power)


def _halves(estimates: Iterable[Estimate], scale: float) -> list[float]:
    widths = [(found.high - found.low) / 2 * scale for found in estimates]
    return [width for width in widths if isfinite(width) and width > 0]


def _decimals(size: float, digits: int) -> int:
    """How many decimals show so many significant digits of a number of this size."""
    return min(max(digits - 1 - floor(log10(size)), 0), MOST) if size > 0 else 1


def significant(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, never with an exponent."""
    return _plain(value, _decimals(abs(value), digits)) if isfinite(value) else str(value)


def _plain(value: float, decimals: int, sign: str = "") -> str:
    text = f"{value:{sign}.{decimals}f}"
    return text.lstrip("+-") if isfinite(value) and float(text) == 0 else text


def p_value(p: float) -> str:
    """Two digits of a p value."""
    return "<0.0001" if p < 1e-4 else significant(p, 2) if p < 1 else "1"
