"""What the figures show, whoever draws them: each metric against network evaluations, one series per chain or curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from genbench.evaluation.lines import Report
from genbench.evaluation.numbers import Style, styles
from genbench.evaluation.statistics import Estimate


@dataclass(frozen=True)
class Point:
    """One chain: its mean evaluations per picture and its value."""

    chain: str
    nfe: float
    estimate: Estimate


@dataclass(frozen=True)
class Series:
    """Points in order of cost; `over` names the setting that varies along them, empty for a single chain."""

    name: str
    over: str
    points: tuple[Point, ...]

    @property
    def label(self) -> str:
        return f"{self.name} (over {self.over})" if self.over else self.name


@dataclass(frozen=True)
class Figure:
    """One metric on all prompts, and how its values are written."""

    metric: str
    style: Style
    series: tuple[Series, ...]

    @property
    def label(self) -> str:
        """The metric with its unit."""
        return f"{self.metric}, %" if self.style.rate else self.style.label(self.metric)

    @property
    def points(self) -> list[Point]:
        return [point for series in self.series for point in series.points]


def figures(report: Report) -> list[Figure]:
    """Return one figure per metric that has two chains or more."""
    cost = {each.chain: each.nfe for each in report.costs if each.pictures}
    style, found = styles(report.lines), list[Figure]()
    for metric in report.metrics:
        lines = [line for line in report.lines if line.metric == metric and line.group == "all"]
        values = [(line, line.common or line.estimate) for line in lines if cost.get(line.chain, 0) > 0]
        points = {x.chain: Point(x.chain, cost[x.chain], value) for x, value in values if isfinite(value.mean)}
        if len(points) > 1:
            found.append(Figure(metric, style[metric], tuple(_series(report, points))))
    return found


def _series(report: Report, points: dict[str, Point]) -> Sequence[Series]:
    curves = [[points[chain] for chain in curve.chains if chain in points] for curve in report.curves]
    drawn = [
        Series(curve.name, curve.over, tuple(along))
        for curve, along in zip(report.curves, curves, strict=True)
        if len(along) > 1
    ]
    on_curves = {point.chain for series in drawn for point in series.points}
    order = list(points)
    alone = [Series(chain, "", (point,)) for chain, point in points.items() if chain not in on_curves]
    return sorted([*drawn, *alone], key=lambda series: min(order.index(point.chain) for point in series.points))
