"""Prompt files and standard input -> rows. A row is a mapping with at least `prompt`.

txt: one prompt per line, literally; leading lines that start with `#` are a header. jsonl: one object per line; json: a
list of texts or objects; csv and tsv: a header line names the columns; parquet; a folder: one prompt per txt file.
Columns named like request fields, or like a plugin's option (`search.candidates`), override them for their row; other
columns travel along for scorers. Empty cells override nothing. Published suites: `genbench.prompt_suites`.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from genbench import hub, prompt_suites
from genbench.errors import MissingDependency, ModelError, UsageError, did_you_mean
from genbench.prompt_suites import Placed, Row

STDIN = "-"
Reader = Callable[[Path, str], Iterator[Placed]]


def read_rows(word: str, offline: bool = False) -> tuple[Row, ...]:
    """Return the rows of a prompt file without their places; see `read_placed`."""
    return tuple(row for _, row in read_placed(word, offline))


def read_placed(word: str, offline: bool = False) -> tuple[Placed, ...]:
    """Read a prompt file whole, each row with its place (`list.csv:7`): a path, or `hf:org/name/file` of a data set on
    the Hub, `suite:` before it if need be.

    Raises UsageError where it does not exist, is not UTF-8 (with its line), does not parse, or holds no prompt;
    MissingDependency for parquet without pyarrow.
    """
    suite, place = prompt_suites.split(word)
    rows = tuple(
        (where, _with_prompt(row, where))
        for path, by_name in _files(_local(place, offline), suite)
        for where, row in _file(path, place if path.name in place else f"{place}/{path.name}", by_name)
    )
    if not rows:
        raise UsageError(f"prompts={word} holds no prompt; write one per line")
    return rows


def _local(place: str, offline: bool) -> Path:
    if not place:
        raise UsageError("prompts= names a suite and no file; write prompts=SUITE:FILE")
    if not hub.is_hub_file(place):
        return Path(place).expanduser()
    try:
        return hub.fetch(place, offline, kind="dataset")
    except ModelError as error:
        raise UsageError(f"prompts={error}") from error


def _files(path: Path, suite: str) -> list[tuple[Path, str]]:
    """Return (file, suite) of what a place holds: the files of a suite that names its kinds by them, else the place."""
    if not path.is_dir():
        return [(path, suite)]
    texts, lists = (sorted(path.glob(f"*.{suffix}")) for suffix in ("txt", "json"))
    if lists and not texts:
        return [(file, suite or "hpdv2") for file in lists]
    by_file = suite in prompt_suites.SUITES and prompt_suites.SUITES[suite].by_file
    return [(file, suite) for file in texts] if by_file else [(path, suite)]


def _file(path: Path, where: str, suite: str) -> Iterator[Placed]:
    """Yield one file's rows; a first object of a jsonl without a prompt is its header (source, licence)."""
    reader = _folder if path.is_dir() else READERS.get(path.suffix.lower(), _lines)
    for number, (place, row) in enumerate(prompt_suites.shaped(reader(path, where), suite, path.stem)):
        if number or "prompt" in row or reader is not _jsonl:
            yield place, row


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
        raise UsageError(
            f"prompts={path} does not exist; give a txt, jsonl, csv or parquet file, or - for stdin"
        ) from None
    except OSError as error:
        raise UsageError(f"prompts={path} cannot be read: {error.strerror}") from None


def _text(path: Path, where: str) -> str:
    return decode(_bytes(path), where)


# --- one reader per format: (file, its name in messages) -> (place, columns) -----------------------------------------


def _lines(path: Path, where: str) -> Iterator[Placed]:
    header = True
    for number, line in enumerate(_text(path, where).split("\n"), 1):
        text = line.removesuffix("\r")
        header = header and (text.startswith("#") or not text.strip())
        if text.strip() and not header:
            yield f"{where}:{number}", {"prompt": text}


def _folder(path: Path, where: str) -> Iterator[Placed]:
    """One prompt per txt file, its lines joined. Raises UsageError for a folder of lists."""
    lists = sorted(file.name for file in path.iterdir() if file.suffix.lower() in READERS)
    if lists:
        raise UsageError(f"prompts={where} is a folder of lists; name one: {', '.join(lists[:12])}")
    for file in sorted(path.glob("*.txt")):
        if text := " ".join(_text(file, str(file)).split()):
            yield f"{where}/{file.name}", {"prompt": text, "item_id": file.stem}


def _jsonl(path: Path, where: str) -> Iterator[Placed]:
    for number, line in enumerate(_text(path, where).split("\n"), 1):
        if line.strip():
            place = f"{where}:{number}"
            yield place, _object(_parsed(line, place), place)


def _json(path: Path, where: str) -> Iterator[Placed]:
    found = _parsed(_text(path, where), where)
    if not isinstance(found, list):
        raise UsageError(f"{where} is no JSON list of prompts; write one object per line as .jsonl otherwise")
    for number, each in enumerate(cast(list[object], found), 1):
        place = f"{where}, entry {number}"
        yield place, {"prompt": each} if isinstance(each, str) else _object(each, place)


def _parsed(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{where} is no JSON: {error}") from None


def _object(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise UsageError(f'{where} is no JSON object; write {{"prompt": "..."}}')
    return {key: each for key, each in cast(dict[str, object], value).items() if each is not None}


def _table(path: Path, where: str) -> Iterator[Placed]:
    text, tabs = _text(path, where), path.suffix.lower() == ".tsv"
    # PartiPrompts is a spreadsheet's tsv, in which a quotation mark is a quotation mark.
    literal = tabs and "challenge" in text.split("\n", 1)[0].lower()
    quoting = csv.QUOTE_NONE if literal else csv.QUOTE_MINIMAL
    stream = io.StringIO(text, newline="")
    reader = csv.DictReader(stream, delimiter="\t" if tabs else ",", quoting=quoting)
    for row in _rows(reader, where):
        place = f"{where}:{reader.line_num}"
        if None in row:
            raise UsageError(f"{place} has more cells than the header; quote cells that hold commas")
        yield place, {key: cell for key, cell in row.items() if cell}


def _rows(reader: csv.DictReader[str], where: str) -> Iterator[Mapping[str, str]]:
    try:
        yield from reader
    except csv.Error as error:  # a cell of more than 128 KiB, a quote that never ends
        raise UsageError(f"{where} is no readable table after line {reader.line_num}: {error}") from None


def _parquet(path: Path, where: str) -> Iterator[Placed]:
    """Every column but those that hold bytes (data sets keep pictures beside their prompts)."""
    try:
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingTypeStubs]
    except ModuleNotFoundError:
        raise MissingDependency(f"prompts={where} needs pyarrow; install it: pip install 'genbench[eval]'") from None
    data = io.BytesIO(_bytes(path))
    try:
        file: Any = parquet.ParquetFile(data)
        columns = [field.name for field in file.schema_arrow if "binary" not in str(field.type)]
        rows: list[dict[str, object]] = file.read(columns=columns).to_pylist()
    except (ValueError, OSError) as error:
        raise UsageError(f"{where} is no readable Parquet file: {str(error).splitlines()[0]}") from error
    for number, row in enumerate(rows, 1):
        yield f"{where}, row {number}", {name: value for name, value in row.items() if value not in (None, "")}


READERS: Mapping[str, Reader] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
}


def _with_prompt(row: Row, where: str) -> Row:
    if not isinstance(row.get("prompt"), str):
        near = did_you_mean("prompt", row)
        hint = near if "did you mean" in near else ""
        raise UsageError(f"{where} has no text in a column 'prompt'; it has {', '.join(row) or 'nothing'}{hint}")
    return row
