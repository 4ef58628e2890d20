"""The SQLite file of a comparison: opened, with every table that this version knows. Older files get what they lack."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from genbench import files
from genbench.errors import UsageError
from genbench.evaluation.rows import SCHEMA

FILE = "results.sqlite"
WORK = """
CREATE TABLE IF NOT EXISTS planned (settings TEXT PRIMARY KEY, cells INTEGER);
CREATE TABLE IF NOT EXISTS attempts (key TEXT PRIMARY KEY, prompt TEXT, seed INTEGER, ends INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (key TEXT PRIMARY KEY, size INTEGER, made_with TEXT) WITHOUT ROWID;
"""
"""Tables of `Work`. New columns are new tables: a file of an earlier version opens, and an earlier version opens it."""


class Database:
    """`with Database(folder) as database:`; creates folder and file unless `create=False`.

    Used by one thread at a time, whichever: rows are written by another thread than the one that opens and closes it.
    Raises UsageError where there is no such folder to open or to make, or the file is none of ours.
    """

    def __init__(self, folder: str | Path, create: bool = True) -> None:
        self.folder = Path(folder)
        path = self.folder / FILE
        if not create and not path.is_file():
            raise UsageError(f"'{folder}' holds no {FILE}; make one with: genbench eval prompts=FILE out={folder}")
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"out={folder} is a file; give a folder")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.failed(self.folder, error) from error
        self._db = opened(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._db.close()

    def _many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(statement, rows)
        self._db.execute("COMMIT")


def opened(path: Path) -> sqlite3.Connection:
    """Open the file with all tables. Raises UsageError where it is no database, or cannot be written."""
    db = None
    try:
        db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.executescript(SCHEMA + WORK)
    except sqlite3.DatabaseError as error:
        if db is not None:
            db.close()
        raise UsageError(
            f"'{path}' cannot be opened ({error}); give another folder with out=, or put a whole copy of the file back"
        ) from error
    return db
