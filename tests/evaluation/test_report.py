"""The report of a store whose numbers are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from genbench.evaluation import page_scores, report, statistics, table
from genbench.evaluation.figures import figures
from genbench.evaluation.lines import Unscored
from genbench.evaluation.report import Report
from genbench.evaluation.rows import SetValue, image_set
from genbench.evaluation.store import Store
from genbench.evaluation.student import t95
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


def add_set(store: Store, value: SetValue) -> None:
    """Add a set metric as measured on the pictures that are there."""
    mine = [picture for picture in store.pictures() if picture.settings == value.settings]
    store.add_set(replace(value, pictures=image_set(mine)))


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
        add_set(store, value)
        add_set(store, SetValue(**{**vars(value), "settings": "c", "value": 0.375, "without": (0.2, 0.3, 0.4)}))
        found = report.report(store)
    one, two, three = (line for line in lines(found) if line.metric == "clip")
    assert one.equal is None and two.equal is None and three.equal is not None
    assert (three.equal.chain, three.equal.difference.mean, three.equal.difference.n) == ("none steps=20", 0.125, 6)
    kid = next(line for line in found.lines if line.metric == "kid@clip" and line.chain == "search")
    assert kid.equal is not None and kid.equal.difference.mean == -0.125
    assert "| clip     | search | none steps=20          | +0.125 " in table.markdown(found)


def test_in_a_sweep_each_row_is_compared_with_the_first_chain_at_its_settings(tmp_path: Path) -> None:
    rows = [
        (chain("a", "none", steps=10), 0.5), (chain("b", "search", steps=10), 0.625),
        (chain("c", "none", steps=20), 0.75), (chain("d", "search", steps=20), 1.0),
        (chain("e", "search", steps=30), 1.25),
    ]  # fmt: skip
    value = SetValue("a", "kid", "clip", "1", "folder", 6, 9, "x", 0.5, (), (0.4, 0.5, 0.6))
    with Store(tmp_path) as store:
        fill(store, *((settings, [score] * 6) for settings, score in rows))
        for settings, score in rows:
            drawn = tuple(score * each for each in (0.9, 1.0, 1.1))
            add_set(store, SetValue(**{**vars(value), "settings": settings.id, "value": score, "drawn": drawn}))
        found = report.report(store)
    clip = [line for line in found.lines if line.metric == "clip" and line.group == "all"]
    kid = [line for line in found.lines if line.metric == "kid@clip"]
    partners = ["", "none steps=10", "none steps=10", "none steps=20", "none steps=10"]
    assert [line.against for line in clip] == [line.against for line in kid] == partners
    differences = [0.125, 0.25, 0.25, 0.75]
    assert [line.difference.mean for line in clip if line.difference] == differences
    assert [line.difference.mean for line in kid if line.difference] == differences
    assert [line.ratio.mean for line in kid if line.ratio] == [1.25, 1.5, 1.0 / 0.75, 2.5]
    assert {line.signs.holm for line in clip if line.signs} == {1.0}  # one family: 0.25 times four
    text = table.markdown(found)
    assert "against the first chain at the same settings, else the first row" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| clip     | all             | search steps=20")]
    assert "| +0.250 " in row and "| none steps=20 |" in row


def test_where_the_first_chain_has_no_pictures_of_a_kind_the_first_that_has_some_stands_in(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 2), (chain("b", "x"), [0.5] * 6), (chain("c", "y"), [0.75] * 6))
        two = lines(report.report(store), "two")
    assert [(line.chain, line.against) for line in two] == [("x", ""), ("y", "x")]


def test_what_values_rest_on_is_told(tmp_path: Path) -> None:
    version = "genbench 0.1 abc weights def resize: to 64 x 64, bilinear"
    value = SetValue("a", "kid", "clip", f"genbench 0.1 123; {version} {{}}", "folder f00", 6, 9, "x", 0.5, (0.4, 0.6))
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 6))
        store.add_scores("fine", f'{version} {{"of": "2"}}', [(store.pictures()[0], "", 0.5)])
        add_set(store, value)
        found = report.report(store)
    _, fine, kid = found.measured
    assert (fine.n, fine.resize, fine.version) == (
        1, "to 64 x 64, bilinear", 'genbench 0.1 abc weights def {"of": "2"}',
    )  # fmt: skip
    assert (kid.n, kid.reference, kid.m, kid.resize) == (6, "folder f00", 9, "to 64 x 64, bilinear")
    assert kid.version == "genbench 0.1 123; genbench 0.1 abc weights def {}"
    text = table.markdown(found)
    assert "| kid@clip | 6 | folder f00, 9 pictures | to 64 x 64, bilinear | genbench 0.1 123;" in text


def test_rates_have_wilsons_interval(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [1, 1, 1, 1, 0, 0]))
        (line,) = lines(report.report(store))
    assert line.rate and line.estimate.mean == pytest.approx(2 / 3)
    assert (line.estimate.low, line.estimate.high) == pytest.approx(statistics.wilson(2 / 3, 3), abs=1e-6)


def test_a_part_that_is_zero_everywhere_is_a_rate_only_where_its_score_is_one(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [-0.5, -0.25, -0.5, 0, 0, 0]))
        for made in store.pictures():
            store.add_scores("clip", "1", [(made, "size", 0.0)])
            store.add_scores("exact", "1", [(made, "", 0.0), (made, "size", 0.0)])
        found = {line.metric: line.rate for line in lines(report.report(store))}
    assert found == {"clip": False, "clip.size": False, "exact": True, "exact.size": True}


def test_only_pairs_that_both_chains_drew_are_compared(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [1.5, 2.5, 3.5]), (chain("b", "search"), [2.5]))
        _, second = lines(report.report(store))
    assert second.difference is not None and (second.difference.n, second.difference.mean) == (1, 1.0)
    assert math.isnan(second.difference.low)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_left_out_counted_and_named(tmp_path: Path, odd: float) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [1.5, odd, 3.5, 3.5, 0.5, 0.5]))
        found = report.report(store)
    (line,) = lines(found)
    assert line.estimate.n == 5 and line.estimate.mean == pytest.approx(1.9)
    (unscored,) = found.unscored
    assert (unscored.scorer, unscored.n, unscored.pictures) == ("clip", 1, (("none", 1, "p0"),))
    assert "| clip        | 1        | none, seed 1, 'p0' | the scorer gave no number" in table.markdown(found)


def test_chains_of_one_name_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    long, short = chain("a", "none", steps=30, height=64), chain("b", "none", steps=20, height=64)
    with Store(tmp_path) as store:
        store.add_plan([long, short, chain("c", "search", steps=30, height=64)], [])
        assert list(report.labels(store).values()) == ["none steps=30", "none steps=20", "search"]


def test_set_metrics_are_compared_group_by_group_only_when_alike(tmp_path: Path) -> None:
    first = SetValue("a", "kid", "clip", "1", "folder", 6, 9, "x", 0.5, (0.4, 0.5, 0.6))
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 6), (chain("b", "search"), [0.5] * 6))
        add_set(store, first)
        add_set(store, SetValue(**{**vars(first), "settings": "b", "value": 0.3, "without": (0.2, 0.31, 0.39)}))
        one, two = (line for line in report.report(store).lines if line.metric == "kid@clip")
        assert one.estimate.high > 0.5 and two.difference is not None
        half = t95(2) * math.sqrt(2 / 3 * (0.01**2 + 0.01**2))  # leaving out changes the difference by 0, 0.01, -0.01
        expected = (-0.2, -0.2 - half, -0.2 + half)
        assert (two.difference.mean, two.difference.low, two.difference.high) == pytest.approx(expected)
        add_set(store, SetValue(**{**vars(first), "settings": "b", "n": 5}))
        assert [line.difference for line in report.report(store).lines if line.metric == "kid@clip"] == [None, None]


def test_set_metrics_of_other_prompts_are_not_compared(tmp_path: Path) -> None:
    value = SetValue("a", "kid", "clip", "1", "folder", 4, 9, "x", 0.5, (0.4, 0.5, 0.6))
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 4), (chain("b", "search"), [0.5] * 6))
        store._db.execute("DELETE FROM pictures WHERE settings = 'b' AND prompt = 'id0'")
        add_set(store, value)
        add_set(store, SetValue(**{**vars(value), "settings": "b"}))
        assert [line.difference for line in report.report(store).lines if line.metric == "kid@clip"] == [None, None]


def test_a_set_metric_with_draws_has_a_ratio_and_few_pictures_a_note(tmp_path: Path) -> None:
    first = SetValue("a", "frechet", "clip", "1", "folder", 6, 9, "x", 2.0, (), (1.9, 2.0, 2.1))
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 6), (chain("b", "search"), [0.5] * 6))
        add_set(store, first)
        add_set(store, SetValue(**{**vars(first), "settings": "b", "value": 1.0, "drawn": (0.95, 1.0, 1.05)}))
        found = report.report(store)
    one, two = (line for line in found.lines if line.metric == "frechet@clip")
    assert (one.estimate.high - 2.0, one.estimate.clusters) == (pytest.approx(t95(2) * 0.1), 3)
    assert one.estimate.low == pytest.approx(2.0 - t95(2) * 0.1)
    assert two.difference is not None and two.difference.high == pytest.approx(-1.0 + t95(2) * 0.05)
    assert two.ratio is not None and two.ratio.mean == 0.5
    assert two.ratio.low == pytest.approx(0.5) and two.ratio.high == pytest.approx(0.5)
    text = table.markdown(found)
    assert "frechet: a set of 6 pictures, below 2000" in text and "kid or cmmd" in text
    assert "frechet: 3 prompts share 2 seeds. Pictures from one noise are alike" in text
    assert "| frechet@clip | search | none    | 0.5" in text


def test_text_and_json_hold_the_same_and_nothing_breaks_the_table(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [1, 0, 1, 1, 1, 1]), (chain("b", "./f.py:A|B"), [1] * 6))
        found = report.report(store)
    text = table.markdown(found)
    table.save(found, tmp_path)
    assert (tmp_path / "report.md").read_text() == text
    told = json.loads((tmp_path / "report.json").read_text())
    assert len(told["lines"]) == len(found.lines) and "NaN" not in (tmp_path / "report.json").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| clip") and "genbench" not in line][:-1]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert any("83.3 %" in row for row in rows) and any("+16.7 points" in row for row in rows)
    assert "against 'none'" in text and "percentage points" in text


@pytest.mark.parametrize(("drawn", "low"), [((0.1, 0.5, 0.9, math.nan), 0.0), ((-0.1, 0.5, 0.9), None)])
def test_the_interval_of_a_distance_ends_at_zero(tmp_path: Path, drawn: tuple[float, ...], low: float | None) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 6))
        add_set(store, SetValue("a", "frechet", "clip", "1", "folder", 6, 9, "x", 0.5, (), drawn))
        estimate = report.report(store).lines[-1].estimate
    assert estimate.low == 0.0 if low == 0.0 else estimate.low < 0.0


def test_pictures_that_a_scorer_could_not_judge_are_told(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 6))
        store.add_unscored("vqa", "1", store.pictures()[0], "out of memory")
        found = report.report(store)
        store.add_unscored("clip", "1", store.pictures()[0], "a | bar")
        store._db.execute("DELETE FROM scores WHERE image = 'a0'")
        found = report.report(store)
    clip, vqa = found.unscored
    assert (clip.n, clip.error, clip.pictures) == (1, "a | bar", (("none", 0, "p0"),))
    assert (vqa.scorer, vqa.n, vqa.error, len(vqa.pictures)) == ("vqa", 1, "out of memory", 0)
    text = table.markdown(found)
    assert "| clip        | 1        | none, seed 0, 'p0' | a \\| bar      |" in text
    more = Unscored("clip", 2, "why", (("none", 0, "p0"), ("none", 1, "p0")))
    assert table.which(more) == "none, seed 0, 'p0' and 1 more"


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        assert "no scores yet" in table.markdown(report.report(store))


# --- what is not comparable ---------------------------------------------------------------------------------------


def test_means_beside_each_other_are_of_the_same_prompts_and_seeds(tmp_path: Path) -> None:
    """The second chain has no picture of the prompt that scores low: its own mean is higher, and means nothing."""
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.1, 0.1, 0.7, 0.8, 0.9, 0.8]), (chain("b", "search"), [0.0] * 6))
        store._db.execute("DELETE FROM pictures WHERE settings = 'b' AND prompt = 'id0'")
        for made, score in zip([p for p in store.pictures() if p.settings == "b"], (0.7, 0.8, 0.9, 0.81), strict=True):
            store.add_scores("clip", "1", [(made, "", score)])
        store._db.execute("UPDATE pictures SET nfe = 40 WHERE settings = 'b'")
        found = report.report(store)
    one, two = lines(found)
    assert one.estimate.mean == pytest.approx(3.4 / 6) and two.estimate.mean == pytest.approx(3.21 / 4)
    assert two.difference is not None and two.difference.mean == pytest.approx(0.0025)
    assert (one.beside.mean, two.beside.mean) == pytest.approx((0.8, 3.21 / 4)) and one.beside.n == two.beside.n == 4
    (figure,) = figures(found)
    assert [point.estimate.mean for point in figure.points] == [one.beside.mean, two.beside.mean]
    told = "clip: not all chains have the same pictures (none 6, search 4); the summary and the figures show means"
    assert told in table.markdown(found) and "0.80" in page_scores.sections(found)[0]


def test_chains_without_a_prompt_in_common_are_in_no_figure(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 6), (chain("b", "search"), [0.6] * 6))
        store._db.execute("UPDATE pictures SET seed = seed + 2 WHERE settings = 'b'")
        found = report.report(store)
    assert figures(found) == [] and [line.beside.n for line in lines(found)] == [6, 6]
    assert any("the figures leave out" in told for told in found.notes)


def test_set_metrics_of_pictures_that_have_changed_are_left_out_and_named(tmp_path: Path) -> None:
    """Both chains were measured, each on the half of the seeds that it had; now both have all."""
    value = SetValue("a", "kid", "clip", "1", "folder", 3, 9, "", 0.5, (0.4, 0.5, 0.6))
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 6), (chain("b", "search"), [0.5] * 6))
        for settings, seed in (("a", 0), ("b", 1)):
            mine = [picture for picture in store.pictures() if (picture.settings, picture.seed) == (settings, seed)]
            store.add_set(replace(value, settings=settings, pictures=image_set(mine)))
        stale = report.report(store)
        assert [line.metric for line in stale.lines if line.metric != "clip"] == []
        (told,) = [note for note in stale.notes if note.startswith("kid@clip")]
        assert "left out for none, search" in told and "genbench score FOLDER metrics=kid@clip" in told
        add_set(store, value)
        half = report.report(store)
        assert [line.chain for line in half.lines if line.metric == "kid@clip"] == ["none"]
        add_set(store, replace(value, settings="b", without=(0.4, 0.5, 0.7)))
        whole = report.report(store)
    assert [line.against for line in whole.lines if line.metric == "kid@clip"] == ["", "none"]
    assert not any(note.startswith("kid@clip: left out") for note in whole.notes)


def test_the_version_asked_for_last_is_shown(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.25] * 6))
        for made in store.pictures():
            store.add_scores("clip", '1 {"rule": "sum"}', [(made, "", 0.75)])
        assert lines(report.report(store))[0].estimate.mean == 0.75
        store.ask("clip", "1")
        found = report.report(store)
    assert lines(found)[0].estimate.mean == 0.25
    (told,) = [note for note in found.notes if note.startswith("clip: there are values of 2 versions")]
    assert told.endswith('shown are those of the one asked for last, 1, and not of 1 {"rule": "sum"}')


def test_groups_with_few_prompts_are_named(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 6))
        found = report.report(store)
    (told,) = [note for note in found.notes if note.startswith("Fewer than 20 prompts: all (3), one (2)")]
    assert told in table.markdown(found)


@pytest.mark.parametrize(("metric", "high"), [("precision", 1.0), ("kid", 1.3)])
def test_intervals_end_where_a_metric_says_its_values_do(tmp_path: Path, metric: str, high: float) -> None:
    value = SetValue("a", metric, "clip", "1", "folder", 6, 9, "", 0.9, (0.8, 0.9, 1.0))
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 6))
        add_set(store, value)
        found = report.report(store)
    (line,) = [line for line in found.lines if line.metric == f"{metric}@clip"]
    assert line.estimate.high == 1.0 if high == 1.0 else line.estimate.high > high
    assert ("values in [0, 1]" in found.measured[-1].how) == (high == 1.0)


def test_what_was_asked_for_and_is_not_there_shows(tmp_path: Path) -> None:
    """A run that was ended after two of twelve pictures: the second chain has none."""
    plain, search = chain("a", "none"), chain("b", "search")
    with Store(tmp_path) as store:
        fill(store, (plain, [0.5, 0.6]))
        items = [Item(n, "p0", "", n, {"prompt": "p0"}) for n in range(6)]
        cells = [Cell(f"{s.id}{n}", s.id, "id0", "id0", item) for s in (plain, search) for n, item in enumerate(items)]
        store.add_plan([plain, search], cells)
        found = report.report(store)
    assert [(cost.chain, cost.pictures, cost.planned) for cost in found.costs] == [("none", 2, 6), ("search", 0, 6)]
    text = table.markdown(found)
    assert "| none   | 2 of 6   | 0      | 20.0 " in text and "| search | 0 of 6   | 0      |      " in text
    assert ">0 of 6</td>" in page_scores.sections(found)[0]


def test_unlike_versions_are_told(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store, (chain("a", "none"), [0.5] * 6))
        store._db.execute("UPDATE files SET made_with = 'torch 1, cpu'")
        assert not any("unlike versions" in note for note in report.report(store).notes)
        store._db.execute("UPDATE files SET made_with = 'torch 2, cuda' WHERE key IN ('a0', 'a1')")
        found = report.report(store)
    (told,) = [note for note in found.notes if "unlike versions" in note]
    assert told.endswith("4 with torch 1, cpu, 2 with torch 2, cuda.")
