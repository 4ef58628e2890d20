"""The tables of a store, and their rows as the rest of the evaluation sees them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (id TEXT PRIMARY KEY, chain TEXT, content TEXT);
CREATE TABLE IF NOT EXISTS prompts (id TEXT PRIMARY KEY, pair TEXT, prompt TEXT, row TEXT);
CREATE TABLE IF NOT EXISTS pictures (key TEXT PRIMARY KEY, settings TEXT, prompt TEXT, seed INTEGER, path TEXT,
    image TEXT, nfe INTEGER, seconds REAL, batch INTEGER, score REAL, trace TEXT, made REAL);
CREATE TABLE IF NOT EXISTS failures (key TEXT PRIMARY KEY, settings TEXT, prompt TEXT, seed INTEGER, error TEXT,
    made REAL);
CREATE TABLE IF NOT EXISTS scores (image TEXT, asked TEXT, scorer TEXT, version TEXT, name TEXT, value REAL, made REAL,
    PRIMARY KEY (image, asked, scorer, version, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS asked (scorer TEXT PRIMARY KEY, version TEXT);
CREATE TABLE IF NOT EXISTS unscored (image TEXT, asked TEXT, scorer TEXT, version TEXT, error TEXT, made REAL,
    PRIMARY KEY (image, asked, scorer)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS features (image TEXT, encoder TEXT, version TEXT, vector BLOB,
    PRIMARY KEY (image, encoder, version));
CREATE TABLE IF NOT EXISTS reference_features (reference TEXT, encoder TEXT, version TEXT, n INTEGER, vectors BLOB,
    PRIMARY KEY (reference, encoder, version));
CREATE TABLE IF NOT EXISTS sets (settings TEXT, metric TEXT, encoder TEXT, version TEXT, reference TEXT, n INTEGER,
    m INTEGER, pictures TEXT, value REAL, without TEXT, PRIMARY KEY (settings, metric, encoder));
CREATE TABLE IF NOT EXISTS set_draws (settings TEXT, metric TEXT, encoder TEXT, drawn TEXT,
    PRIMARY KEY (settings, metric, encoder));
"""


@dataclass(frozen=True)
class Made:
    """One finished picture: `path` in the folder, `image` the hash of its pixels, `asked` that of its prompt's row."""

    key: str
    settings: str
    prompt: str
    pair: str
    seed: int
    path: str
    image: str
    nfe: int
    seconds: float
    text: str
    row: Mapping[str, object]
    asked: str

    @classmethod
    def read(cls, row: Sequence[Any]) -> Made:
        """Read the eleven columns of `Store.pictures`."""
        asked = hashlib.sha256(f"{row[9]}\n{row[10]}".encode()).hexdigest()[:24]
        return cls(*row[:10], json.loads(row[10]), asked)  # pyright: ignore[reportCallIssue]  # eleven columns


@dataclass(frozen=True)
class SetValue:
    """A set metric of one chain. For its interval it has values with each group of prompts left out in turn
    (`without`), or values of resampled prompts (`drawn`, see `resampling`).
    """

    settings: str
    metric: str
    encoder: str
    version: str
    reference: str
    n: int
    m: int
    pictures: str
    value: float
    without: tuple[float, ...]
    drawn: tuple[float, ...] = ()

    @classmethod
    def read(cls, row: Sequence[Any]) -> SetValue:
        """Read the eleven columns of `Store.sets`."""
        without, drawn = (tuple(json.loads(text or "[]")) for text in row[9:])
        return cls(*row[:9], without, drawn)  # pyright: ignore[reportCallIssue]  # eleven columns


def image_set(mine: Iterable[Made]) -> str:
    """Hash of a set of pictures, 24 hex digits: what a set metric was measured on."""
    return hashlib.sha256("".join(sorted(picture.image for picture in mine)).encode()).hexdigest()[:24]
