"""Making cells in one process: a session that stays loaded, batches across prompts and seeds.

A batch that fails is drawn again one by one, so that one bad prompt costs one cell; the failure is noted with its
reason and the run goes on. A disk that is full stops the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from genbench import files, record
from genbench.discovery import one_line
from genbench.errors import OutputError
from genbench.evaluation.store import Store
from genbench.evaluation.worklist import Cell, Settings, opening, reopened
from genbench.generation import Picture, Session
from genbench.models import model_hash

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Drawn:
    """A finished picture on its way to the store: `file` is its PNG, `path` its place in the folder."""

    cell: Cell
    path: str
    file: bytes
    image: str
    nfe: int
    seconds: float
    batch: int
    score: float | None
    trace: Sequence[Mapping[str, object]]


class Sink(Protocol):
    """Where finished cells go: a folder with its store, or a parcel that is unpacked there."""

    def add_picture(self, drawn: Drawn) -> None: ...
    def add_failure(self, cell: Cell, error: str) -> None: ...


@dataclass(frozen=True)
class Shelf:
    """The folder of a store: the file first, then its row."""

    store: Store

    def add_picture(self, drawn: Drawn) -> None:
        """Write the file, then its row. Raises OutputError where the file cannot be written."""
        path = self.store.folder / drawn.path
        path.parent.mkdir(exist_ok=True)
        files.write_whole(path, drawn.file)
        row = {name: value for name, value in vars(drawn).items() if name not in ("cell", "file")}
        self.store.add_picture(drawn.cell, **row)

    def add_failure(self, cell: Cell, error: str) -> None:
        self.store.add_failure(cell, error)


@dataclass
class Studio:
    """One process's way to make pictures: keeps the session of the chain it drew last."""

    sink: Sink
    settings: Mapping[str, Settings]
    session: Session | None = None
    opened: str = ""
    environment: dict[str, object] = field(default_factory=dict[str, object])
    closed: dict[str, str] = field(default_factory=dict[str, str])

    def make(self, cells: Sequence[Cell]) -> None:
        """Draw cells of one chain and hand each over: as a picture, or as a failure with its reason."""
        session = self._session(cells[0].settings)
        if session is None:
            for cell in cells:
                self.sink.add_failure(cell, self.closed[cell.settings])
            return
        missing = {cell.item.index: cell for cell in cells}
        try:
            for picture in session.pictures([cell.item for cell in cells]):
                self._keep(missing.pop(picture.item.index), picture)
        except OutputError:
            raise
        except Exception as error:  # whatever one prompt or plugin raises must not cost the others
            self._again(list(missing.values()), len(cells), error)

    def _again(self, missing: Sequence[Cell], drawn: int, error: Exception) -> None:
        for cell in missing:
            if drawn > 1:
                self.make([cell])
            else:
                self.sink.add_failure(cell, one_line(error))

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

    def _keep(self, cell: Cell, picture: Picture) -> None:
        pixels = np.asarray(picture.pil)
        drawn = Drawn(
            cell,
            path=f"{cell.settings[:8]}/{cell.key}-seed{cell.item.seed}.png",
            file=encoded(picture, self.environment),
            image=image_hash(pixels),
            nfe=picture.nfe,
            seconds=picture.seconds,
            batch=len(picture.batch),
            score=picture.score,
            trace=picture.trace,
        )
        self.sink.add_picture(drawn)


def environment(session: Session) -> dict[str, object]:
    """Return on what pictures are drawn, as `genbench rerun` compares it with its own."""
    words = zip(session.resolved.plugins, session.chain.plugins, strict=True)
    return {
        "versions": record.versions(),
        "threads": torch.get_num_threads(),
        "model_hash": model_hash(session.model),
        "plugins": [{"word": word, "content": plugin.fingerprint} for word, plugin in words],
    }


def encoded(picture: Picture, environment: Mapping[str, object]) -> bytes:
    """Return the PNG of a picture with everything that makes it again."""
    told = record.picture_record(picture, environment)
    return record.png(picture.pil, record.picture_texts(told, picture.resolved.request.metadata))


def image_hash(pixels: Pixels) -> str:
    """Hash of (h, w, 3) uint8 pixels and their size, 24 hex digits; what a PNG says beside them does not count."""
    shape = "x".join(map(str, pixels.shape)).encode()
    return hashlib.sha256(shape + b" " + np.ascontiguousarray(pixels).tobytes()).hexdigest()[:24]


def remove_unfinished(folder: Path, before: float) -> None:
    """Remove what killed processes had begun to write before that time (seconds since the epoch)."""
    for path in (*folder.glob(".*.part"), *folder.glob("*/.*.part")):
        with suppress(OSError):
            if path.stat().st_mtime < before:
                path.unlink()
