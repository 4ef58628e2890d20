"""SHA-256 of weight files, read once per machine: remembered in the user's cache folder, one small file each.

A file is taken to be the same where its real path, size, modification time and inode are. One that changed a moment
ago is not remembered: it could change again within the clock's grain.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_dir

from genbench import files
from genbench.errors import OutputError

WORTH = 2**20
"""Bytes from which a file's hash is worth a file of its own."""
SETTLED = 2.0
"""Seconds after its last change from which a file's hash is remembered."""
HEX = re.compile("[0-9a-f]{64}")
Key = tuple[str, int, int, int]


def file_hash(file: Path) -> str:
    """SHA-256 of a file, 64 hex digits. Raises OSError where it cannot be read."""
    key = _key(file)
    if key not in _hashes:
        _hashes[key] = _remembered(key) or _read(file, key)
    return _hashes[key]


_hashes: dict[Key, str] = {}


def folder() -> Path:
    """Where hashes are remembered: below GENBENCH_CACHE_DIR, or the user's cache folder."""
    return Path(os.environ.get("GENBENCH_CACHE_DIR") or user_cache_dir("genbench")) / "hashes"


def _key(file: Path) -> Key:
    stat = file.stat()
    return str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino


def _place(key: Key) -> Path:
    return folder() / hashlib.sha256(repr(key).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _remembered(key: Key) -> str:
    """Return what is remembered, "" where it is nothing."""
    if key[1] < WORTH:
        return ""
    with suppress(OSError, UnicodeDecodeError):
        text = _place(key).read_text(encoding="ascii")
        return text if HEX.fullmatch(text) else ""
    return ""


def _read(file: Path, key: Key) -> str:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if key[1] >= WORTH and time.time() - key[2] / 1e9 > SETTLED and _key(file) == key:
        with suppress(OSError, OutputError):  # a cache that cannot be written costs time alone
            folder().mkdir(parents=True, exist_ok=True)
            files.write_whole(_place(key), found.encode())
    return found
