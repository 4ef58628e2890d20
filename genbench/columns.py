"""Columns of a prompt list that look like words of a run and are none: refused, or warned of, before weights load."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from genbench import discovery, layers
from genbench.errors import UsageError, did_you_mean
from genbench.kinds import RUN_KINDS
from genbench.request import ROW_FIELDS, SYNONYMS, Resolved, schema

CLOSE = 0.8
"""Likeness from which a column is taken for a misspelt word."""


def check(resolved: Resolved, plugins: Iterable[str]) -> None:
    """Check the columns of the prompt list; `plugins` are the words of every chain that draws it.

    Raises UsageError, with the line, for an option of what is no plugin. Warns of what is nearly a word.
    """
    for name, number in first_seen(resolved.rows or ()).items():
        if "." in name:
            _check_owner(name, resolved.place(number), plugins)
        elif name not in schema() and (meant := near(name)):
            warnings.warn(
                f"{resolved.place(number)}: the column '{name}' changes nothing in a picture; did you mean '{meant}'?",
                stacklevel=2,
            )


def first_seen(rows: Iterable[Mapping[str, object]]) -> dict[str, int]:
    """Return {column: number of the first row that has it}."""
    found: dict[str, int] = {}
    for number, row in enumerate(rows):
        for name in row:
            if name not in found:
                found[name] = number
    return found


def near(name: str) -> str:
    """Return the word of a row that a column's name nearly is, "" where it is like none."""
    plain = name.lower().replace("-", "_").replace(" ", "_")
    meant = SYNONYMS.get(plain, plain) if len(plain) > 1 else plain
    if meant in ROW_FIELDS:
        return meant
    return next(iter(get_close_matches(plain, sorted(ROW_FIELDS), 1, CLOSE)), "")


def _check_owner(name: str, place: str, plugins: Iterable[str]) -> None:
    installed = {entry.name for entry in discovery.entries() if entry.kind in RUN_KINDS}
    known = [*dict.fromkeys((*plugins, *installed))]
    if layers.owner(name, layers.owners(known)) is None:
        owner = name.rpartition(".")[0]
        hint = did_you_mean(owner, map(discovery.short_name, known))
        raise UsageError(f"{place}: the column '{name}' is an option of '{owner}', which is no plugin{hint}")
