"""From a drawn picture to the store: pixels and words -> PNG and hash -> file, then row."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from genbench import files, record
from genbench.discovery import one_line
from genbench.evaluation.store import Store
from genbench.evaluation.worklist import Cell
from genbench.generation import Picture, looked_at
from genbench.record import Finished
from genbench.request import Item, Resolved

Pixels = NDArray[np.uint8]
SHEET = ".views.png"
"""How the name of a picture ends that shows a scene from several sides."""


@dataclass(frozen=True)
class Sketch:
    """A drawn picture before it is encoded: what a record says of it, and 8-bit pixels `pil` on the CPU, no tensor.

    With `views` they are a sheet of a scene's views.
    """

    cell: Cell
    environment: Mapping[str, object]
    pil: Any
    views: bool
    item: Item
    resolved: Resolved
    nfe: int
    seconds: float
    batch: tuple[Item, ...]
    position: int
    score: float | None
    trace: tuple[Mapping[str, object], ...]

    @classmethod
    def of(cls, cell: Cell, picture: Picture, environment: Mapping[str, object]) -> Sketch:
        """Take over a picture, or what is judged of a scene; waits for its device."""
        scene = picture.scene
        shown = picture if scene is None else replace(picture, image=looked_at(scene, judged=True))
        return cls(
            cell,
            environment,
            pil=shown.pil,
            views=scene is not None,
            item=picture.item,
            resolved=picture.resolved,
            nfe=picture.nfe,
            seconds=picture.seconds,
            batch=picture.batch,
            position=picture.position,
            score=picture.score,
            trace=picture.trace,
        )


@dataclass(frozen=True)
class Failure:
    """A cell that has no picture, and why."""

    cell: Cell
    error: str


Outcome = Sketch | Failure


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
    made_with: str = ""

    @classmethod
    def of(cls, sketch: Sketch) -> Drawn:
        """Encode and hash a picture."""
        cell = sketch.cell
        return cls(
            cell,
            path=f"{cell.settings[:8]}/{cell.key}-seed{cell.item.seed}{SHEET if sketch.views else '.png'}",
            file=encoded(sketch, sketch.environment),
            image=image_hash(np.asarray(sketch.pil)),
            nfe=sketch.nfe,
            seconds=sketch.seconds,
            batch=len(sketch.batch),
            score=sketch.score,
            trace=sketch.trace,
            made_with=made_with(sketch.environment),
        )


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
        self.store.add_picture(drawn.cell, size=len(drawn.file), **row)

    def add_failure(self, cell: Cell, error: str) -> None:
        self.store.add_failure(cell, error)


def keep(sink: Sink, outcomes: Sequence[Outcome]) -> int:
    """Hand every outcome over and return how many there were; a picture that cannot be encoded is a failure."""
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            sink.add_failure(outcome.cell, outcome.error)
            continue
        try:
            drawn = Drawn.of(outcome)
        except Exception as error:  # whatever a plugin wrote into its trace must not cost the other pictures
            sink.add_failure(outcome.cell, one_line(error))
        else:
            sink.add_picture(drawn)
    return len(outcomes)


def encoded(picture: Finished, environment: Mapping[str, object]) -> bytes:
    """Return the PNG of a picture with everything that makes it again."""
    told = record.picture_record(picture, environment)
    return record.png(picture.pil, record.picture_texts(told, picture.resolved.request.metadata))


def made_with(environment: Mapping[str, Any]) -> str:
    """Say in a line what shapes a picture's bits besides its settings: versions and device."""
    versions: Mapping[str, str] = environment.get("versions", {})
    shown = [f"{name} {versions[name]}" for name in ("genbench", "torch", "diffusers") if name in versions]
    return ", ".join([*shown, *([str(environment["device_name"])] if "device_name" in environment else [])])


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
