"""The worker as Ray actors: batches go out to a cluster, finished pictures come back and are written here.

Only this process writes, so the machines of a cluster need no common disk, and what is in the store is on the disk. An
actor that dies costs what it was drawing: its batch is drawn again cell by cell by a new one, and a cell that ends two
actors fails.
"""

# pyright: basic
# Ray's handles carry no types here; they stop at this module's own signatures.

from __future__ import annotations

import importlib.util
import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genbench.discovery import one_line
from genbench.errors import MissingDependency, UsageError
from genbench.evaluation.keeping import Drawn, Shelf, Sink
from genbench.evaluation.store import Store
from genbench.evaluation.studio import Studio
from genbench.evaluation.workers import Job, Progress
from genbench.evaluation.worklist import Cell, Settings

STARTS = 3
"""Actors that may end before they are ready; one more, and the run stops."""


def check() -> None:
    """Raise MissingDependency unless ray can be imported."""
    if importlib.util.find_spec("ray") is None:
        raise MissingDependency("ray= needs ray; install it: pip install 'genbench[ray]'")


def run(job: Job, batches: Sequence[list[Cell]], workers: int, progress: Progress, address: str) -> None:
    """Make every batch with up to `workers` actors; `progress(cells)` after each.

    Raises UsageError where no cluster answers, MissingDependency where its actors cannot start.
    """
    with connected(address) as ray, Store(job.folder) as store:
        actor = ray.remote(num_cpus=1, num_gpus=1 if ray.cluster_resources().get("GPU") else 0)(Worker)
        settings = ray.put(dict(job.settings))
        fleet = Fleet(ray, lambda: actor.remote(settings, str(Path.cwd())), Shelf(store), deque(batches), progress)
        fleet.run(min(workers, len(batches)))


@contextmanager
def connected(address: str) -> Generator[Any]:
    """Join a cluster (`auto`: RAY_ADDRESS, the one running on this machine, else a local one); leave it at the end."""
    check()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(None if address == "auto" else address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"ray={address}: no cluster to join ({one_line(error)}); start one: ray start --head"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


@dataclass
class Parcel:
    """What an actor has finished and not yet handed over, in order."""

    things: list[Drawn | tuple[Cell, str]] = field(default_factory=list)

    def add_picture(self, drawn: Drawn) -> None:
        self.things.append(drawn)

    def add_failure(self, cell: Cell, error: str) -> None:
        self.things.append((cell, error))

    def unpack(self, sink: Sink) -> None:
        """Hand everything over to another sink."""
        for thing in self.things:
            if isinstance(thing, Drawn):
                sink.add_picture(thing)
            else:
                sink.add_failure(*thing)


class Worker:
    """The actor: one torch thread, one open session; in the folder of the command where that exists."""

    def __init__(self, settings: Mapping[str, Settings], folder: str) -> None:
        import torch

        torch.set_num_threads(1)
        if Path(folder).is_dir():
            os.chdir(folder)
        self.studio = Studio(Parcel(), settings)

    def ready(self) -> Parcel:
        """Answer, so that what keeps an actor from starting is told from what ends it later."""
        return Parcel()

    def make(self, batch: list[Cell]) -> Parcel:
        """Draw a batch; nothing is kept here."""
        self.studio.sink = parcel = Parcel()
        self.studio.make(batch)
        return parcel


@dataclass
class Fleet:
    """Actors by the call that each is busy with, and the batch it draws; none while it starts."""

    ray: Any
    hire: Callable[[], Any]
    shelf: Shelf
    queue: deque[list[Cell]]
    progress: Progress
    busy: dict[Any, tuple[Any, list[Cell]]] = field(default_factory=dict)
    unstarted: int = 0

    def run(self, workers: int) -> None:
        """Return when every batch is in the store, drawn or failed. Raises OutputError on a full disk."""
        for _ in range(workers):
            self._start()
        while self.busy:
            (call, *_), _ = self.ray.wait(list(self.busy))
            actor, batch = self.busy.pop(call)
            try:
                parcel = self.ray.get(call)
            except self.ray.exceptions.RayTaskError:
                raise  # a mistake in this file: whatever a plugin raises is in the parcel
            except self.ray.exceptions.RayError as error:
                self._lost(batch, error)
            else:
                parcel.unpack(self.shelf)
                self.progress(len(batch))
                self._send(actor)

    def _start(self) -> None:
        if self.queue:
            actor = self.hire()
            self.busy[actor.ready.remote()] = (actor, [])

    def _send(self, actor: Any) -> None:
        """Give an actor its next batch; without one its last handle goes here, and its process ends."""
        if self.queue:
            batch = self.queue.popleft()
            self.busy[actor.make.remote(batch)] = (actor, batch)

    def _lost(self, batch: list[Cell], error: Exception) -> None:
        if not batch:
            self.unstarted += 1
        if self.unstarted > STARTS:
            raise MissingDependency(f"Ray's workers cannot start; is this genbench on every machine? {one_line(error)}")
        if len(batch) == 1:
            self.shelf.add_failure(batch[0], f"the Ray worker that drew it ended: {one_line(error)}")
            self.progress(1)
        else:
            self.queue.extendleft([cell] for cell in reversed(batch))
        self._start()
