"""The store of one comparison: a SQLite file beside the pictures. One transaction per picture.

SQLite and not Parquet: rows arrive one at a time from several processes, a killed process must lose none that was
reported, and a report must be readable meanwhile. Write-ahead logging gives all three (readers never wait, writers
queue for milliseconds, a torn write is rolled back), with nothing to install. It needs a local file system. A picture
is renamed into place before its row is added, so a row never names a half-written file.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from math import nan
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from genbench.errors import UsageError
from genbench.evaluation.rows import SCHEMA, Made, SetValue

if TYPE_CHECKING:
    from genbench.evaluation.worklist import Cell, Settings

FILE = "results.sqlite"
MADE = """SELECT key, settings, pictures.prompt, pair, seed, path, image, nfe, seconds, prompts.prompt, row
    FROM pictures JOIN prompts ON prompts.id = pictures.prompt JOIN settings ON settings.id = settings"""
"""The columns of `Made.read`."""
Vectors = NDArray[np.float32]


class Store:
    """`with Store(folder) as store:`; creates folder and file unless `create=False`.

    Used by one thread at a time, whichever: rows are written by another thread than the one that opens and closes it.
    """

    def __init__(self, folder: str | Path, create: bool = True) -> None:
        self.folder = Path(folder)
        path = self.folder / FILE
        if not create and not path.is_file():
            raise UsageError(f"'{folder}' holds no {FILE}; make one with: genbench eval prompts=FILE out={folder}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._db.close()

    # --- the plan ---

    def add_plan(self, chains: Iterable[Settings], cells: Iterable[Cell]) -> None:
        """Note chains and prompts. The first chain ever noted is what the others are compared with.

        A prompt's row whose columns for scorers changed is replaced.
        """
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

    def done(self) -> set[str]:
        """Return the keys of all finished cells."""
        return {key for (key,) in self._db.execute("SELECT key FROM pictures")}

    def forget_missing(self) -> int:
        """Forget pictures whose files are gone, so that they are drawn again; returns how many."""
        known = list(self._db.execute("SELECT key, path FROM pictures"))  # first: rows come after their files
        folders = [folder for folder in os.scandir(self.folder) if folder.is_dir()]
        there = {f"{folder.name}/{file.name}" for folder in folders for file in os.scandir(folder)}
        gone = [(key,) for key, path in known if path not in there]
        self._many("DELETE FROM pictures WHERE key = ?", gone)
        return len(gone)

    # --- pictures ---

    def add_picture(
        self,
        cell: Cell,
        *,
        path: str,
        image: str,
        nfe: int,
        seconds: float,
        batch: int,
        score: float | None,
        trace: Sequence[Mapping[str, object]],
    ) -> None:
        """Add a finished picture; its file is already in place. Clears an earlier failure of the same cell."""
        told = json.dumps(list(trace), default=str) if trace else None
        where = (cell.key, cell.settings, cell.prompt, cell.item.seed)
        made = (*where, path, image, nfe, seconds, batch, score, told, time.time())
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(f"INSERT OR IGNORE INTO pictures VALUES ({','.join('?' * 12)})", made)
        self._db.execute("DELETE FROM failures WHERE key = ?", (cell.key,))
        self._db.execute("COMMIT")

    def add_failure(self, cell: Cell, error: str) -> None:
        """Note why a cell has no picture; a later run tries it again."""
        row = (cell.key, cell.settings, cell.prompt, cell.item.seed, error, time.time())
        self._db.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?)", row)

    def failures(self) -> list[tuple[str, str, int, str]]:
        """Return (settings, prompt, seed, error) of every cell that has failed and not been made since."""
        query = """SELECT settings, prompts.prompt, seed, error FROM failures JOIN prompts
            ON prompts.id = failures.prompt ORDER BY failures.rowid"""
        return list(self._db.execute(query))

    def settings(self) -> list[tuple[str, str, dict[str, object]]]:
        """Return (id, chain, content) of every chain in the order first asked for."""
        rows = self._db.execute("SELECT id, chain, content FROM settings ORDER BY rowid")
        return [(i, chain, json.loads(content)) for i, chain, content in rows]

    def model(self) -> str:
        """Return the word of the first chain's model. Raises UsageError in a store without any chain."""
        for _, _, content in self.settings():
            return str(cast(dict[str, object], content["request"])["model"])
        raise UsageError(
            f"'{self.folder}' holds no chain yet; make one with: genbench eval prompts=FILE out={self.folder}"
        )

    def texts(self) -> list[str]:
        """Return every different prompt text, sorted."""
        return [text for (text,) in self._db.execute("SELECT DISTINCT prompt FROM prompts ORDER BY prompt")]

    def pairs(self) -> list[str]:
        """Return every prompt, as `Made.pair`, in the order of the list."""
        return list(dict.fromkeys(pair for (pair,) in self._db.execute("SELECT pair FROM prompts ORDER BY rowid")))

    def pictures(self) -> list[Made]:
        """Return every finished picture, grouped by chain, in the order made."""
        return [Made.read(row) for row in self._db.execute(f"{MADE} ORDER BY settings.rowid, pictures.rowid")]

    def come(self, seen: int) -> tuple[int, list[Made]]:
        """Return the pictures that have come since another call returned `seen` (at first 0), and the next `seen`."""
        (newest,) = self._db.execute("SELECT coalesce(max(rowid), 0) FROM pictures").fetchone()
        rows = self._db.execute(f"{MADE} WHERE pictures.rowid BETWEEN ? AND ?", (seen + 1, newest))
        return newest, [Made.read(row) for row in rows]

    # --- scores ---

    def add_scores(self, scorer: str, version: str, values: Iterable[tuple[Made, str, float]]) -> None:
        """Add (picture, name, value): `name` is empty for the score itself, else a detail's."""
        now = time.time()
        rows = [(made.image, made.asked, scorer, version, name, value, now) for made, name, value in values]
        self._many("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def add_unscored(self, scorer: str, version: str, made: Made, error: str) -> None:
        """Note why a scorer has no value for a picture; the next time it is asked again."""
        row = (made.image, made.asked, scorer, version, error, time.time())
        self._db.execute("INSERT OR REPLACE INTO unscored VALUES (?, ?, ?, ?, ?, ?)", row)

    def forget_unscored(self, scorer: str) -> None:
        """Forget what a scorer could not judge before, for it is asked again now."""
        self._db.execute("DELETE FROM unscored WHERE scorer = ?", (scorer,))

    def unscored(self) -> list[tuple[str, int, str]]:
        """Return (scorer, pictures without a value, one of the reasons) of every scorer that failed."""
        return list(self._db.execute("SELECT scorer, count(*), min(error) FROM unscored GROUP BY scorer"))

    def scored(self, scorer: str, version: str) -> set[tuple[str, str]]:
        """Return (image, asked) of everything this version of a scorer has judged."""
        query = "SELECT image, asked FROM scores WHERE scorer = ? AND version = ? AND name = ''"
        return set(self._db.execute(query, (scorer, version)))

    def scorers(self) -> dict[str, str]:
        """Return {scorer: its latest version} of all that have judged a picture."""
        return dict(self._db.execute("SELECT scorer, version FROM scores GROUP BY scorer, version ORDER BY max(made)"))

    def scores(self) -> dict[tuple[str, str], dict[tuple[str, str], float]]:
        """Return {(scorer, detail name): {(image, asked): value}}, only of each scorer's latest version."""
        found: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
        query = "SELECT name, image, asked, value FROM scores WHERE scorer = ? AND version = ?"
        for scorer, version in sorted(self.scorers().items()):
            for name, image, asked, value in self._db.execute(query, (scorer, version)):
                found.setdefault((scorer, name), {})[image, asked] = nan if value is None else value
        return found

    # --- features ---

    def add_features(self, encoder: str, version: str, images: Sequence[str], vectors: Vectors) -> None:
        """Add features (n, d) by image hash."""
        rows = [(image, encoder, version, row.tobytes()) for image, row in zip(images, vectors, strict=True)]
        self._many("INSERT OR REPLACE INTO features VALUES (?, ?, ?, ?)", rows)

    def features(self, encoder: str, version: str) -> dict[str, Vectors]:
        """Return {image: (d,)}."""
        query = "SELECT image, vector FROM features WHERE encoder = ? AND version = ?"
        return {image: np.frombuffer(row, np.float32) for image, row in self._db.execute(query, (encoder, version))}

    def add_reference_features(self, reference: str, encoder: str, version: str, vectors: Vectors) -> None:
        """Keep the features (m, d) of a reference."""
        row = (reference, encoder, version, len(vectors), vectors.astype(np.float32).tobytes())
        self._db.execute("INSERT OR REPLACE INTO reference_features VALUES (?, ?, ?, ?, ?)", row)

    def reference_features(self, reference: str, encoder: str, version: str) -> Vectors | None:
        """Return the features (m, d) of a reference, None where they are not known."""
        query = "SELECT n, vectors FROM reference_features WHERE reference = ? AND encoder = ? AND version = ?"
        found = self._db.execute(query, (reference, encoder, version)).fetchone()
        return None if found is None else np.frombuffer(found[1], np.float32).reshape(found[0], -1)

    def add_set(self, value: SetValue) -> None:
        """Add or replace a set metric of one chain."""
        plain, key = list(vars(value).values())[:9], (value.settings, value.metric, value.encoder)
        self._db.execute("BEGIN IMMEDIATE")
        row = (*plain, json.dumps(value.without))
        self._db.execute(f"INSERT OR REPLACE INTO sets VALUES ({','.join('?' * 10)})", row)
        self._db.execute("INSERT OR REPLACE INTO set_draws VALUES (?, ?, ?, ?)", (*key, json.dumps(value.drawn)))
        self._db.execute("COMMIT")

    def sets(self) -> list[SetValue]:
        """Return the set metrics of every chain, only those alike the latest: same versions, same reference."""
        query = (
            "SELECT sets.*, drawn FROM sets LEFT JOIN set_draws USING (settings, metric, encoder) ORDER BY sets.rowid"
        )
        values = [SetValue.read(row) for row in self._db.execute(query)]
        latest = {(value.metric, value.encoder): (value.version, value.reference) for value in values}
        return [v for v in values if latest[v.metric, v.encoder] == (v.version, v.reference)]

    def _many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(statement, rows)
        self._db.execute("COMMIT")
