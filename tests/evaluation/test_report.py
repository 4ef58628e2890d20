"""The report of a store whose numbers are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from genbench.evaluation import report, statistics, table
from genbench.evaluation.report import Report
from genbench.evaluation.store import SetValue, Store
from genbench.evaluation.worklist import Cell, Settings
from genbench.request import Item, Request, Resolved

KINDS = ("one", "one", "two")


def chain(id: str, name: str, **request: object) -> Settings:
    return Settings(id, name, {"request": request, "plugins": [], "model": "m"}, Resolved(Request()))


def fill(store: Store, *chains: tuple[Settings, list[float]], seeds: int = 2) -> None:
    """One prompt per kind; each chain has one score per prompt and seed."""
    trace = ({"seed": 1, "score": 2.0},)
    for settings, scores in chains:
        for n, score in enumerate(scores):
            prompt, seed = divmod(n, seeds)
            row = {"prompt": f"p{prompt}", "kind": KINDS[prompt], "unseen": prompt == 1}
            item = Item(n, f"p{prompt}", "", seed, row)
            cell = Cell(f"{settings.id}{n}", settings.id, f"id{prompt}", f"id{prompt}", item)
            image = f"{settings.id}{n}"
            store.add_plan([settings], [cell])
            store.add_picture(cell, path="p", image=image, nfe=20, seconds=0.5, batch=1, score=None, trace=trace)
            made = next(made for made in store.pictures() if made.key == cell.key)
            store.add_scores("clip", "1", [(made, "", score)])


def lines(found: Report, group: str = "all") -> list[report.Line]:
    return [line for line in found.lines if line.group == group]


def test_means_differences_and_costs(tmp_path: Path) -> None:
    plain, better = chain("a", "none"), chain("b", "search")
    with Store(tmp_path) as store:
        fill(store, (plain, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), (better, [0.2, 0.3, 0.5, 0.6, 0.8, 0.9]))
        found = report.report(store)
    first, second = lines(found)
    assert first.estimate.mean == pytest.approx(0.35) and first.difference is None and not first.rate
    assert second.difference is not None and second.difference.mean == pytest.approx(0.2)
    expected = statistics.paired_difference([0] * 6, [0.1, 0.1, 0.2, 0.2, 0.3, 0.3], [0, 0, 1, 1, 2, 2])
    assert second.difference.low == pytest.approx(expected.low) and second.difference.clusters == 3
    assert lines(found, "one")[0].estimate.mean == pytest.approx(0.25)
    assert lines(found, "one, unseen")[0].estimate.mean == pytest.approx(0.35)
    assert [(cost.pictures, cost.nfe, cost.seconds) for cost in found.costs] == [(6, 20.0, 0.5)] * 2


def test_chains_are_compared_by_signs_and_corrected_together(tmp_path: Path) -> None:
    plain = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    up, mixed = [x + 1 for x in plain], [1.1, 1.2, 0.3, 0.4, 0.4, 0.6]
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), plain), (chain("b", "up"), up), (chain("c", "mixed"), mixed))
        first, second, third = lines(report.report(store))
    assert first.signs is None and second.signs is not None and third.signs is not None
    assert (second.signs.wins, second.signs.ties, second.signs.losses) == (6, 0, 0)
    assert (second.signs.p, second.signs.holm) == (0.25, 0.5)  # three prompts, two chains
    assert (third.signs.wins, third.signs.ties, third.signs.losses, third.signs.holm) == (2, 3, 1, 1.0)


def test_chains_that_differ_in_steps_make_a_curve(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none", steps=10), [0.5]), (chain("b", "none", steps=20), [0.5]))
        store._db.execute("UPDATE pictures SET nfe = 40 WHERE settings = 'b'")
        assert [curve.chains for curve in report.report(store).curves] == [("none steps=10", "none steps=20")]


def test_a_dearer_chain_is_also_compared_with_the_first_one_at_its_cost(tmp_path: Path) -> None:
    first, rich, search = chain("a", "none", steps=10), chain("b", "none", steps=20), chain("c", "search", steps=10)
    value = SetValue("b", "kid", "clip", "1", "folder", 6, 9, "x", 0.5, (0.4, 0.5, 0.6))
    with Store(tmp_path) as store:
        fill(store, (first, [0.5] * 6), (rich, [0.5, 0.5, 0.25, 0.25, 0.75, 0.75]), (search, [0.625] * 6))
        store._db.execute("UPDATE pictures SET nfe = 40 WHERE settings != 'a'")
        store.add_set(value)
        store.add_set(SetValue(**{**vars(value), "settings": "c", "value": 0.375, "without": (0.2, 0.3, 0.4)}))
        found = report.report(store)
    one, two, three = (line for line in lines(found) if line.metric == "clip")
    assert one.equal is None and two.equal is None and three.equal is not None
    assert (three.equal.chain, three.equal.difference.mean, three.equal.difference.n) == ("none steps=20", 0.125, 6)
    kid = next(line for line in found.lines if line.metric == "kid@clip" and line.chain == "search")
    assert kid.equal is not None and kid.equal.difference.mean == -0.125
    assert "| clip     | search | none steps=20          | +0.125 " in table.markdown(found)


def test_rates_have_wilsons_interval(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [1, 1, 1, 1, 0, 0]))
        (line,) = lines(report.report(store))
    assert line.rate and line.estimate.mean == pytest.approx(2 / 3)
    assert (line.estimate.low, line.estimate.high) == pytest.approx(statistics.wilson(2 / 3, 3), abs=1e-6)


def test_only_pairs_that_both_chains_drew_are_compared(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [1.5, 2.5, 3.5]), (chain("b", "search"), [2.5]))
        _, second = lines(report.report(store))
    assert second.difference is not None and (second.difference.n, second.difference.mean) == (1, 1.0)
    assert math.isnan(second.difference.low)


def test_a_nan_score_is_left_out_and_shows_in_n(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [1.5, math.nan, 3.5, 3.5, 0.5, 0.5]))
        (line,) = lines(report.report(store))
    assert line.estimate.n == 5 and line.estimate.mean == pytest.approx(1.9)


def test_chains_of_one_name_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    long, short = chain("a", "none", steps=30, height=64), chain("b", "none", steps=20, height=64)
    with Store(tmp_path) as store:
        store.add_plan([long, short, chain("c", "search", steps=30, height=64)], [])
        assert list(report.labels(store).values()) == ["none steps=30", "none steps=20", "search"]


def test_set_metrics_are_compared_group_by_group_only_when_alike(tmp_path: Path) -> None:
    first = SetValue("a", "kid", "clip", "1", "folder", 6, 9, "x", 0.5, (0.4, 0.5, 0.6))
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 6), (chain("b", "search"), [0.5] * 6))
        store.add_set(first)
        store.add_set(SetValue(**{**vars(first), "settings": "b", "value": 0.3, "without": (0.2, 0.3, 0.4)}))
        one, two = (line for line in report.report(store).lines if line.metric == "kid@clip")
        assert one.estimate.high > 0.5 and two.difference is not None
        assert (two.difference.mean, two.difference.low, two.difference.high) == pytest.approx((-0.2, -0.2, -0.2))
        store.add_set(SetValue(**{**vars(first), "settings": "b", "n": 5}))
        assert [line.difference for line in report.report(store).lines if line.metric == "kid@clip"] == [None, None]


def test_set_metrics_of_other_prompts_are_not_compared(tmp_path: Path) -> None:
    value = SetValue("a", "kid", "clip", "1", "folder", 4, 9, "x", 0.5, (0.4, 0.5, 0.6))
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 4), (chain("b", "search"), [0.5] * 6))
        store._db.execute("DELETE FROM pictures WHERE settings = 'b' AND prompt = 'id0'")
        store.add_set(value)
        store.add_set(SetValue(**{**vars(value), "settings": "b"}))
        assert [line.difference for line in report.report(store).lines if line.metric == "kid@clip"] == [None, None]


def test_a_set_metric_with_draws_has_a_ratio_and_few_pictures_a_note(tmp_path: Path) -> None:
    first = SetValue("a", "frechet", "clip", "1", "folder", 6, 9, "x", 2.0, (), (1.9, 2.0, 2.1))
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 6), (chain("b", "search"), [0.5] * 6))
        store.add_set(first)
        store.add_set(SetValue(**{**vars(first), "settings": "b", "value": 1.0, "drawn": (0.9, 1.0, 1.1)}))
        found = report.report(store)
    one, two = (line for line in found.lines if line.metric == "frechet@clip")
    assert (one.estimate.high - 2.0, one.estimate.clusters) == (pytest.approx(statistics.Z95 * 0.1), 3)
    assert one.estimate.low == pytest.approx(2.0 - statistics.Z95 * 0.1)
    assert two.difference is not None and (two.difference.low, two.difference.high) == pytest.approx((-1.0, -1.0))
    assert two.ratio is not None and two.ratio.mean == 0.5
    assert math.log(two.ratio.high / 0.5) == pytest.approx(statistics.Z95 * 0.05)
    text = table.markdown(found)
    assert "frechet: a set of 6 pictures, below 2000" in text and "kid or cmmd" in text
    assert "| frechet@clip | search | 0.5 " in text


def test_text_and_json_hold_the_same_and_nothing_breaks_the_table(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [1, 0, 1, 1, 1, 1]), (chain("b", "./f.py:A|B"), [1] * 6))
        found = report.report(store)
    text = table.markdown(found)
    table.save(found, tmp_path)
    assert (tmp_path / "report.md").read_text() == text
    told = json.loads((tmp_path / "report.json").read_text())
    assert len(told["lines"]) == len(found.lines) and "NaN" not in (tmp_path / "report.json").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| clip")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert any("83.3 %" in row and "+16.7" in text for row in rows)


@pytest.mark.parametrize(("drawn", "low"), [((0.1, 0.5, 0.9, math.nan), 0.0), ((-0.1, 0.5, 0.9), None)])
def test_the_interval_of_a_distance_ends_at_zero(tmp_path: Path, drawn: tuple[float, ...], low: float | None) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 6))
        store.add_set(SetValue("a", "frechet", "clip", "1", "folder", 6, 9, "x", 0.5, (), drawn))
        estimate = report.report(store).lines[-1].estimate
    assert estimate.low == 0.0 if low == 0.0 else estimate.low < 0.0


def test_pictures_that_a_scorer_could_not_judge_are_told(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 6))
        store.add_unscored("vqa", "1", store.pictures()[0], "out of memory")
        found = report.report(store)
    assert found.notes == ("vqa: no value for 1 pictures: out of memory",) and found.notes[0] in table.markdown(found)


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        assert "no scores yet" in table.markdown(report.report(store))
