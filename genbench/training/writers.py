"""Where curves go besides the JSON lines that are always written: TensorBoard or trackio, both extras."""

# pyright: basic
# tensorboard and trackio carry no types here.

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from genbench.errors import MissingDependency, UsageError, did_you_mean


class Writer(Protocol):
    """Takes the figures of a step; `close` writes what is still held."""

    def write(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path, name: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._events: Any = SummaryWriter(str(folder / "tensorboard" / name))

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._events.close()


class Trackio:
    """A local trackio project called genbench: `trackio show`."""

    def __init__(self, folder: Path, name: str) -> None:
        import trackio  # pyright: ignore[reportMissingImports]  # an extra

        self._run: Any = trackio.init(project="genbench", name=f"{folder.name}-{name}", embed=False)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step)

    def close(self) -> None:
        self._run.finish()


WRITERS: Mapping[str, Callable[[Path, str], Writer]] = {"tensorboard": TensorBoard, "trackio": Trackio}


def check_writers(words: Sequence[str]) -> None:
    """Raise UsageError for a name that is none, MissingDependency for one that is not installed."""
    for word in words:
        if word not in WRITERS:
            raise UsageError(f"track={word} is no writer of curves{did_you_mean(word, WRITERS)}")
        if importlib.util.find_spec(word) is None:
            raise MissingDependency(f"track={word} needs {word}; install it: pip install 'genbench[{word}]'")


def open_writers(words: Sequence[str], folder: Path, name: str) -> tuple[Writer, ...]:
    """Open the writers that `track=` names."""
    check_writers(words)
    return tuple(WRITERS[word](folder, name) for word in words)
