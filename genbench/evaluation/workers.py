"""Local worker processes around one queue of batches. `work` knows nothing of the pool: a cluster can run it as well.

Each process draws one batch while it writes the one before to the store itself. A process that dies costs at most the
cell that killed it. Fresh processes, not forks: torch's threads do not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from genbench.errors import OutputError
from genbench.evaluation import shares
from genbench.evaluation.keeping import Shelf
from genbench.evaluation.store import Store
from genbench.evaluation.studio import Loading, Studio
from genbench.evaluation.worklist import Cell, Settings

Progress = Callable[[int], None]


@dataclass
class Job:
    """What every process of a run shares; small enough to be sent to a new process."""

    folder: Path
    settings: Mapping[str, Settings]


def run(
    job: Job, batches: Sequence[list[Cell]], workers: int, progress: Progress, loading: Loading | None = None
) -> None:
    """Make every batch; `progress(cells)` as they come into the store. `workers` 1 stays in this process, and holds
    `loading` while weights may load here.
    """
    if workers > 1:
        Pool(job, deque(batches), progress).run(min(workers, len(batches)))
        return
    with Store(job.folder) as store, Store(job.folder) as notes:  # two threads, one each
        studio = Studio(Shelf(store), job.settings, loading or nullcontext(), notes.attempt)
        with closing(studio.made(batches)) as made:
            for kept in made:
                progress(kept)


def work(job: Job, pipe: Connection) -> None:
    """Live as a worker: make the batches that arrive, the last before None. Each is answered when it is drawn, and the
    last again when it is written, with the number of cells that have come into the store since the answer before.

    Answers with the reason, and ends, where nothing can be written; ends as well where the parent is gone.
    """
    with suppress(EOFError, BrokenPipeError), Store(job.folder) as store, Store(job.folder) as notes:
        batches: Iterator[list[Cell]] = iter(pipe.recv, None)
        with closing(Studio(Shelf(store), job.settings, attempt=notes.attempt).made(batches)) as made:
            try:
                for kept in made:
                    pipe.send(kept)
            except OutputError as error:
                pipe.send(str(error))


@dataclass
class Worker:
    """A process at its `place` among the others, the batch it draws, and the one drawn before, which it writes."""

    place: int
    process: BaseProcess
    drawing: list[Cell] = field(default_factory=list[Cell])
    writing: list[Cell] = field(default_factory=list[Cell])


@dataclass
class Pool:
    """Processes by their pipe."""

    job: Job
    queue: deque[list[Cell]]
    progress: Progress
    busy: dict[Connection, Worker] = field(default_factory=dict[Connection, Worker])
    workers: int = 1
    devices: list[str] = field(default_factory=list[str])

    def run(self, workers: int) -> None:
        """Return when the queue is empty and every process has ended. Raises OutputError on a full disk."""
        self.workers, self.devices = workers, shares.devices(self.job.settings.values(), os.environ)
        try:
            for place in range(workers):
                self._start(place)
            while self.busy:
                for pipe in self._ready():
                    self._answer(pipe)
        finally:
            for worker in self.busy.values():
                worker.process.terminate()

    def _start(self, place: int) -> None:
        if not self.queue:
            return
        context = multiprocessing.get_context("spawn")
        pipe, end = context.Pipe()
        process = context.Process(target=work, args=(self.job, end), daemon=True)
        with shares.variables(shares.share(place, self.workers, self.devices, os.environ)):
            process.start()
        end.close()
        self.busy[pipe] = Worker(place, process)
        self._send(pipe)

    def _ready(self) -> list[Connection]:
        return [pipe for pipe in wait(list(self.busy)) if isinstance(pipe, Connection)]

    def _answer(self, pipe: Connection) -> None:
        try:
            answer: int | str = pipe.recv()
        except (EOFError, OSError):
            self._lost(pipe)
            return
        if isinstance(answer, str):
            raise OutputError(answer)
        self.progress(answer)
        if self.busy[pipe].drawing:
            self._send(pipe)
        else:  # it had been told that there is no more
            self.busy.pop(pipe).process.join()

    def _send(self, pipe: Connection) -> None:
        worker = self.busy[pipe]
        batch = self.queue.popleft() if self.queue else []
        worker.writing, worker.drawing = worker.drawing, batch
        try:
            pipe.send(batch or None)
        except OSError:
            self._lost(pipe)

    def _lost(self, pipe: Connection) -> None:
        """A process died, of the batch that it drew or, where it drew none, of the one that it wrote: that one is tried
        again cell by cell in a new process, and a cell that ends a process alone fails. The other is tried as it is.
        """
        worker = self.busy.pop(pipe)
        worker.process.join()
        blamed, other = (worker.drawing, worker.writing) if worker.drawing else (worker.writing, [])
        with Store(self.job.folder) as store:
            done = store.done()
            unblamed = [cell for cell in other if cell.key not in done]
            missing = [cell for cell in blamed if cell.key not in done]
            self.progress(len(other) + len(blamed) - len(unblamed) - len(missing))
            if unblamed:
                self.queue.appendleft(unblamed)
            if len(blamed) == 1:
                for cell in missing:
                    store.add_failure(cell, f"the process that drew it ended with exit code {worker.process.exitcode}")
                    self.progress(1)
            else:
                self.queue.extendleft([cell] for cell in reversed(missing))
        self._start(worker.place)
