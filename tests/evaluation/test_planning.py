"""From words to a grid: what is compared, what is read once, and how long it takes."""

from __future__ import annotations

import hashlib
import io
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from genbench import prompts
from genbench.errors import UsageError
from genbench.evaluation import resuming, worklist
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


@dataclass(frozen=True)
class Elsewhere:
    about: ClassVar[About] = About("Holds for another family.", families=("flux",))

    def transform_noise(self, start, ctx):
        return start
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


# --- what stops before anything is drawn ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["sweep.sampler=euler,nope"],
            "1 of 2 chains cannot be drawn: 'none sampler=nope': sampler='nope' is not",
        ),
        (["chains=none; ./shift.py:Elsewhere"], r"1 of 2 .*'./shift.py:Elsewhere': .* only for flux"),
        (
            ["chains=./shift.py:Elsewhere", "sweep.steps=2,3,4"],
            r"^3 of 3 .*steps=2'[^']*'elsewhere'[^']*'toy'[^']*flux$",
        ),
        (["sampler=FlowMatchEulerDiscreteScheduler"], r"^'none': .* needs a rectified-flow model"),
        (["chains=none; search", "verifier=toy,toy"], r"'search': verifier=toy,toy names a scorer twice"),
        (["device=cuda:99"], r"^'none': device='cuda:99' is not here"),
        (["true_cfg=3"], r"^'none': true_cfg=3.0 is FLUX's second guidance"),
        (["by=kynd"], "by=kynd: no prompt has a column 'kynd'"),
    ],
)
def test_chains_that_cannot_be_drawn_are_said_once_each(here: Path, words: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        planned(*words)


def test_columns_are_checked_against_every_chain(here: Path) -> None:
    (here / "p.jsonl").write_text('{"prompt": "red", "shift.by": 0.1}\n{"prompt": "red", "foo.bar": 1}\n')
    with pytest.raises(UsageError, match=r"p\.jsonl:2: the column 'foo\.bar' is an option of 'foo', which is"):
        planned("chains=none; ./shift.py:Shift")


def test_a_row_that_is_wrong_is_named_by_its_line(here: Path) -> None:
    (here / "p.jsonl").write_text('{"prompt": "a"}\n\n{"prompt": "b", "search.candidates": "many"}\n')
    with pytest.raises(UsageError, match=r"^p\.jsonl:3: "):
        planned("chains=search")
    (here / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "sampler": "nope"}\n')
    with pytest.raises(UsageError, match=r"p\.jsonl:2: sampler='nope' is not known"):
        planned()
    (here / "p.jsonl").write_text('{"prompt": "a", "true_cfg": 1}\n{"prompt": "b", "true_cfg": 2}\n')
    with pytest.raises(UsageError, match=r"p\.jsonl:2: true_cfg=2.0 is FLUX's second guidance"):
        planned()


def test_something_to_draw_is_needed(here: Path) -> None:
    with pytest.raises(UsageError, match="eval needs prompts=FILE"):
        plan(sort_words({"model": "toy"}))


def test_the_dtype_that_auto_comes_to_is_in_the_key(here: Path) -> None:
    auto, named, half = (planned(*words) for words in ([], ["dtype=float32"], ["dtype=bfloat16"]))
    assert {cell.key for cell in auto.cells} == {cell.key for cell in named.cells}
    assert not {cell.key for cell in auto.cells} & {cell.key for cell in half.cells}
    drawn = worklist.for_worker(auto.settings[0], 4).resolved
    assert drawn.request.dtype == "float32"  # on whatever machine it is drawn


def test_a_verifier_of_a_row_counts_where_there_is_a_search(here: Path) -> None:
    def keys(**column: str) -> dict[str, set[str]]:
        (here / "p.jsonl").write_text(json.dumps({"prompt": "red", **column}) + "\n")
        grid = planned("chains=none; search")
        return {s.chain: {cell.key for cell in grid.cells if cell.settings == s.id} for s in grid.settings}

    plain, other = keys(), keys(verifier="toy")
    assert plain["none"] == other["none"] and not plain["search"] & other["search"]


def test_planning_a_resumed_run_of_a_hundred_thousand_cells_takes_two_seconds(here: Path) -> None:
    """Seconds of this process, the best of three, on a core as quick as the bound's: others share its caches."""
    rows = [json.dumps({"prompt": f"red {n}", "kind": "one"}) for n in range(25_000)]
    (here / "p.jsonl").write_text("".join(f"{row}\n" for row in rows))
    cells = planned("seeds=0..3").cells
    (here / "cmp" / "a").mkdir(parents=True)
    with Store("cmp") as store:
        done = [(cell.key, cell.settings, cell.prompt, cell.item.seed, f"a/{cell.key}.png") for cell in cells[::2]]
        store._many(f"INSERT INTO pictures VALUES ({','.join('?' * 12)})", [(*row, *[None] * 7) for row in done])
        store._many("INSERT INTO files VALUES (?, 0, '')", [(key,) for key, *_ in done])
        for _, _, _, _, path in done:
            (here / "cmp" / path).touch()
    assert min(resumed() for _ in range(3)) < 2 * max(1.0, pace() / PACE)


PACE = 0.01
"""What `pace` is on an idle core on which two seconds are the bound."""


def pace() -> float:
    """Return the middle one of the seconds that twenty thousand hashes take this process."""
    taken = list[float]()
    for _ in range(21):
        began = time.process_time()
        for n in range(20_000):
            hashlib.sha256(f"{n} of a list".encode()).hexdigest()
        taken.append(time.process_time() - began)
    return sorted(taken)[10]


def resumed() -> float:
    """Plan the run as `eval` does; returns the seconds it took this process."""
    began = time.process_time()
    grid = planned("seeds=0..3")
    with Store("cmp") as store:
        assert store.forget_missing() == 0
        todo = worklist.to_do(grid.cells, store.done())
        store.add_plan(grid.settings, grid.cells)
        batches = resuming.batches(store, todo, 16, lambda line: None)
        assert store.planned() == {grid.settings[0].id: 100_000}
    assert (len(grid.cells), len(todo), len(batches)) == (100_000, 50_000, 3125)
    return time.process_time() - began
