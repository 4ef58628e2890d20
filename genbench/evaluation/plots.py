"""Figures for a paper: each metric against network evaluations, and differences of chains, as SVG and PDF.

Text stays text (fonts are not drawn as paths), sizes are those of a column, files are the same for the same numbers.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from genbench import files
from genbench.errors import MissingDependency
from genbench.evaluation.figures import Figure as Shown, Series, figures
from genbench.evaluation.lines import Line, Report
from genbench.evaluation.numbers import Style, styles
from genbench.evaluation.statistics import Estimate

Figure = Any  # matplotlib's, whose own types leave most keywords open
Axes = Any

FOLDER = "plots"
FORMATS = ("svg", "pdf")
WIDTH = 3.4  # inches: one column of two
STYLE: Any = {
    "font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.2, "lines.markersize": 4,
    "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "genbench", "pdf.fonttype": 42,
    "axes.grid": True, "grid.color": "0.9", "grid.linewidth": 0.6, "axes.axisbelow": True,
}  # fmt: skip
COLOURS = ("#1c1e21", "#0072b2", "#d55e00", "#008060", "#a0447f", "#8a6d00", "#3a86c8", "#7a4b2a")
MARKERS = "os^D"


def save(report: Report, folder: Path) -> list[Path]:
    """Draw every figure into `folder/plots`; returns the files. Raises MissingDependency without matplotlib."""
    try:
        matplotlib: Any = import_module("matplotlib")
    except ImportError:
        raise MissingDependency("plots need matplotlib: pip install 'genbench[eval]'") from None
    with matplotlib.rc_context(STYLE):
        style = styles(report.lines)
        drawn = {f"{_slug(shown.metric)}-cost": cost_plot(shown) for shown in figures(report)}
        drawn |= {
            f"{_slug(metric)}-difference": difference_plot(lines, style[metric]) for metric, lines in _compared(report)
        }
        (folder / FOLDER).mkdir(exist_ok=True)
        return [path for name, figure in drawn.items() for path in _written(figure, folder / FOLDER / name)]


def cost_plot(shown: Shown) -> Figure:
    """Draw a metric against network evaluations per picture (logarithmic), with 95 % intervals."""
    figure, axes = _blank(2.0 + 0.16 * len(shown.series))
    for i, series in enumerate(shown.series):
        _draw(axes, series, i, shown.style.factor)
    axes.set_xscale("log")
    costs = sorted({point.nfe for point in shown.points})
    axes.set_xticks(costs, [f"{cost:g}" for cost in costs])
    axes.minorticks_off()
    axes.set_xlabel("network evaluations per picture")
    axes.set_ylabel(shown.label)
    figure.legend(loc="outside lower left", ncols=1 if max(len(each.label) for each in shown.series) > 20 else 2)
    return figure


def _draw(axes: Axes, series: Series, index: int, scale: float) -> None:
    x = [point.nfe for point in series.points]
    y = [scale * point.estimate.mean for point in series.points]
    style: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
    spans = _spans([point.estimate for point in series.points], scale)
    axes.errorbar(x, y, yerr=spans, label=series.label, capsize=1.5, elinewidth=0.8, **style)


def difference_plot(lines: Sequence[Line], style: Style) -> Figure:
    """Draw each chain's difference to the one it is compared with, on all prompts, with 95 % intervals around zero."""
    found = [(line, line.difference) for line in lines if line.difference]
    several, count = len({line.against for line, _ in found}) > 1, len(found)
    figure, axes = _blank(0.7 + (0.32 if several else 0.22) * count)
    means = [style.factor * difference.mean for _, difference in found]
    axes.axvline(0.0, color="0.4", linewidth=0.8)
    spans = _spans([difference for _, difference in found], style.factor)
    axes.errorbar(means, range(count), xerr=spans, fmt="o", color=COLOURS[1], capsize=1.5, elinewidth=0.8)
    names = [f"{line.chain}\nagainst {line.against}" if several else line.chain for line, _ in found]
    axes.set_yticks(range(count), names)
    axes.set_ylim(count - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    metric = lines[0].metric
    axes.set_xlabel(f"difference in {f'{metric}, percentage points' if style.rate else style.label(metric)}")
    return figure


def _compared(report: Report) -> list[tuple[str, list[Line]]]:
    lines = [line for line in report.lines if line.difference and line.group == "all"]
    found = [(metric, [line for line in lines if line.metric == metric]) for metric in report.metrics]
    return [(metric, compared) for metric, compared in found if compared]


def _spans(estimates: Sequence[Estimate], scale: float) -> list[list[float]]:
    """How far each interval reaches below and above its mean (nan: none is drawn), rounding below zero left out."""
    spans = [(scale * (e.mean - e.low), scale * (e.high - e.mean)) for e in estimates]
    return [[0.0 if span[side] < 0 else span[side] for span in spans] for side in (0, 1)]


def _blank(height: float) -> tuple[Figure, Axes]:
    from matplotlib import figure as drawing

    figure: Any = drawing.Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _written(figure: Figure, path: Path) -> list[Path]:
    written: list[Path] = []
    for kind in FORMATS:
        encoded = io.BytesIO()
        figure.savefig(encoded, format=kind, metadata={"Date": None} if kind == "svg" else {"CreationDate": None})
        written.append(path.with_name(f"{path.name}.{kind}"))
        files.write_whole(written[-1], encoded.getvalue())
    return written


def _slug(metric: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", metric).strip("-")
