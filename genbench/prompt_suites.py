"""Published prompt suites, read as they are published: which columns they have and what those are called here.

A suite is recognised by its columns, or chosen by its name before the file: `prompts=t2i-compbench:color_val.txt`. What
a suite sorts its prompts by becomes the column `kind`, by which results are split; every other column travels along.

partiprompts    tsv: Prompt, Category, Challenge, Note       arXiv:2206.10789, google-research/parti
drawbench       csv: Prompts, Category                       arXiv:2205.11487
geneval         jsonl: tag, include, exclude, prompt         arXiv:2310.11513, evaluation_metadata.jsonl
t2i-compbench   txt, one prompt per line; the file's name says the kind (color_val.txt)       arXiv:2307.06350
hpdv2           json: a list of prompts; the file's name says the style (anime.json)          arXiv:2306.09341
dpg-bench       a folder of txt files, one prompt each, or the csv with its questions         arXiv:2403.05135
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from genbench.errors import UsageError

Row = Mapping[str, object]
Placed = tuple[str, Row]
"""Where a row stands (`file:line`), and its columns as written."""


@dataclass(frozen=True)
class Suite:
    """One published layout. `needs` are columns (lower case) that only it has together; `renamed` what they become.

    `by_file`: the kind of a prompt is the name of its file. `once`: of rows with the same value there, the first
    counts.
    """

    needs: frozenset[str] = frozenset()
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    by_file: bool = False
    once: str = ""


SUITES: Mapping[str, Suite] = {
    "partiprompts": Suite(frozenset({"prompt", "category", "challenge"}), {"category": "kind"}),
    "drawbench": Suite(frozenset({"prompts", "category"}), {"prompts": "prompt", "category": "kind"}),
    "geneval": Suite(frozenset({"tag", "include", "prompt"})),
    "t2i-compbench": Suite(by_file=True),
    "hpdv2": Suite(by_file=True),
    "dpg-bench": Suite(frozenset({"item_id", "text", "proposition_id"}), {"text": "prompt"}, once="item_id"),
}
_PART = re.compile(r"_(?:train|val)(?=_|$)")
_SEEN = re.compile(r"_(?P<seen>seen|unseen)$")


def split(word: str) -> tuple[str, str]:
    """Return (suite, place) of `suite:place`; the suite is empty where the word names none."""
    name, colon, place = word.partition(":")
    return (name, place) if colon and name in SUITES else ("", word)


def shaped(rows: Iterable[Placed], chosen: str, stem: str) -> Iterator[Placed]:
    """Yield a file's rows with the columns that genbench knows; `stem` is the name of the file without its suffix.

    Raises UsageError where the chosen suite has other columns than the file.
    """
    suite, seen = None, set[object]()
    for where, row in rows:
        if suite is None:
            suite = _suite(row, chosen, where)
        named = _named(row, suite)
        if suite.once and named.get(suite.once) in seen:
            continue
        seen.add(named.get(suite.once))
        yield where, {**(_by_file(stem) if suite.by_file else {}), **named}


def _suite(first: Row, chosen: str, where: str) -> Suite:
    """Return the suite that was chosen, else the one whose columns the first row has, else one that changes nothing."""
    columns = {name.lower() for name in first}
    if chosen:
        missing = sorted(SUITES[chosen].needs - columns)
        if missing and "prompt" not in columns:
            raise UsageError(f"{where} is not as {chosen} is published: it has no column {', '.join(missing)}")
        return SUITES[chosen]
    return next((each for each in SUITES.values() if each.needs and each.needs <= columns), Suite())


def _named(row: Row, suite: Suite) -> dict[str, object]:
    if not suite.needs:
        return dict(row)
    lower = {name.lower(): value for name, value in row.items()}
    named = {suite.renamed.get(name, name): value for name, value in lower.items()}
    return {**named, "kind": named["tag"]} if "tag" in named else named


def _by_file(stem: str) -> dict[str, object]:
    """Return the kind that a file's name says: color_val_unseen -> color, unseen."""
    found = _SEEN.search(stem)
    part = {"unseen": found["seen"] == "unseen"} if found is not None else {}
    return {"kind": _PART.sub("", _SEEN.sub("", stem)), **part}
