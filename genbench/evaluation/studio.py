"""Making cells in one process: a session that stays loaded, batches across prompts and seeds.

A batch is encoded and written by a thread of its own while the next one is drawn. A batch that fails is drawn again one
by one, so that one bad prompt costs one cell; the failure is noted with its reason and the run goes on. A disk that is
full stops the run.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from genbench import record
from genbench.discovery import one_line
from genbench.errors import OutputError
from genbench.evaluation.keeping import Failure, Outcome, Sink, Sketch, keep
from genbench.evaluation.worklist import Cell, Settings, opening, reopened
from genbench.generation import Session
from genbench.models import model_hash

Loading = AbstractContextManager[object]
Attempt = Callable[[Sequence[Cell]], AbstractContextManager[None]]


@dataclass
class Studio:
    """One process's way to make pictures: keeps the session of the chain it drew last.

    `loading` is held while weights may load: a session opens, and draws its first batch. `attempt` is held while cells
    are drawn.
    """

    sink: Sink
    settings: Mapping[str, Settings]
    loading: Loading = field(default_factory=nullcontext[None])
    attempt: Attempt = field(default=lambda cells: nullcontext())
    session: Session | None = None
    opened: str = ""
    environment: dict[str, object] = field(default_factory=dict[str, object])
    closed: dict[str, str] = field(default_factory=dict[str, str])

    def make(self, cells: Sequence[Cell]) -> None:
        """Draw cells of one chain and hand each over: as a picture, or as a failure with its reason."""
        keep(self.sink, self.draw(cells))

    def made(self, batches: Iterable[Sequence[Cell]]) -> Generator[int]:
        """Make batch after batch, each of one chain; one is handed over by a thread while the next is drawn.

        Yields how many cells have newly been handed over: after each batch drawn (the first time 0), and at the end.
        Raises what handing over raises: OutputError on a full disk.
        """
        with ThreadPoolExecutor(1) as writer:
            writing: Future[int] | None = None
            for batch in batches:
                drawn = self.draw(batch)
                kept = 0 if writing is None else writing.result()
                writing = writer.submit(keep, self.sink, drawn)
                del drawn  # the writer's alone now
                yield kept
            if writing is not None:
                yield writing.result()

    def draw(self, cells: Sequence[Cell]) -> list[Outcome]:
        """Draw cells of one chain: each becomes a picture, or a failure with its reason."""
        with nullcontext() if cells[0].settings == self.opened else self.loading, self.attempt(cells):
            return list(self._outcomes(cells))

    def _outcomes(self, cells: Sequence[Cell]) -> Iterator[Outcome]:
        session = self._session(cells[0].settings)
        if session is None:
            yield from (Failure(cell, self.closed[cell.settings]) for cell in cells)
            return
        missing = {cell.item.index: cell for cell in cells}
        try:
            for picture in session.pictures([cell.item for cell in cells]):
                sketch = Sketch.of(missing[picture.item.index], picture, self.environment)
                del missing[picture.item.index]
                yield sketch
        except OutputError:
            raise
        except Exception as error:  # whatever one prompt or plugin raises must not cost the others
            yield from self._again(list(missing.values()), len(cells), error)

    def _again(self, missing: Sequence[Cell], drawn: int, error: Exception) -> Iterator[Outcome]:
        for cell in missing:
            if drawn > 1:
                yield from self._outcomes([cell])
            else:
                yield Failure(cell, one_line(error))

    def _session(self, settings: str) -> Session | None:
        """Return the chain's session, opened once; None where it cannot be opened, with the reason in `closed`.

        The next settings take over an open model and its plugins where they only draw otherwise, as a sweep does.
        """
        if settings in self.closed or settings == self.opened:
            return None if settings in self.closed else self.session
        chosen, before = self.settings[settings], self.settings.get(self.opened)
        try:
            if self.session is not None and before is not None and opening(before) == opening(chosen):
                self.session = reopened(self.session, chosen)
            else:
                self.session, self.opened = None, ""  # the model goes before the next one comes
                self.session = Session.open(chosen.resolved)
        except Exception as error:  # as above: the other chains go on
            self.closed[settings] = one_line(error)
            return None
        self.opened, self.environment = settings, environment(self.session)
        return self.session


def environment(session: Session) -> dict[str, object]:
    """Return on what pictures are drawn, as `genbench rerun` compares it with its own."""
    words = zip(session.resolved.plugins, session.chain.plugins, strict=True)
    device = torch.device(session.model.device)
    return {
        "versions": record.versions(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "model_hash": model_hash(session.model),
        "plugins": [{"word": word, "content": plugin.fingerprint} for word, plugin in words],
    }
