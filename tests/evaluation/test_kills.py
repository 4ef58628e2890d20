"""Runs that are killed at any moment: no picture lost, none made twice, none half-written; and memory that stays."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genbench.evaluation import cli_main, scoring, workers, worklist
from genbench.evaluation.keeping import image_hash
from genbench.evaluation.planning import Plan, plan
from genbench.evaluation.store import Store
from genbench.evaluation.words import sort_words

MOMENTS = 50
SLOW = """
from dataclasses import dataclass
from typing import ClassVar

from genbench.kinds import About


@dataclass(frozen=True)
class Slow:
    about: ClassVar[About] = About("Takes its time.")

    def score(self, *, images, prompts, rows=None):
        import time

        time.sleep(0.02)
        return images.mean((1, 2, 3))
"""
DEADLY = """
from dataclasses import dataclass
from typing import ClassVar

from genbench.kinds import About


@dataclass(frozen=True)
class Deadly:
    about: ClassVar[About] = About("Ends its process for blue.")

    def transform_noise(self, start, ctx):
        import os

        if "blue" in ctx.prompts:
            os._exit(9)
        return start
"""
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks and kills")


def rows(folder: Path) -> dict[str, tuple[str, str, float]]:
    """Return {key: (path, image, when it was made)} of a store."""
    with Store(folder, create=False) as store:
        found = store._db.execute("SELECT key, path, image, made FROM pictures")
        return {key: (path, image, made) for key, path, image, made in found}


def check_whole(folder: Path, keys: Sequence[str], made: dict[str, tuple[str, str, float]]) -> None:
    for key in keys:
        path, image, _ = made[key]
        with Image.open(folder / path) as opened:
            assert image_hash(np.asarray(opened.convert("RGB"))) == image


def forked(work: Callable[[], object]) -> int:
    """Run something in a fork that never comes back into the test; returns its process id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    finally:
        os._exit(0)


def ended(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG)[0] == child


def draw(folder: Path, grid: Plan, part: int = 0, parts: int = 1) -> None:
    """Draw every `parts`-th batch of what is missing, as a worker does."""
    sized = {settings.id: worklist.for_worker(settings, 4) for settings in grid.settings}
    with Store(folder) as store:
        todo = worklist.to_do(grid.cells, store.done())
    workers.run(workers.Job(folder, sized), list(worklist.chunks(todo, 4))[part::parts], 1, lambda _: None)


@posix
def test_fifty_moments_at_which_workers_are_killed(work: Path) -> None:
    (work / "p.txt").write_text("".join(f"red {n}\n" for n in range(60)))
    chance, moments, grids = random.Random(7), 0, 0
    while moments < MOMENTS:
        folder, grids = work / f"cmp{grids}", grids + 1
        grid = plan(sort_words({"model": "toy", "steps": "2", "prompts": "p.txt", "seeds": "0..4", "out": str(folder)}))
        with Store(folder) as store:
            store.add_plan(grid.settings, grid.cells)
        known: dict[str, tuple[str, str, float]] = {}
        while moments < MOMENTS and len(known) < len(grid.cells):
            children = [forked(partial(draw, folder, grid, part, 2)) for part in range(2)]
            time.sleep(chance.uniform(0, 0.12))
            alive = [child for child in children if not ended(child)]
            for child in alive:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            moments += bool(alive)
            now = rows(folder)
            assert known.items() <= now.items(), "a finished picture was lost or made again"
            check_whole(folder, [key for key in now if key not in known], now)
            known = now
        draw(folder, grid)
        made = rows(folder)
        assert known.items() <= made.items() and set(made) == {cell.key for cell in grid.cells}
        check_whole(folder, list(made), made)
        assert len(list(folder.rglob("*.png"))) == len(made)
        with Store(folder) as store:
            assert store.failures() == [] and store.attempts() == {}


