"""The measuring script draws, goes on where it was killed, and its tables say what its rows say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genbench_search import measure, report
from genbench_search.measure import Task


def test_it_draws_what_is_missing_and_reports_it(
    work: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "STEPS", 3)
    monkeypatch.setattr(measure, "WALK", 6)
    monkeypatch.setattr(report, "WALK", 6)
    words = [f"prompts={root / 'prompts/solids.jsonl'}", "out=m"]
    for tasks in ((Task("random", "solids", 2, 2),), (Task("random", "solids", 3, 2), Task("none", "", 1, 2))):
        monkeypatch.setattr(measure, "TASKS", tasks)
        measure.main(words)
    rows = [json.loads(line) for line in Path("m/solids.jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows] == ["random solids 2"] * 3 + ["none  2"]
    assert len({row["prompt"] for row in rows[:3]}) == 3 and [row["nfe"] for row in rows] == [12] * 4
    assert [set(reading) for reading in rows[0]["readings"]] == [
        {"solids", "solids-exact", "solids-clip", "chosen"}
    ] * 2
    report.main(["out=m", "kinds=all", "figure=f.svg"])
    told = capsys.readouterr().out.splitlines()
    assert told[-2].startswith("| random solids-clip | 16 | 3 |")
    monkeypatch.setattr(measure, "TASKS", (Task("random", "solids", 3, 2),))
    measure.main([*words, "seed=1", "kinds=single", "n=12"])
    more = [json.loads(line) for line in Path("m/solids.jsonl").read_text().splitlines()][4:]
    assert {(row["seed"], row["kind"]) for row in more} == {(1, "single")} and 0 < len(more) < 12
    assert told[0].startswith("| | walks | n |") and told[-1].startswith("| none | 2 | 1 |")
    assert Path("f.svg").read_text().startswith("<svg") and "more steps" in Path("f.svg").read_text()


def row(prompt: str, kind: str, *readings: tuple[float, float]) -> dict[str, Any]:
    held = [{"solids-exact": exact, "solids": score, "solids-clip": 0.0} for exact, score in readings]
    return {"prompt": prompt, "kind": kind, "task": "random solids 16", "nfe": 60, "readings": held}


def test_the_points_are_nested_best_readings_of_the_chosen_kinds() -> None:
    rows = [row("a", "beside", (0, 1), (1, 2)), row("b", "stack", (0, 2), (1, 1)), row("c", "single", (1, 1), (1, 1))]
    found = {(p.curve, p.walks): p for p in report.points(rows, ["beside", "stack"])}
    assert found["random solids", 1].rate == 0 and found["random solids", 2].rate == 0.5
    assert found["random solids-exact", 2].rate == 1 == found["random solids-exact", 2].closed
    assert found["random solids-clip", 2].rate == 0, "ties stay with the first"
    assert found["random solids", 2].gain[0] == 0.5 and found["random solids", 2].n == 2
    assert report.points(rows, ["all"])[0].n == 3
