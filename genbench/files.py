"""Files that are either whole or absent: write beside the target, flush, fsync, rename, fsync the folder."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from genbench.errors import OutputError

_CAUSES = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EROFS: "it is read-only"}


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader, also after a crash, sees the old one, the new one or none; never a part.

    Raises OutputError in one line (disk full, no permission); nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        _write(temporary, data)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove(temporary)
        raise failed(path, error) from error
    except BaseException:
        _remove(temporary)
        raise


def new_folder(parent: Path, name: str) -> Path:
    """Make `parent/name`, or `name-2`, `name-3`, ... where that exists; two processes never get the same one.

    Raises OutputError where the folder cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            folder = parent / (name if number == 1 else f"{name}-{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise failed(parent / name, error) from error
    raise OutputError(f"{parent / name} and 9,999 more exist; give another folder with out=")


def failed(path: Path, error: OSError) -> OutputError:
    """Return the one-line error for a write that did not happen."""
    cause = _CAUSES.get(error.errno or 0, error.strerror or str(error))
    return OutputError(f"{path} could not be written: {cause}; what was saved before is kept; give a folder with out=")


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):  # elsewhere folders cannot be opened
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
