"""Processes around one queue, on threads that stand for them: what each is told, and what a death costs."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from genbench.errors import OutputError
from genbench.evaluation import keeping, shares, workers, worklist
from genbench.evaluation.keeping import Drawn, Outcome
from genbench.evaluation.planning import Plan, plan
from genbench.evaluation.store import Store
from genbench.evaluation.studio import Studio
from genbench.evaluation.words import sort_words
from genbench.evaluation.workers import Job, Pool
from genbench.evaluation.worklist import Cell

STARTED = list[dict[str, str]]()
"""The variables of every process that was started."""


class Died(BaseException):
    """Ends what stands for a process."""


class Process:
    """A thread that stands for a process: `Died` ends it without a word, with exit code 9."""

    exitcode = 9

    def __init__(self, target: Callable[[Job, Connection], None], args: tuple[Job, Connection], daemon: bool) -> None:
        job, end = args
        self.thread = Thread(target=self._live, args=(target, job, Connection(os.dup(end.fileno()))), daemon=daemon)

    def _live(self, target: Callable[[Job, Connection], None], job: Job, end: Connection) -> None:
        try:
            target(job, end)
        except Died:
            pass
        finally:
            end.close()

    def start(self) -> None:
        STARTED.append({name: os.environ[name] for name in (shares.THREADS, shares.DEVICES) if name in os.environ})
        self.thread.start()

    def join(self) -> None:
        self.thread.join()

    def terminate(self) -> None:
        """A thread cannot be ended; its pipe is."""


@pytest.fixture
def grid(work: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Eight toy cells in the store of `cmp`, and threads for processes."""
    STARTED.clear()
    context = SimpleNamespace(Pipe=Pipe, Process=Process)
    monkeypatch.setattr(workers, "multiprocessing", SimpleNamespace(get_context=lambda how: context))
    Path("p.txt").write_text("red\nblue\ngreen\nwhite\n")
    grid = plan(sort_words({"model": "toy", "prompts": "p.txt", "seeds": "0..1", "steps": "2", "out": "cmp"}))
    with Store("cmp") as store:
        store.add_plan(grid.settings, grid.cells)
    return grid


def job(grid: Plan) -> Job:
    return Job(Path("cmp"), {each.id: worklist.for_worker(each, 2) for each in grid.settings})


def drawn(grid: Plan, processes: int) -> list[int]:
    """Draw in batches of two; returns what progress was told."""
    told = list[int]()
    Pool(job(grid), deque(worklist.chunks(grid.cells, 2)), told.append).run(processes)
    return told


def done() -> set[str]:
    with Store("cmp") as store:
        return store.done()


def failures() -> list[tuple[str, str]]:
    with Store("cmp") as store:
        return [(prompt, error) for _, prompt, _, error in store.failures()]


def dies_drawing(monkeypatch: pytest.MonkeyPatch, when: Callable[[Sequence[Cell]], bool]) -> None:
    draw = Studio.draw

    def deadly(studio: Studio, cells: Sequence[Cell]) -> list[Outcome]:
        if when(cells):
            raise Died
        return draw(studio, cells)

    monkeypatch.setattr(Studio, "draw", deadly)


def dies_writing(monkeypatch: pytest.MonkeyPatch, when: Callable[[Drawn], bool]) -> None:
    add = keeping.Shelf.add_picture

    def deadly(shelf: keeping.Shelf, picture: Drawn) -> None:
        if when(picture):
            raise Died
        add(shelf, picture)

    monkeypatch.setattr(keeping.Shelf, "add_picture", deadly)


def test_a_worker_answers_each_batch_when_it_is_drawn_and_the_last_again(grid: Plan) -> None:
    pipe, end = Pipe()
    process: Any = Process(workers.work, (job(grid), end), daemon=True)
    process.start()
    end.close()
    batches, told = [*worklist.chunks(grid.cells, 2), None], list[int]()
    for batch in batches:
        pipe.send(batch)
        told.append(pipe.recv())
        assert sum(told) <= len(done())  # nothing is told before it is there
    assert told == [0, 2, 2, 2, 2] and len(done()) == 8
    with pytest.raises(EOFError):
        pipe.recv()


