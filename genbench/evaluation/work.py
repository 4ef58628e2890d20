"""The work of a comparison in its store: what is planned, what is done, what was being drawn when a process ended."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from genbench.evaluation.database import Database

if TYPE_CHECKING:
    from genbench.evaluation.worklist import Cell, Settings


class Work(Database):
    """Plan, finished cells and attempts."""

    # --- the plan ---

    def add_plan(self, chains: Iterable[Settings], cells: Iterable[Cell]) -> None:
        """Note chains and prompts, and how many cells each chain has with those that are there already. The first
        chain ever noted is what the others are compared with.

        A prompt's row whose columns for scorers changed is replaced.
        """
        chains, cells = list(chains), list(cells)
        noted = [(s.id, s.chain, json.dumps(s.content, ensure_ascii=False, default=str)) for s in chains]
        self._many("INSERT OR IGNORE INTO settings VALUES (?, ?, ?)", noted)
        rows = {cell.prompt: cell for cell in cells}
        values = [(c.prompt, c.pair, c.item.prompt, json.dumps(dict(c.item.row), default=str)) for c in rows.values()]
        # Rows that are as they were cost no write: a resumed run plans its whole list again.
        self._many(
            """INSERT INTO prompts VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE
            SET pair = excluded.pair, prompt = excluded.prompt, row = excluded.row WHERE row IS NOT excluded.row""",
            values,
        )
        self._count([settings.id for settings in chains], cells)

    def _count(self, chains: Sequence[str], cells: Sequence[Cell]) -> None:
        asked = {cell.key for cell in cells}
        total = Counter(cell.settings for cell in cells)
        total.update(settings for key, settings in self._keys() if key not in asked)
        self._many(
            """INSERT INTO planned VALUES (?, ?) ON CONFLICT (settings) DO UPDATE
            SET cells = excluded.cells WHERE cells IS NOT excluded.cells""",
            [(settings, total[settings]) for settings in chains],
        )

    def _keys(self) -> sqlite3.Cursor:
        return self._db.execute("SELECT key, settings FROM pictures")

    def planned(self) -> dict[str, int]:
        """Return {settings: cells}: what the last command that drew a chain asked of it, and what was there before.
        Chains of a store made by an earlier version have the pictures and failures that are there.
        """
        return dict(
            self._db.execute(
                """SELECT id, coalesce(cells, (SELECT count(*) FROM pictures WHERE settings = id)
                + (SELECT count(*) FROM failures WHERE settings = id))
                FROM settings LEFT JOIN planned ON planned.settings = id ORDER BY settings.rowid"""
            )
        )

    def columns(self) -> set[str]:
        """Return the columns that any prompt has."""
        return {name for (row,) in self._db.execute("SELECT row FROM prompts") for name in json.loads(row)}

    # --- what is done ---

    def done(self) -> set[str]:
        """Return the keys of all finished cells."""
        return {key for (key,) in self._db.execute("SELECT key FROM pictures")}

    def forget_missing(self) -> int:
        """Forget pictures whose files are gone or of another size than was written, so that they are drawn again;
        returns how many.
        """
        query = "SELECT key, path, size FROM pictures LEFT JOIN files USING (key)"
        known = list(self._db.execute(query))  # first: rows come after their files
        there = self._sizes()
        gone = [(key,) for key, path, size in known if path not in there or size not in (None, there[path])]
        self._many("DELETE FROM pictures WHERE key = ?", gone)
        return len(gone)

    def _sizes(self) -> dict[str, int]:
        """Return {place in the folder: bytes} of every file one folder down."""
        sizes: dict[str, int] = {}
        for folder in (each for each in os.scandir(self.folder) if each.is_dir()):
            inside = f"{folder.name}/"
            for file in os.scandir(folder):
                if not file.name.startswith("."):  # another process's unfinished file
                    sizes[inside + file.name] = file.stat().st_size
        return sizes

    def made_with(self) -> dict[str, int]:
        """Return {versions and device: how many pictures were made with them}, the most frequent first."""
        query = """SELECT made_with, count(*) FROM pictures JOIN files USING (key) WHERE made_with != ''
            GROUP BY made_with ORDER BY count(*) DESC, made_with"""
        return dict(self._db.execute(query))

    # --- what was being drawn when a process ended ---

    @contextmanager
    def attempt(self, cells: Sequence[Cell]) -> Generator[None]:
        """Note cells while they are drawn: a process that ends in it leaves the note. What was drawn has none, whatever
        ended a process before; what raised has the one that it had.
        """
        keys = [(cell.key,) for cell in cells]
        self._many(
            "INSERT INTO attempts VALUES (?, ?, ?, 1) ON CONFLICT (key) DO UPDATE SET ends = ends + 1",
            [(cell.key, cell.item.prompt, cell.item.seed) for cell in cells],
        )
        try:
            yield
        except BaseException:
            self._many("UPDATE attempts SET ends = ends - 1 WHERE key = ?", keys)
            self._many("DELETE FROM attempts WHERE key = ? AND ends < 1", keys)
            raise
        self._many("DELETE FROM attempts WHERE key = ?", keys)

    def attempts(self) -> dict[str, int]:
        """Return {cell: processes that ended while they drew it}, of cells without a picture."""
        query = "SELECT key, ends FROM attempts WHERE key NOT IN (SELECT key FROM pictures)"
        return dict(self._db.execute(query))
