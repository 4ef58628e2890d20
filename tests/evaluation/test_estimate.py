"""What a dry run says: counts that are right, costs that say where they are from, and nothing made."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from genbench.evaluation import cli_main, estimate
from genbench.evaluation.estimate import Cost, Line
from genbench.evaluation.store import Store

CHAIN = """
from dataclasses import dataclass
from typing import ClassVar

from genbench.kinds import About


@dataclass(frozen=True)
class Twice:
    about: ClassVar[About] = About("Steps twice and does not say what that costs.")

    def wrap_step(self, step, ctx):
        return step


@dataclass(frozen=True)
class Closed:
    about: ClassVar[About] = About("Refuses every model.")

    def transform_model(self, model, ctx):
        raise ValueError("no model is good enough")
"""


@pytest.fixture
def here(work: Path) -> Path:
    (work / "p.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("red", "blue")))
    (work / "x.py").write_text(CHAIN)
    return work


def evaluate(*words: str) -> int:
    return cli_main("eval", ["model=toy", "steps=3", "prompts=p.jsonl", "seeds=0..3", "out=cmp", *words])


def rows(text: str) -> dict[str, list[str]]:
    """Return {chain: [to draw, there, evaluations, seconds, from]} of the printed table."""
    table = text.split("\n\n")[0].splitlines()[1:]
    return {cells[0]: cells[1:] for cells in (re.split(r"\s{2,}", line) for line in table)}


def test_a_dry_run_counts_cells_and_evaluations_and_makes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--dry-run", "chains=none; search", "search.candidates=4", "workers=2") == 0
    told = capsys.readouterr().out
    found = rows(told)
    assert found["none"][:3] == ["8", "0", "6"] and found["search"][:3] == ["8", "0", "24"]
    assert found["none"][4] == "measured on 8 at once" and float(found["none"][3]) > 0
    assert "to draw               16 pictures, 0 are there" in told and "network evaluations   240\n" in told
    assert "if 2 processes do not slow each other" in told and re.search(r"peak memory +\d+\.\d GB here", told)
    assert not Path("cmp").exists()


def test_costs_are_those_of_finished_pictures_where_there_are_some(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli_main("eval", ["model=toy", "steps=3", "prompts=p.jsonl", "seeds=0..1", "out=cmp", "chains=search"])
    capsys.readouterr()
    assert evaluate("--dry-run", "chains=search; none") == 0
    told = capsys.readouterr().out
    with Store("cmp") as store:
        seconds = sum(made.seconds for made in store.pictures()) / 4
    assert rows(told)["search"] == ["4", "4", "24", f"{seconds:.3g}", "mean of 4 finished"]
    assert rows(told)["none"][:2] == ["8", "0"]


def test_what_is_unknown_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--dry-run", "chains=none; ./x.py:Twice; ./x.py:Closed") == 0
    told = capsys.readouterr().out
    assert "unknown: Twice does not state its cost" in told
    assert "unknown: ValueError: no model is good enough" in told
    assert "network evaluations   48 and those of 16 pictures, unknown" in told


def test_rows_with_settings_of_their_own_are_counted_as_such(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "red", "steps": 5}, {"prompt": "blue", "search.candidates": 2}]
    (here / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["chains=none; search", "search.candidates=4"]
    evaluate("--dry-run", *words)
    said = re.search(r"network evaluations   (\d+)\n", capsys.readouterr().out)
    evaluate(*words)
    with Store("cmp") as store:
        assert said is not None and int(said[1]) == sum(made.nfe for made in store.pictures())


def test_disk_is_no_less_than_what_is_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate("--dry-run")
    said = re.search(r"at most about ([\d.]+) MB", capsys.readouterr().out)
    evaluate()
    written = sum(path.stat().st_size for path in Path("cmp").rglob("*.png")) / 1e6
    assert said is not None and float(said[1]) >= round(written, 1)


def test_what_time_and_memory_leave_out_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate("--dry-run", "metrics=toy,vendi@solids-clip")
    told = capsys.readouterr().out
    assert "not in it: loading, scoring (toy, vendi@solids-clip), the report" in told
    assert re.search(r"peak memory .*; not in it: toy, vendi@solids-clip\n", told)
    evaluate("--dry-run")
    assert "not in it: loading, the report" in capsys.readouterr().out


def test_nothing_to_draw() -> None:
    told = estimate.told([Line("none", 0, 8, Cost(6, 0.1, 1e6, "mean of 8 finished"))], 1)
    assert "network evaluations   0\n" in told and "peak memory           nothing to draw" in told
