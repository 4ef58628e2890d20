"""One writer per folder: a lock file that says who is at work there.

The operating system holds the lock and drops it when its process ends, however it does; the file's text is for us.
A text from another machine is believed until somebody removes the file: a lock may not be seen across machines.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from genbench import files
from genbench.errors import UsageError

FILE = ".lock"


@contextmanager
def locked(folder: Path, verb: str) -> Generator[None]:
    """Hold the folder, made where it is missing, while `verb` is at work. Raises UsageError that says who has it."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"'{folder}' is a file; give a folder")
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file, mine = _opened(path)
    except OSError as error:
        raise files.failed(path, error) from error
    with file:
        _check(file, mine, path)
        text = {"pid": os.getpid(), "host": platform.node(), "verb": verb, "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        _write(file, json.dumps(text))
        try:
            yield
        finally:
            _write(file, "")
            with suppress(OSError):  # Windows removes no open file; an empty one locks nobody out
                path.unlink()


def _opened(path: Path) -> tuple[IO[str], bool]:
    """Return the lock file, open, and whether it is locked for this process now."""
    while True:
        file = path.open("a+", encoding="utf-8")
        mine = taken(file)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file, mine
        file.close()  # whoever held it removed it meanwhile


def _check(file: IO[str], mine: bool, path: Path) -> None:
    """Refuse a folder that somebody holds."""
    held = _text(file)
    here = held.get("host") in (None, platform.node())
    if mine and here:
        return  # nobody's, or left by a process of this machine that is gone
    who = f"process {held.get('pid', '?')} on {held.get('host', 'this machine')}"
    what = f"genbench {held.get('verb', 'eval')} is at work in '{path.parent}' since {held.get('since', 'now')} ({who})"
    if here:
        raise UsageError(f"{what}; wait for it, or give another folder")
    raise UsageError(f"{what}; if that process is gone, remove {path}")


def taken(file: IO[str]) -> bool:
    """Lock an open file for this process, unless another one has it; returns whether it is this one's."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 30)  # beyond the text, which others may read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _text(file: IO[str]) -> dict[str, Any]:
    file.seek(0)
    try:
        found = json.loads(file.read() or "{}")
    except ValueError:  # killed while it was written
        return {}
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}


def _write(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()
