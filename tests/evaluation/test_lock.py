"""One writer per folder: who holds it is said, what a killed process left holds nobody up."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from genbench.errors import OutputError, UsageError
from genbench.evaluation.lock import FILE, locked

HOLD = """
import sys
from pathlib import Path
from genbench.evaluation.lock import locked

with locked(Path(sys.argv[1]), "score"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path) -> Generator[subprocess.Popen[str]]:
    """A process that holds the folder until its input ends."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process


def test_the_second_is_told_who_is_at_work_and_comes_in_afterwards(tmp_path: Path) -> None:
    with holder(tmp_path / "cmp") as process:
        said = rf"genbench score is at work in '.*cmp' since .* \(process {process.pid} on {platform.node()}\)"
        with pytest.raises(UsageError, match=said), locked(tmp_path / "cmp", "eval"):
            pytest.fail("two hold one folder")
        process.communicate("")
    assert not (tmp_path / "cmp" / FILE).exists()
    with locked(tmp_path / "cmp", "eval"):
        assert json.loads((tmp_path / "cmp" / FILE).read_text())["pid"] == os.getpid()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills")
def test_what_a_killed_process_left_locks_nobody_out(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
    assert json.loads((tmp_path / FILE).read_text())["pid"] == process.pid
    with locked(tmp_path, "eval"):
        pass
    (tmp_path / FILE).write_text('{"pid"')  # killed while it was written
    with locked(tmp_path, "eval"):
        pass


def test_a_lock_of_another_machine_holds_until_it_is_removed(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"pid": 7, "host": "elsewhere", "verb": "eval", "since": "then"}))
    with (
        pytest.raises(UsageError, match=r"process 7 on elsewhere\); if that process is gone, remove .*\.lock"),
        locked(tmp_path, "eval"),
    ):
        pytest.fail("taken over from another machine")
    (tmp_path / FILE).unlink()
    with locked(tmp_path, "eval"):
        pass


def test_it_is_given_back_where_the_work_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked(tmp_path, "eval"):
        raise KeyboardInterrupt
    with locked(tmp_path, "eval"):
        pass


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file; give a folder"), locked(tmp_path / "file", "eval"):
        pass
    with pytest.raises(OutputError, match="could not be written"), locked(tmp_path / "file" / "cmp", "eval"):
        pass
