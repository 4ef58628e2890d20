"""Writers of curves: extras that are asked for by name, and said by name where they are missing."""

from __future__ import annotations

import importlib.util
import sqlite3
from pathlib import Path

import pytest

from genbench.errors import MissingDependency, UsageError
from genbench.training.writers import WRITERS, check_writers, open_writers

FIGURES = {"reward": 0.5, "diversity": 0.25}


@pytest.mark.parametrize("word", list(WRITERS))
def test_a_writer_that_is_missing_names_its_extra(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingDependency, match=rf"track={word} needs {word}; install it: pip install 'genbench\[{word}\]'"
    ):
        check_writers((word,))


def test_a_writer_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="track=tensorbord is no writer of curves; did you mean 'tensorboard'"):
        check_writers(("tensorbord",))


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="an extra")
def test_tensorboard_events_are_in_the_folder(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (writer,) = open_writers(("tensorboard",), tmp_path, "toy")
    for step in (0, 10):
        writer.write(step, FIGURES)
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "toy"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [(0, 0.5), (10, 0.5)]


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="an extra")
def test_trackio_keeps_a_project_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    (writer,) = open_writers(("trackio",), tmp_path, "toy")
    writer.write(10, FIGURES)
    writer.close()
    (file,) = (tmp_path / "trackio").rglob("genbench*.db")
    assert sqlite3.connect(file).execute("select step from metrics").fetchall() == [(10,)]
