"""From words to a grid: what is compared, what is read once, and how long it takes."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from genbench import prompts
from genbench.errors import UsageError
from genbench.evaluation import worklist
from genbench.evaluation.planning import Plan, plan
from genbench.evaluation.store import Store
from genbench.evaluation.words import sort_words

CHAIN = """
from dataclasses import dataclass
from typing import ClassVar

from genbench.kinds import About


@dataclass(frozen=True)
class Shift:
    about: ClassVar[About] = About("Moves the noise.")
    by: float = 0.5

    def transform_noise(self, start, ctx):
        from dataclasses import replace

        return replace(start, noise=start.noise + self.by)
"""


@pytest.fixture
def here(work: Path) -> Path:
    (work / "p.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("red", "blue")))
    (work / "shift.py").write_text(CHAIN)
    return work


def planned(*words: str) -> Plan:
    given = dict(word.split("=", 1) for word in words)
    return plan(sort_words({"model": "toy", "prompts": "p.jsonl", "seeds": "0..1", **given}))


def test_every_chain_with_every_swept_value_that_it_feels(here: Path) -> None:
    grid = planned("chains=none; search", "sweep.steps=2,3", "sweep.search.candidates=2,4")
    assert [(s.chain, s.resolved.request.steps, dict(s.resolved.options)) for s in grid.settings] == [
        ("none", 2, {}),
        ("none", 3, {}),
        *(("search", steps, s.resolved.options) for steps in (2, 3) for s in grid.settings[2:4]),
    ]
    assert [s.resolved.options["search"]["candidates"] for s in grid.settings[2:]] == [2, 4, 2, 4]
    assert len(grid.cells) == 6 * 2 * 2 == len({cell.key for cell in grid.cells})


def test_a_swept_default_is_the_run_that_was_there(here: Path) -> None:
    plain = {cell.key for cell in planned().cells}
    assert plain < {cell.key for cell in planned("sweep.guidance_scale=1,2,3").cells}


def test_all_subsets_of_a_chain(here: Path) -> None:
    grid = planned("ablate=search,./shift.py:Shift")
    assert [s.chain for s in grid.settings] == ["none", "search", "./shift.py:Shift", "search,./shift.py:Shift"]


def test_the_prompt_list_is_read_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = prompts.read_placed
    monkeypatch.setattr(prompts, "read_placed", lambda word, *rest: (read.append(word), original(word, *rest))[1])
    planned("chains=none; search", "sweep.steps=2..5")
    assert read == ["p.jsonl"]


def test_standard_input_serves_every_chain(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"red\nblue\n")))
    grid = planned("prompts=-", "chains=none; ./shift.py:Shift")
    assert [cell.item.prompt for cell in grid.cells] == ["red", "red", "blue", "blue"] * 2
    assert {cell.key for cell in grid.cells} == {cell.key for cell in planned("chains=none; ./shift.py:Shift").cells}
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"\n")))
    with pytest.raises(UsageError, match="holds no prompt"):
        planned("prompts=-")


def test_planning_a_resumed_run_of_a_hundred_thousand_cells_is_quick(here: Path) -> None:
    """About 1 s on an idle core for 25,000 prompts x 4 seeds; the bound leaves room for a busy one."""
    (here / "p.jsonl").write_text(
        "".join(json.dumps({"prompt": f"red {n}", "kind": "one"}) + "\n" for n in range(25_000))
    )
    began = time.process_time()
    grid = planned("seeds=0..3")
    spent = time.process_time() - began
    done = [(cell.key, cell.settings, cell.prompt, cell.item.seed) for cell in grid.cells[::2]]
    with Store("cmp") as store:
        store._many(f"INSERT INTO pictures VALUES ({','.join('?' * 12)})", [(*row, *[None] * 8) for row in done])
        began = time.process_time()
        todo = worklist.to_do(grid.cells, store.done())
        store.add_plan(grid.settings, grid.cells)
        batches = list(worklist.chunks(todo, 16))
        spent += time.process_time() - began
    assert (len(grid.cells), len(todo), len(batches)) == (100_000, 50_000, 3125)
    assert spent < 4
