"""Local worker processes around one queue of batches. `work` knows nothing of the pool: a cluster can run it as well.

Each process draws one batch at a time and writes to the store itself. A process that dies costs at most the cell that
killed it. Fresh processes, not forks: torch's threads do not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from genbench.errors import OutputError
from genbench.evaluation.store import Store
from genbench.evaluation.studio import Shelf, Studio
from genbench.evaluation.worklist import Cell, Settings

Progress = Callable[[int], None]
Drawing = tuple[BaseProcess, list[Cell]]


@dataclass
class Job:
    """What every process of a run shares; small enough to be sent to a new process."""

    folder: Path
    settings: Mapping[str, Settings]


def run(job: Job, batches: Sequence[list[Cell]], workers: int, progress: Progress) -> None:
    """Make every batch; `progress(cells)` after each. `workers` 1 stays in this process."""
    if workers > 1:
        Pool(job, deque(batches), progress).run(min(workers, len(batches)))
        return
    with Store(job.folder) as store:
        studio = Studio(Shelf(store), job.settings)
        for batch in batches:
            studio.make(batch)
            progress(len(batch))


def work(job: Job, pipe: Connection) -> None:
    """Live as a worker: make the batches that arrive, answer each with its size, end at None. One torch thread.

    Answers with the reason, and ends, where nothing can be written; ends as well where the parent is gone.
    """
    import torch

    torch.set_num_threads(1)
    with suppress(EOFError, BrokenPipeError), Store(job.folder) as store:
        studio = Studio(Shelf(store), job.settings)
        while (batch := pipe.recv()) is not None:
            try:
                studio.make(batch)
            except OutputError as error:
                pipe.send(str(error))
                return
            pipe.send(len(batch))


@dataclass
class Pool:
    """Processes by their pipe, each with the batch it is drawing."""

    job: Job
    queue: deque[list[Cell]]
    progress: Progress
    busy: dict[Connection, Drawing] = field(default_factory=dict[Connection, Drawing])

    def run(self, workers: int) -> None:
        """Return when the queue is empty and every process has ended. Raises OutputError on a full disk."""
        try:
            for _ in range(workers):
                self._start()
            while self.busy:
                for pipe in self._ready():
                    self._answer(pipe)
        finally:
            for process, _ in self.busy.values():
                process.terminate()

    def _start(self) -> None:
        if not self.queue:
            return
        context = multiprocessing.get_context("spawn")
        pipe, end = context.Pipe()
        process = context.Process(target=work, args=(self.job, end), daemon=True)
        with _one_thread():
            process.start()
        end.close()
        self.busy[pipe] = (process, [])
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
        self._send(pipe)

    def _send(self, pipe: Connection) -> None:
        process, _ = self.busy[pipe]
        batch = self.queue.popleft() if self.queue else None
        self.busy[pipe] = (process, batch or [])
        try:
            pipe.send(batch)
        except OSError:
            self._lost(pipe)
            return
        if batch is None:
            del self.busy[pipe]
            process.join()

    def _lost(self, pipe: Connection) -> None:
        """A process died: its batch is tried again cell by cell in a new process; a cell that kills twice fails."""
        process, batch = self.busy.pop(pipe)
        process.join()
        with Store(self.job.folder) as store:
            done = store.done()
            missing = [cell for cell in batch if cell.key not in done]
            self.progress(len(batch) - len(missing))
            if len(batch) == 1:
                for cell in missing:
                    store.add_failure(cell, f"the process that drew it ended with exit code {process.exitcode}")
                    self.progress(1)
            else:
                self.queue.extendleft([cell] for cell in reversed(missing))
        self._start()


@contextmanager
def _one_thread() -> Generator[None]:
    """OMP_NUM_THREADS=1 for a child that is starting: two processes beat two threads, and torch reads it on import."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
