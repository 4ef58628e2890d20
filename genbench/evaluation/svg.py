"""Figures as SVG inside the page; colours come from its style sheet, so that they follow light and dark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, floor, isnan, log10

from genbench.evaluation.figures import Figure, Point
from genbench.evaluation.markup import Html, join, tag
from genbench.evaluation.numbers import Style
from genbench.evaluation.statistics import Estimate

WIDTH, HEIGHT = 420.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 10.0, 40.0
COLOURS = 8
ROOM = 26.0  # for a tick's label
STEP = 3.0  # between series, so that intervals at one cost stand side by side
SHAPES: tuple[Callable[[float, float], Html], ...] = (
    lambda x, y: tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=4.5, class_="mark"),
    lambda x, y: tag("rect", x=f"{x - 4:.1f}", y=f"{y - 4:.1f}", width=8, height=8, class_="mark"),
    lambda x, y: tag("path", d=f"M{x:.1f} {y - 5.5:.1f}l5.5 9.5h-11z", class_="mark"),
    lambda x, y: tag("path", d=f"M{x:.1f} {y - 6:.1f}l6 6-6 6-6-6z", class_="mark"),
)


@dataclass(frozen=True)
class Scale:
    """Maps values in [low, high] to [start, stop] in the drawing; `log` on a logarithmic axis."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.stop - self.start)


def cost_figure(figure: Figure) -> Html:
    """Draw a metric against network evaluations per picture (logarithmic), with intervals and a legend."""
    x, y = scales(figure.points)
    drawn = [
        _series(i, series.points, replace(x, start=x.start + by, stop=x.stop + by), y, figure.style)
        for i, (series, by) in enumerate(zip(figure.series, _beside(figure), strict=True))
    ]
    title = f"{figure.metric} against network evaluations per picture"
    image = tag("svg", *_axes(x, y, figure), *drawn, viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img", aria_label=title)
    entries = [tag("li", _swatch(i), series.label) for i, series in enumerate(figure.series)]
    return tag("figure", tag("figcaption", figure.label), image, tag("ul", *entries, class_="legend"))


def _beside(figure: Figure) -> list[float]:
    """How far each series is moved sideways, where several have a point at one cost."""
    costs, count = [point.nfe for point in figure.points], len(figure.series)
    step = STEP if len(set(costs)) < len(costs) else 0.0
    return [step * (i - (count - 1) / 2) for i in range(count)]


def scales(points: Sequence[Point]) -> tuple[Scale, Scale]:
    """Return the axes that hold every point and interval, with some room."""
    costs = [point.nfe for point in points]
    bounds = [v for p in points for v in (p.estimate.mean, p.estimate.low, p.estimate.high) if not isnan(v)]
    low, high = min(bounds), max(bounds)
    room = (high - low) * 0.06 or abs(high) * 0.06 or 1.0
    x = Scale(min(costs) / 1.15, max(costs) * 1.15, LEFT, WIDTH - RIGHT, log=True)
    return x, Scale(low - room, high + room, HEIGHT - BOTTOM, TOP)


def linear_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers (1, 2 or 5 times a power of ten apart) in [low, high], at most about `most`."""
    raw = (high - low) / most
    power = 10.0 ** floor(log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    return [round(i * step, 12) for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def cost_ticks(x: Scale, costs: Sequence[float]) -> list[float]:
    """Return the costs themselves where their labels have room; else 1, 2 and 5 times powers of ten on the axis, or
    evenly spaced numbers where those are fewer than two.
    """
    if all(x(b) - x(a) >= ROOM for a, b in pairwise(costs)):
        return list(costs)
    low, high = x.low, x.high
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    ticks = [m * 10.0**k for k in decades for m in (1, 2, 5) if low <= m * 10.0**k <= high]
    return ticks if len(ticks) > 1 else linear_ticks(low, high, 4)


def _axes(x: Scale, y: Scale, figure: Figure) -> list[Html]:
    bottom = HEIGHT - BOTTOM
    lines: list[Html] = []
    for value in linear_ticks(y.low, y.high):
        lines.append(_line(LEFT, y(value), WIDTH - RIGHT, y(value), "grid"))
        lines.append(_text(LEFT - 6, y(value) + 4, f"{value * figure.style.factor:.6g}", "end"))
    for value in cost_ticks(x, sorted({point.nfe for point in figure.points})):
        lines.append(_line(x(value), bottom, x(value), bottom + 4, "axis"))
        lines.append(_text(x(value), bottom + 17, f"{value:g}", "middle"))
    lines.append(_line(LEFT, bottom, WIDTH - RIGHT, bottom, "axis"))
    lines.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, "network evaluations per picture", "middle"))
    return lines


def _series(index: int, points: Sequence[Point], x: Scale, y: Scale, style: Style) -> Html:
    path = " ".join(f"{x(p.nfe):.1f},{y(p.estimate.mean):.1f}" for p in points)
    line = [tag("polyline", points=path, class_="series")] if len(points) > 1 else []
    return tag("g", *line, *(_point(index, point, x, y, style) for point in points), class_=f"s{index % COLOURS}")


def _point(index: int, point: Point, x: Scale, y: Scale, style: Style) -> Html:
    found, at = point.estimate, x(point.nfe)
    value = " ".join(part for part in style.value(found) if part)
    told = f"{point.chain}: {value} at {point.nfe:g} evaluations"
    bar = [] if isnan(found.low) else [_line(at, y(found.low), at, y(found.high), "series")]
    return tag("g", tag("title", told), *bar, SHAPES[index % len(SHAPES)](at, y(found.mean)))


def _swatch(index: int) -> Html:
    shape = SHAPES[index % len(SHAPES)](8, 8)
    return tag("svg", tag("g", shape, class_=f"s{index % COLOURS}"), viewBox="0 0 16 16", aria_hidden="true")


def interval(found: Estimate, reach: float) -> Html:
    """Draw an interval around zero in a table cell; `reach` is the largest bound of the column, above 0."""
    if isnan(found.low):
        return Html("")
    x = Scale(-reach, reach, 4, 140)
    parts = [_line(x(0), 0, x(0), 18, "axis"), _line(x(found.low), 9, x(found.high), 9, "series")]
    parts.append(tag("circle", cx=f"{x(found.mean):.1f}", cy=9, r=3.5, class_="mark"))
    return tag("svg", tag("g", *parts, class_="s1"), viewBox="0 0 144 18", class_="interval", aria_hidden="true")


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    return tag("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=kind)


def _text(x: float, y: float, words: str, anchor: str) -> Html:
    return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def all_figures(figures: Sequence[Figure]) -> Html:
    """Return every figure side by side; empty without any."""
    return tag("div", join(map(cost_figure, figures)), class_="charts") if figures else Html("")