@posix
@pytest.mark.parametrize("moment", [0.0, 0.02, 0.05, 0.1, 0.2, 0.3])
def test_a_command_that_is_killed_while_it_scores_loses_no_score(
    work: Path, moment: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scorer takes its time; the process is killed that long after the first value came."""
    (work / "p.txt").write_text("".join(f"red {n}\n" for n in range(40)))
    (work / "slow.py").write_text(SLOW)
    assert cli_main("eval", ["model=toy", "steps=2", "prompts=p.txt", "out=cmp"]) == 0
    monkeypatch.setattr(scoring, "BATCH", 2)
    child = forked(partial(cli_main, "score", ["cmp", "metrics=./slow.py:Slow"]))
    while not scores():
        assert not ended(child)
        time.sleep(0.005)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    before = scores()
    assert cli_main("score", ["cmp", "metrics=./slow.py:Slow"]) == 0
    assert before.items() <= scores().items() and len(scores()) == 40


def scores() -> dict[tuple[str, str], tuple[float, float]]:
    """Return {(image, asked): (value, when it was made)} of the slow scorer."""
    with Store("cmp", create=False) as store:
        query = "SELECT image, asked, value, made FROM scores WHERE scorer = './slow.py:Slow'"
        return {(image, asked): (value, made) for image, asked, value, made in store._db.execute(query)}


@posix
def test_a_cell_that_ends_its_process_is_told_and_fails_after_two(
    work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (work / "p.txt").write_text("red\nblue\ngreen\n")
    (work / "deadly.py").write_text(DEADLY)
    words = ["model=toy", "steps=2", "prompts=p.txt", "out=cmp", "chains=none; ./deadly.py:Deadly"]

    def evaluated() -> tuple[int, str]:
        child = forked(lambda: os._exit(cli_main("eval", words)))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code, capfd.readouterr().err

    assert evaluated()[0] == 9
    code, told = evaluated()
    assert code == 9 and "3 cells: a process ended while drawing; drawn last, one by one" in told
    code, told = evaluated()
    assert code == 1 and "1 cell: 2 processes ended while drawing; not drawn now (seed 0 of 'blue')" in told
    assert len(rows(Path("cmp"))) == 5


@posix
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_command_with_two_workers_is_killed_with_all_its_processes(work: Path) -> None:
    """Each time when more pictures are there, at a moment of its own; what is left is made by the last command."""
    (work / "p.txt").write_text("".join(f"red {n}\n" for n in range(20)))
    words = ["model=toy", "steps=2", "prompts=p.txt", "seeds=0..9", "batch_size=4", "out=cmp", "metrics=toy"]
    command = [sys.executable, "-m", "genbench", "eval", *words, "workers=2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    chance, known, folder = random.Random(5), dict[str, tuple[str, str, float]](), work / "cmp"
    for _ in range(3):
        process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None and len(list(folder.rglob("*.png"))) <= len(known):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.1))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = rows(folder)
        assert known.items() <= now.items()
        check_whole(folder, list(now), now)
        known = now
    while len(rows(folder)) < 200:  # a cell that two kills met fails once, and is tried again
        cli_main("eval", words)
    assert known.items() <= rows(folder).items() and len(list(folder.rglob("*.png"))) == 200


@posix
def test_a_run_is_read_while_it_goes_on(work: Path) -> None:
    (work / "p.txt").write_text("".join(f"red {n}\n" for n in range(60)))
    grid = plan(sort_words({"model": "toy", "steps": "2", "prompts": "p.txt", "seeds": "0..1", "out": "cmp"}))
    with Store("cmp") as store:
        store.add_plan(grid.settings, grid.cells)
    child, seen = forked(partial(draw, Path("cmp"), grid)), [0]
    while not ended(child):
        assert cli_main("export", ["cmp", "out=now.csv"]) == 0
        seen.append(len(Path("now.csv").read_text().splitlines()) - 1)
    assert seen == sorted(seen) and any(0 < count < 120 for count in seen)
    assert len(rows(Path("cmp"))) == 120


@pytest.mark.slow
@posix
@pytest.mark.timeout(1500)
def test_five_cold_kills_of_the_embedded_model(work: Path) -> None:
    (work / "p.txt").write_text("a red cube\na blue sphere\ntwo green cones\na pink cylinder\n")
    words = ["prompts=p.txt", "seeds=0..5", "steps=4", "batch_size=2", "out=cmp"]
    command = [sys.executable, "-m", "genbench", "eval", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    chance, known, folder = random.Random(3), dict[str, tuple[str, str, float]](), work / "cmp"
    for kill in range(5):
        process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
        wanted = len(known) + (kill > 0)  # the first is killed while it starts, the others among their pictures
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and len(list(folder.rglob("*.png"))) < wanted:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 3 if kill == 0 else 0.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if (folder / "results.sqlite").is_file():
            now = rows(folder)
            assert known.items() <= now.items()
            check_whole(folder, list(now), now)
            known = now
    assert 0 < len(known) < 24
    with Store(folder, create=False) as store:
        met_twice = sum(ends >= 2 for ends in store.attempts().values())  # such a cell fails once, and is tried again
    assert cli_main("eval", [*words, "workers=2"]) == (1 if met_twice else 0)
    assert len(rows(folder)) == 24 - met_twice
    assert cli_main("eval", [*words, "workers=2"]) == 0
    made = rows(folder)
    assert len(made) == 24 == len(list(folder.rglob("*.png"))) and known.items() <= made.items()
    check_whole(folder, list(made), made)
    assert not list(folder.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of this process from /proc")
def test_memory_does_not_grow_over_a_thousand_pictures(work: Path) -> None:
    (work / "p.jsonl").write_text("".join(json.dumps({"prompt": f"red {n}"}) + "\n" for n in range(300)))
    base = ["model=toy", "steps=2", "prompts=p.jsonl", "out=cmp"]

    def grown(seeds: str) -> int:
        """Return the megabytes that this process holds after the pictures of these seeds."""
        asked = sort_words(dict(word.split("=", 1) for word in [*base, f"seeds={seeds}"]))
        grid = plan(asked)
        with Store("cmp") as store:
            store.add_plan(grid.settings, grid.cells)
        draw(Path("cmp"), grid)
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20

    grown("0")  # 300 pictures to warm up
    before = grown("1")
    after = grown("2..5")
    assert len(rows(Path("cmp"))) == 1800
    assert after - before < 12, f"{before} MB after 600 pictures, {after} MB after 1,800"