def test_processes_draw_every_cell_once(grid: Plan) -> None:
    assert sum(drawn(grid, 3)) == 8 and done() == {cell.key for cell in grid.cells}
    assert len(STARTED) == 3


def test_a_cell_that_ends_its_process_fails_alone(grid: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    dies_drawing(monkeypatch, lambda cells: any((c.item.prompt, c.item.seed) == ("green", 1) for c in cells))
    assert sum(drawn(grid, 1)) == 8 and len(done()) == 7
    assert failures() == [("green", "the process that drew it ended with exit code 9")]


def test_a_batch_that_was_being_written_goes_back_as_it_is_and_nothing_is_lost(
    grid: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first file ends the process while the second batch is drawn."""
    deaths, sizes, draw = [True], list[int](), Studio.draw
    dies_writing(monkeypatch, lambda picture: bool(deaths) and deaths.pop())
    monkeypatch.setattr(Studio, "draw", lambda studio, cells: (sizes.append(len(cells)), draw(studio, cells))[1])
    assert sum(drawn(grid, 1)) == 8
    assert done() == {cell.key for cell in grid.cells} and failures() == [] and len(STARTED) == 2
    assert sizes == [2, 2, 1, 1, 2, 2, 2]


def test_a_file_that_ends_its_process_every_time_fails_in_the_end(grid: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    dies_writing(monkeypatch, lambda picture: picture.cell.item.prompt == "white" and picture.cell.item.seed == 1)
    assert sum(drawn(grid, 1)) == 8
    assert "white" in {prompt for prompt, _ in failures()} and len(done()) + len(failures()) == 8


def test_a_full_disk_in_one_process_stops_the_run(grid: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr("genbench.files.write_whole", full)
    with pytest.raises(OutputError, match="the disk is full"):
        drawn(grid, 2)
    assert done() == set()


# --- what a process gets of the machine -----------------------------------------------------------------------------


def test_processes_share_cores_and_devices(grid: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(shares.THREADS)
    monkeypatch.delenv(shares.DEVICES, raising=False)
    monkeypatch.setattr(shares, "usable_cores", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    drawn(grid, 3)
    assert [each[shares.DEVICES] for each in STARTED] == ["0", "1", "0"]
    assert {each[shares.THREADS] for each in STARTED} == {"2"}  # 8 cores, 3 processes
    assert shares.THREADS not in os.environ and shares.DEVICES not in os.environ


def test_a_process_takes_the_place_of_the_one_that_died(grid: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    deaths = [True]
    dies_drawing(monkeypatch, lambda cells: cells[0].item.prompt == "blue" and bool(deaths) and deaths.pop())
    drawn(grid, 1)
    assert [each[shares.DEVICES] for each in STARTED] == ["0", "0"] and len(done()) == 8


def test_what_the_user_set_is_kept(grid: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv(shares.THREADS, "3")
    monkeypatch.setenv(shares.DEVICES, "GPU-5a, 7")
    drawn(grid, 2)
    assert [{shares.THREADS: "3", shares.DEVICES: name} for name in ("GPU-5a", "7")] == STARTED
    assert (os.environ[shares.THREADS], os.environ[shares.DEVICES]) == ("3", "GPU-5a, 7")


def test_a_device_that_is_named_is_every_process_own_to_find(grid: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    (chain,) = grid.settings
    assert shares.devices([chain], {}) == ["0", "1"]
    named = worklist.Settings(chain.id, "none", {}, chain.resolved.override({"device": "cuda:1"}))
    assert shares.devices([chain, named], {}) == []


def test_a_machine_with_fewer_cores_than_processes_gives_each_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "usable_cores", lambda: 2)
    assert shares.share(4, 6, [], {}) == {shares.THREADS: "1"}
