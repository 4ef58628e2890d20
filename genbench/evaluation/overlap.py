"""Scoring while drawing: a thread of the command's process judges pictures that have come into the store.

It only saves time. What it could not do, for it was stopped or a scorer raised, is done afterwards as without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread
from types import TracebackType

import torch

from genbench.evaluation.scoring import Metric, add_scores
from genbench.evaluation.store import Made, Store

BATCH = 16
"""Pictures judged between two looks at whether to stop."""


@dataclass
class Overlap:
    """`with Overlap(folder, scorers, here) as overlap:`; `overlap.tell(count)` says that pictures have come. At the end
    of the block the thread ends after the batch that it has at hand.

    `here`: this process draws as well. Loaders change what is torch's for all threads (the default dtype, how weights
    are initialised), so whoever draws here holds `loading` while weights may load, and waits for the first round, in
    which those of the scorers do.
    """

    folder: Path
    scorers: Sequence[Metric]
    here: bool
    loading: Lock = field(default_factory=Lock)
    news: Event = field(default_factory=Event)
    stopped: Event = field(default_factory=Event)
    first_round: Event = field(default_factory=Event)
    thread: Thread | None = None

    def __enter__(self) -> Overlap:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stopped.set()
        self.news.set()
        if self.thread is not None:
            self.thread.join()

    def tell(self, count: int) -> None:
        """Say that `count` pictures have come into the store; the first ones start the thread."""
        if not count or not self.scorers:
            return
        self.news.set()
        if self.thread is None:
            self.thread = Thread(target=self._run, name="scoring", daemon=True)
            self.thread.start()
            if self.here:
                self.first_round.wait()

    def _run(self) -> None:
        torch.set_num_threads(1)  # of this thread; the others are the drawing's
        try:
            with suppress(Exception), Store(self.folder) as store:  # whatever it is, scoring afterwards meets it again
                self._score(store)
        finally:
            self.first_round.set()

    def _score(self, store: Store) -> None:
        seen, lists = 0, [Waiting(metric, store.scored(metric.word, metric.version)) for metric in self.scorers]
        while self.news.wait() and not self.stopped.is_set():
            self.news.clear()
            seen, fresh = store.come(seen)
            for each in lists:
                each.add(fresh)
            while any(each.pictures for each in lists) and not self.stopped.is_set():
                lists = [each for each in lists if self._judged(store, each)]
                self.first_round.set()

    def _judged(self, store: Store, waiting: Waiting) -> bool:
        """Score the next batch of a list; returns False for a scorer that raised, which is left for afterwards."""
        try:
            with self.loading:
                add_scores(store, waiting.metric, waiting.next())
        except Exception:  # said afterwards, when it is asked again
            return False
        return True


@dataclass
class Waiting:
    """A scorer, what it has judged or is about to, and the pictures that wait for it."""

    metric: Metric
    known: set[tuple[str, str]]
    pictures: deque[Made] = field(default_factory=deque[Made])

    def add(self, fresh: Iterable[Made]) -> None:
        """Take over what is new to the scorer."""
        new = {(made.image, made.asked): made for made in fresh if (made.image, made.asked) not in self.known}
        self.known |= new.keys()
        self.pictures.extend(new.values())

    def next(self) -> list[Made]:
        """Take up to BATCH pictures off the list."""
        return [self.pictures.popleft() for _ in range(min(BATCH, len(self.pictures)))]
