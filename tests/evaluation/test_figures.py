"""Figures: which points they hold, the axes of the drawings in the page, the files for a paper."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from math import log10, nan
from pathlib import Path

import pytest

from genbench.errors import MissingDependency
from genbench.evaluation import plots, svg
from genbench.evaluation.chains import Curve
from genbench.evaluation.figures import figures
from genbench.evaluation.lines import Cost, Line, Report
from genbench.evaluation.numbers import RATE
from genbench.evaluation.statistics import Estimate

CHAINS = {"none steps=5": 10.0, "none steps=10": 20.0, "a <b>": 25.0}


def made(rate: bool = False) -> Report:
    """Three chains, two of them a curve; `a <b>` has no interval."""
    lines = []
    for i, chain in enumerate(CHAINS):
        mean, half = 0.5 + i / 10, nan if "<" in chain else 0.05
        estimate = Estimate(mean, mean - half, mean + half, 100, 50)
        difference = Estimate(i / 10, i / 10 - 0.04, i / 10 + 0.04, 100, 50) if i else None
        lines += [Line("clip", "all", chain, estimate, rate, difference), Line("clip.part", "all", chain, estimate)]
        lines += [Line("clip", "one", chain, estimate, rate)]
    costs = tuple(Cost(chain, 100, 0, nfe, 1.0) for chain, nfe in CHAINS.items())
    curve = Curve("none", "steps", ("none steps=5", "none steps=10"))
    return Report(tuple(lines), (*costs, Cost("failed", 0, 3, nan, nan)), (), (curve,))


def test_one_figure_per_metric_with_curves_joined() -> None:
    (figure,) = figures(made())
    assert [series.label for series in figure.series] == ["none (over steps)", "a <b>"]
    assert [(point.nfe, point.estimate.mean) for point in figure.series[0].points] == [(10.0, 0.5), (20.0, 0.6)]
    assert len(figure.points) == 3


def test_one_chain_alone_makes_no_figure() -> None:
    whole = made()
    assert figures(Report(whole.lines[:1], whole.costs, ())) == []


@pytest.mark.parametrize("span", [(0.0, 1.0), (-0.0018, -0.0014), (3.0, 3.2e6), (99.0, 101.0)])
def test_ticks_are_round_inside_and_neither_few_nor_many(span: tuple[float, float]) -> None:
    ticks = svg.linear_ticks(*span)
    assert 3 <= len(ticks) <= 7 and all(span[0] - 1e-9 <= tick <= span[1] + 1e-9 for tick in ticks)
    step = f"{(ticks[1] - ticks[0]):.6e}"
    assert step[0] in "125" and set(step[2:8]) <= {"0"}


def test_cost_ticks() -> None:
    wide, narrow = svg.Scale(4.0, 120.0, 0.0, 400.0, log=True), svg.Scale(55.0, 70.0, 0.0, 400.0, log=True)
    assert svg.cost_ticks(wide, [8.0, 16.0, 100.0]) == [8.0, 16.0, 100.0]
    assert svg.cost_ticks(wide, [8.0, 8.1, 100.0]) == [5.0, 10.0, 20.0, 50.0, 100.0]
    assert svg.cost_ticks(narrow, [60.0, 60.1]) == [55.0, 60.0, 65.0, 70.0]


def test_points_lie_where_their_values_are() -> None:
    (figure,) = figures(made())
    x, y = svg.scales(figure.points)
    assert x(20.0) - x(10.0) == pytest.approx((svg.WIDTH - svg.LEFT - svg.RIGHT) * log10(2) / log10(x.high / x.low))
    assert y(0.5) > y(0.6) > svg.TOP and x(10.0) > svg.LEFT
    drawn = ElementTree.fromstring(svg.cost_figure(figure))
    line = drawn.find(".//polyline")
    assert line is not None
    corners = [tuple(map(float, corner.split(","))) for corner in line.attrib["points"].split()]
    assert corners == [pytest.approx((x(10.0), y(0.5)), abs=0.06), pytest.approx((x(20.0), y(0.6)), abs=0.06)]


def test_drawings_escape_names_and_tell_values() -> None:
    (figure,) = figures(made(rate=True))
    text = svg.cost_figure(figure)
    drawn = ElementTree.fromstring(text)  # well formed
    titles = [title.text for title in drawn.iter("title")]
    assert (
        titles[0] == "none steps=5: 50.0 % [45.0, 55.0] at 10 evaluations"
        and titles[2] == "a <b>: 70.0 % at 25 evaluations"
    )
    assert "a &lt;b&gt;" in text and "clip, %" in text and len(drawn.findall(".//polyline")) == 1


def test_alike_values_still_have_axes() -> None:
    same = Report(
        tuple(Line("m", "all", chain, Estimate(0.0, nan, nan, 1, 1)) for chain in ("a", "b")),
        (Cost("a", 1, 0, 10.0, 1.0), Cost("b", 1, 0, 10.0, 1.0)),
        (),
    )
    (figure,) = figures(same)
    assert "nan" not in svg.cost_figure(figure)


def test_plots_are_written_as_svg_and_pdf_and_stay_the_same(tmp_path: Path) -> None:
    first = plots.save(made(rate=True), tmp_path)
    assert [path.name for path in first] == [
        "clip-cost.svg",
        "clip-cost.pdf",
        "clip-difference.svg",
        "clip-difference.pdf",
    ]
    before = [path.read_bytes() for path in first]
    assert before[0].startswith(b"<?xml") and before[1].startswith(b"%PDF")
    texts = "".join(ElementTree.fromstring(before[0]).itertext())
    assert "none (over steps)" in texts and "a <b>" in texts and "clip, %" in texts  # text, not outlines
    assert "network evaluations per picture" in texts
    assert [path.read_bytes() for path in plots.save(made(rate=True), tmp_path)] == before


def test_series_with_points_at_one_cost_stand_side_by_side() -> None:
    whole = made()
    (figure,) = figures(Report(whole.lines, tuple(replace(cost, nfe=10.0) for cost in whole.costs[:3]), ()))
    drawn = str(svg.cost_figure(figure))
    marks = re.findall(r'<circle cx="([\d.]+)"|<rect x="([\d.]+)"|<path d="M([\d.]+)', drawn.partition("<ul")[0])
    places = [float(one or other or third) for one, other, third in marks]
    assert len(places) == 3 and places[1] + 4 - places[0] == pytest.approx(svg.STEP, abs=0.11)


def test_an_interval_that_rounding_puts_beside_its_mean_can_be_drawn() -> None:
    below = Estimate(1.0, 0.6, 1.0 - 1e-16, 7, 7)
    line = Line("m", "all", "a", below, True, below)
    assert plots.difference_plot([line], RATE) is not None
    assert "nan" not in svg.interval(below, 1.0) and svg.interval(Estimate(1.0, nan, nan, 1, 1), 1.0) == ""


def test_without_matplotlib_a_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match=re.escape("pip install 'genbench[eval]'")):
        plots.save(made(), tmp_path)
    assert not list(tmp_path.iterdir())
