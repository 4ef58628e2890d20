"""The store of one comparison: a SQLite file beside the pictures. One transaction per picture.

SQLite and not Parquet: rows arrive one at a time from several processes, a killed process must lose none that was
reported, and a report must be readable meanwhile. Write-ahead logging gives all three (readers never wait, writers
queue for milliseconds, a torn write is rolled back), with nothing to install. It needs a local file system. A picture
is renamed into place before its row is added, so a row never names a half-written file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from genbench.errors import UsageError
from genbench.evaluation.database import FILE as FILE
from genbench.evaluation.rows import Made, SetValue
from genbench.evaluation.work import Work

if TYPE_CHECKING:
    from genbench.evaluation.worklist import Cell

MADE = """SELECT key, settings, pictures.prompt, pair, seed, path, image, nfe, seconds, prompts.prompt, row
    FROM pictures JOIN prompts ON prompts.id = pictures.prompt JOIN settings ON settings.id = settings"""
"""The columns of `Made.read`."""
Vectors = NDArray[np.float32]


class Store(Work):
    """`with Store(folder) as store:`; creates folder and file unless `create=False`. See `Database`."""

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
        size: int | None = None,
        made_with: str = "",
    ) -> None:
        """Add a finished picture; its file of `size` bytes is already in place. Clears an earlier failure of the same
        cell. `made_with` names versions and device.
        """
        told = json.dumps(list(trace), default=str) if trace else None
        where = (cell.key, cell.settings, cell.prompt, cell.item.seed)
        made = (*where, path, image, nfe, seconds, batch, score, told, time.time())
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(f"INSERT OR IGNORE INTO pictures VALUES ({','.join('?' * 12)})", made)
        self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (cell.key, size, made_with))
        self._db.execute("DELETE FROM failures WHERE key = ?", (cell.key,))
        self._db.execute("DELETE FROM attempts WHERE key = ?", (cell.key,))
        self._db.execute("COMMIT")

    def add_failure(self, cell: Cell, error: str) -> None:
        """Note why a cell has no picture; a later run tries it again."""
        row = (cell.key, cell.settings, cell.prompt, cell.item.seed, error, time.time())
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?)", row)
        self._db.execute("DELETE FROM attempts WHERE key = ?", (cell.key,))
        self._db.execute("COMMIT")

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

    def ask(self, scorer: str, version: str) -> None:
        """Note that this version of a scorer was asked for; of several, the one asked for last is shown."""
        self._db.execute("INSERT OR REPLACE INTO asked VALUES (?, ?)", (scorer, version))

    def scored(self, scorer: str, version: str) -> set[tuple[str, str]]:
        """Return (image, asked) of everything this version of a scorer has judged."""
        query = "SELECT image, asked FROM scores WHERE scorer = ? AND version = ? AND name = '' AND value IS NOT NULL"
        return set(self._db.execute(query, (scorer, version)))

    def scorers(self) -> dict[str, str]:
        """Return {scorer: its version asked for last, else the one that judged last} of all with values."""
        known = self.versions()
        asked: dict[str, str] = dict(self._db.execute("SELECT scorer, version FROM asked"))
        return {s: asked[s] if asked.get(s) in versions else versions[-1] for s, versions in known.items()}

    def no_numbers(self) -> dict[str, set[tuple[str, str]]]:
        """Return {scorer: (image, asked) of each score of the version shown that is no number}; -9e999 is -infinity."""
        query = """SELECT image, asked FROM scores WHERE scorer = ? AND version = ? AND name = ''
            AND (value IS NULL OR value IN (9e999, -9e999))"""
        return {pair[0]: set(self._db.execute(query, pair)) for pair in self.scorers().items()}

    def versions(self) -> dict[str, list[str]]:
        """Return {scorer: versions that have values}, the one that judged last at the end."""
        found: dict[str, list[str]] = {}
        query = """SELECT scorer, version FROM scores JOIN
            (SELECT scorer AS who, min(made) AS first FROM scores GROUP BY scorer) ON who = scorer
            GROUP BY scorer, version ORDER BY first, scorer, max(made)"""
        for scorer, version in self._db.execute(query):
            found.setdefault(scorer, []).append(version)
        return found

    def scores(self) -> dict[tuple[str, str], dict[tuple[str, str], float]]:
        """Return {(scorer, detail name): {(image, asked): value}}, only of each scorer's latest version.

        Scorers come in the order in which they first judged, which is that of the commands.
        """
        found: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
        query = "SELECT name, image, asked, value FROM scores WHERE scorer = ? AND version = ?"
        for scorer, version in self.scorers().items():
            for name, image, asked, value in self._db.execute(query, (scorer, version)):
                if value is not None or name:  # a detail may be none of a picture's; a score that is NaN is none
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
