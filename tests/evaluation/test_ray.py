"""Ray actors draw what local workers draw; an actor that is killed costs nothing, a cell that kills actors itself."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from genbench.errors import MissingDependency
from genbench.evaluation import cli_main, worklist
from genbench.evaluation.keeping import Shelf, image_hash
from genbench.evaluation.planning import Plan, plan
from genbench.evaluation.ray_workers import STARTS, Fleet, Worker
from genbench.evaluation.store import Store
from genbench.evaluation.words import sort_words

PLUGINS = '''
from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import ClassVar

from genbench.kinds import About


@dataclass(frozen=True)
class Slow:
    """Takes its time, so that a worker can be killed in the middle."""

    about: ClassVar[About] = About("Sleeps.")

    def transform_noise(self, start, ctx):
        time.sleep(0.3)
        return start


@dataclass(frozen=True)
class Deadly:
    """Ends its process for one picture, and raises for another prompt."""

    about: ClassVar[About] = About("Ends its process for blue, seed 0.")

    def transform_noise(self, start, ctx):
        if ("blue", 0) in zip(ctx.prompts, ctx.seeds):
            os._exit(9)
        if "green" in ctx.prompts:
            raise ValueError("green is not liked here")
        return start
'''
PROMPTS = ("red", "blue", "green", "white")


@pytest.fixture
def grid(work: Path) -> Plan:
    (work / "extra.py").write_text(PLUGINS)
    (work / "p.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    words = {"model": "toy", "steps": "2", "prompts": "p.jsonl", "seeds": "0..1", "out": "cmp"}
    return plan(sort_words(words))


def rows(folder: str = "cmp") -> dict[str, tuple[str, str, float]]:
    """Return {key: (path, image, when it was made)}, checking that every picture is there and whole."""
    with Store(folder, create=False) as store:
        found = {key: row for key, *row in store._db.execute("SELECT key, path, image, made FROM pictures")}
    for path, image, _ in found.values():
        with Image.open(Path(folder) / path) as opened:
            assert image_hash(np.asarray(opened.convert("RGB"))) == image
    return {key: (path, image, made) for key, (path, image, made) in found.items()}


# --- the fleet, on actors that live here ----------------------------------------------------------------------------


class Gone(Exception):
    """What a call to a dead actor raises."""


class Here:
    """As much of Ray as a fleet uses: a call runs when its answer is fetched, the latest first."""

    exceptions = SimpleNamespace(RayError=Gone, RayTaskError=KeyError)

    def wait(self, calls: list[Any]) -> tuple[list[Any], list[Any]]:
        return calls[-1:], calls[:-1]

    def get(self, call: Any) -> Any:
        return call()


class Actor:
    """A worker of this process; `dies(batch)` says whether a call ends it (None: the call that starts it)."""

    def __init__(self, worker: Worker, dies: Any) -> None:
        self.worker, self.dies = worker, dies
        self.ready, self.make = SimpleNamespace(remote=self._ready), SimpleNamespace(remote=self._make)

    def _ready(self) -> Any:
        return lambda: self._answer(None)

    def _make(self, batch: list[Any]) -> Any:
        return lambda: self._answer(batch)

    def _answer(self, batch: list[Any] | None) -> Any:
        if self.dies(batch):
            raise Gone("the actor died")
        return self.worker.ready() if batch is None else self.worker.make(batch)


def fleet(grid: Plan, dies: Any, workers: int = 2) -> list[int]:
    """Draw a grid with actors of this process; returns what progress was told."""
    sized = {each.id: worklist.for_worker(each, 3) for each in grid.settings}
    told = list[int]()
    with Store("cmp") as store:
        store.add_plan(grid.settings, grid.cells)
        batches = deque(worklist.chunks(grid.cells, 3))
        hire = lambda: Actor(Worker(sized, "."), dies)  # noqa: E731
        Fleet(Here(), hire, Shelf(store), batches, told.append).run(workers)
    return told


def failures() -> list[tuple[str, str]]:
    with Store("cmp") as store:
        return [(prompt, error) for _, prompt, _, error in store.failures()]


def test_actors_draw_what_a_local_worker_draws(grid: Plan) -> None:
    assert sum(fleet(grid, lambda batch: False)) == 8
    assert cli_main("eval", ["model=toy", "steps=2", "prompts=p.jsonl", "seeds=0..1", "batch_size=3", "out=own"]) == 0
    here, own = rows(), rows("own")
    assert {key: row[:2] for key, row in here.items()} == {key: row[:2] for key, row in own.items()}


def test_an_actor_that_dies_once_costs_nothing(grid: Plan) -> None:
    deaths = [True]
    told = fleet(grid, lambda batch: bool(batch) and bool(deaths) and deaths.pop())
    assert set(rows()) == {cell.key for cell in grid.cells} and failures() == []
    assert sum(told) == 8 and told.count(1) == 3  # the lost batch came back cell by cell


def test_a_cell_that_ends_every_actor_fails_alone(grid: Plan) -> None:
    told = fleet(grid, lambda batch: any(cell.item.prompt == "blue" for cell in batch or ()))
    assert [prompt for prompt, _ in failures()] == ["blue", "blue"] and sum(told) == 8
    assert len(rows()) == 6 and "the Ray worker that drew it ended: Gone: the actor died" in failures()[0][1]


def test_actors_that_cannot_start_stop_the_run(grid: Plan) -> None:
    starts = list[None]()

    def dies(batch: Any) -> bool:
        starts.append(batch)
        return True

    with pytest.raises(MissingDependency, match="on every machine"):
        fleet(grid, dies)
    assert starts == [None] * (STARTS + 1) and rows() == {}


def test_without_ray_the_line_that_installs_it(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    with pytest.raises(MissingDependency, match=r"pip install 'genbench\[ray\]'"):
        cli_main("eval", ["model=toy", "prompt=red", "ray=auto", "out=cmp"])
    assert not Path("cmp").exists()


# --- Ray itself -----------------------------------------------------------------------------------------------------


def command(*words: str) -> subprocess.Popen[bytes]:
    base = ["model=toy", "steps=2", "prompts=p.jsonl", "batch_size=2", "out=cmp", "ray=local", "workers=2"]
    home = {"HOME": str(Path.cwd())}  # Ray writes a token of its cluster there
    environment = {**os.environ, **home, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-m", "genbench", "eval", *base, *words], env=environment)


def actors(parent: int) -> list[psutil.Process]:
    """The processes of the actors that a command has started."""
    children = psutil.Process(parent).children(recursive=True)
    return [each for each in children if each.is_running() and "ray::Worker" in " ".join(each.cmdline())]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills a process")
def test_two_actors_of_a_real_ray_of_which_one_is_killed(grid: Plan) -> None:
    process = command("chains=./extra.py:Slow; ./extra.py:Deadly", "seeds=0..9")
    try:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and process.poll() is None and len(list(Path("cmp").rglob("*.png"))) < 8:
            time.sleep(0.05)
        before, working = rows(), actors(process.pid)
        assert len(working) == 2 and 6 <= len(before) < 40
        working[0].kill()
        assert process.wait(240) == 1  # what is deadly has failed
    finally:
        process.kill()
    made = rows()
    assert before.items() <= made.items(), "a finished picture was lost or made again"
    assert len(made) == len(list(Path("cmp").rglob("*.png"))) == 40 + 29
    with Store("cmp") as store:
        failed = [(prompt, error) for _, prompt, _, error in store.failures()]
    assert sorted(prompt for prompt, _ in failed) == ["blue"] + ["green"] * 10
    assert all(("the Ray worker that drew it ended" in e) == (p == "blue") for p, e in failed)
