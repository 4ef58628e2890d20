"""Prompt files and standard input -> rows. A row is a mapping with at least `prompt`.

txt: one prompt per line, literally; leading lines that start with `#` are a header. jsonl: one object per line;
csv and tsv: a header line names the columns. Columns named like request fields override them for their row, other
columns travel along for scorers. Empty cells override nothing.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from genbench.errors import UsageError

Row = Mapping[str, object]
STDIN = "-"


def read_rows(word: str) -> tuple[Row, ...]:
    """Read a prompt file whole.

    Raises UsageError where it does not exist, is not UTF-8 (with its line), does not parse, or holds no prompt.
    """
    path = Path(word).expanduser()
    text = decode(_bytes(path), word)
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _table, ".tsv": _table}
    rows = tuple(readers.get(path.suffix.lower(), _lines)(text, word))
    if not rows:
        raise UsageError(f"prompts={word} holds no prompt; write one per line")
    return rows


def stdin_rows() -> Iterator[Row]:
    """Yield one row per line of standard input as it arrives; empty lines are skipped."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        prompt = decode(line, "standard input", number).rstrip("\r\n")
        if prompt.strip():
            yield {"prompt": prompt}


def decode(data: bytes, where: str, line: int = 1) -> str:
    """Decode UTF-8 (a byte order mark is dropped). Raises UsageError that names the line of the first wrong byte."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = line + data[: error.start].count(b"\n")
        byte = f"{data[error.start]:#04x}"
        raise UsageError(f"{where} is not UTF-8 at line {at} (byte {byte}); save it as UTF-8") from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"prompts={path} does not exist; give a txt, jsonl or csv file, or - for stdin") from None
    except OSError as error:
        raise UsageError(f"prompts={path} cannot be read: {error.strerror}") from None


def _lines(text: str, where: str) -> Iterator[Row]:
    header = True
    for line in (each.removesuffix("\r") for each in text.split("\n")):
        header = header and (line.startswith("#") or not line.strip())
        if line.strip() and not header:
            yield {"prompt": line}


def _jsonl(text: str, where: str) -> Iterator[Row]:
    """One object per line; a first object without a prompt is the file's header (source, licence)."""
    first = True
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            row = _object(line, f"{where}:{number}")
            if "prompt" in row or not first:
                yield _with_prompt(row, f"{where}:{number}")
            first = False


def _object(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where} is no JSON: {error}") from None
    if not isinstance(row, dict):
        raise UsageError(f'{where} is no JSON object; write {{"prompt": "..."}}')
    return {key: value for key, value in cast(dict[str, object], row).items() if value is not None}


def _table(text: str, where: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if where.lower().endswith("tsv") else ",")
    for row in _rows(reader, where):
        if None in row:
            raise UsageError(f"{where}:{reader.line_num} has more cells than the header; quote cells that hold commas")
        yield _with_prompt({key: cell for key, cell in row.items() if cell}, f"{where}:{reader.line_num}")


def _rows(reader: csv.DictReader[str], where: str) -> Iterator[Mapping[str, str]]:
    try:
        yield from reader
    except csv.Error as error:  # a cell of more than 128 KiB, a quote that never ends
        raise UsageError(f"{where} is no readable table after line {reader.line_num}: {error}") from None


def _with_prompt(row: Row, where: str) -> Row:
    if not isinstance(row.get("prompt"), str):
        raise UsageError(f"{where} has no text in a column 'prompt'; it has {', '.join(row) or 'nothing'}")
    return row
