"""`genbench export`: a store as a table for other programs, or its pictures as official scorers want them laid out.

genbench export outputs/cmp out=cmp.csv                     one row per picture: settings, prompt, cost, every score
genbench export outputs/cmp out=sets.parquet table=sets     set metrics; table=failures: what was not made, and why
genbench export outputs/cmp out=folder layout=geneval       see `genbench.evaluation.layouts`
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from genbench import fields, files
from genbench.errors import MissingDependency, UsageError
from genbench.evaluation import layouts
from genbench.evaluation.chains import flattened, labels
from genbench.evaluation.store import Store
from genbench.options import parse_words

Row = dict[str, object]


@dataclass(frozen=True)
class Words:
    """The words of `genbench export`."""

    out: str  # file.csv, file.parquet, or with layout= a new folder
    table: Literal["pictures", "sets", "failures"] = "pictures"  # what a row is
    layout: Literal["none", "geneval", "edm"] = "none"  # folders for an official scorer instead of a table
    chain: str = ""  # as the report names it; default: all


def main(folder: Path, argv: Sequence[str]) -> str:
    """Export the store in `folder`; returns what was written. Raises UsageError, MissingDependency or OutputError."""
    words = Words(**fields.values(Words, "export", parse_words(argv)))  # type: ignore[arg-type]  # read by their types
    out = Path(words.out).expanduser()
    if words.layout == "none" and out.suffix not in WRITERS:
        raise UsageError(
            f"out={words.out} is neither .csv nor .parquet; for folders of pictures give layout=geneval|edm"
        )
    with Store(folder, create=False) as store:
        chosen = _chosen(labels(store.settings()), words.chain)
        if words.layout != "none":
            return layouts.write(store, chosen, words.layout, out)
        rows = [row for row in TABLES[words.table](store) if row["chain"] in chosen.values()]
    files.write_whole(out, WRITERS[out.suffix](rows))
    return f"{out}: {len(rows)} rows"


def _chosen(named: Mapping[str, str], chain: str) -> dict[str, str]:
    """Return {settings id: name} of the chain that was asked for, or of all. Raises UsageError saying what exists."""
    if chain and chain not in named.values():
        raise UsageError(f"chain={chain} is not in this store; it has {'; '.join(named.values()) or 'none'}")
    return {settings: name for settings, name in named.items() if chain in ("", name)}


# --- rows ---------------------------------------------------------------------------------------------------------


def pictures(store: Store) -> Iterator[Row]:
    """Yield one row per picture; settings are those it was drawn with, its prompt's own columns included."""
    known = store.settings()
    named = labels(known)
    settings = {i: {f"settings.{key}": value for key, value in flattened(content).items()} for i, _, content in known}
    scores = store.scores()
    versions = {f"{scorer}.version": version for scorer, version in store.scorers().items()}
    for made in store.pictures():
        own = {f"settings.{name}": value for name, value in made.row.items() if value not in (None, "")}
        mine = settings[made.settings]
        found = {".".join(filter(None, name)): values.get((made.image, made.asked)) for name, values in scores.items()}
        yield {
            **{"chain": named[made.settings], "prompt": made.text, "seed": made.seed, "path": made.path},
            **{"nfe": made.nfe, "seconds": made.seconds, "key": made.key, "image": made.image},
            **{f"row.{name}": value for name, value in made.row.items() if name != "prompt"},
            **mine,
            **{name: value for name, value in own.items() if name in mine},
            **found,
            **versions,
        }


def sets(store: Store) -> Iterator[Row]:
    """Yield one row per set metric of a chain, with everything that has to be alike where two are compared."""
    named = labels(store.settings())
    for value in store.sets():
        told = {key: each for key, each in vars(value).items() if isinstance(each, (str, int, float))}
        yield {"chain": named[value.settings], **told}


def failures(store: Store) -> Iterator[Row]:
    """Yield one row per picture that could not be made."""
    named = labels(store.settings())
    for settings, prompt, seed, error in store.failures():
        yield {"chain": named[settings], "prompt": prompt, "seed": seed, "error": error}


TABLES: Mapping[str, Callable[[Store], Iterator[Row]]] = {"pictures": pictures, "sets": sets, "failures": failures}


# --- files --------------------------------------------------------------------------------------------------------


def columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return the rows column by column, each of one type: what is no plain value, or of several types, becomes JSON."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _plain([row.get(name) for row in rows]) for name in names}


def _plain(values: list[Any]) -> list[Any]:
    kinds: set[type] = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or (len(kinds) == 1 and kinds <= {str, bool}):
        return values
    return [each if each is None or isinstance(each, str) else json.dumps(each, default=str) for each in values]


def to_csv(rows: Sequence[Row]) -> bytes:
    """Return the rows as UTF-8 with one header line; what a row lacks is an empty cell."""
    table, stream = columns(rows), io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return stream.getvalue().encode()


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Return the rows as Parquet. Raises MissingDependency without pyarrow."""
    try:
        arrow: Any = import_module("pyarrow")  # carries no types
        parquet: Any = import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise MissingDependency("a .parquet file needs pyarrow; install it: pip install 'genbench[eval]'") from None
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.table(columns(rows)), sink)
    return sink.getvalue().to_pybytes()


WRITERS: Mapping[str, Callable[[Sequence[Row]], bytes]] = {".csv": to_csv, ".parquet": to_parquet}
