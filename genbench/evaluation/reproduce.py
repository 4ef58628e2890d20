"""The commands that make a comparison again, worked out from its store: prompts, chains, every setting and metric.

They are as exact as the store: settings that a model or plugin recommended are written out, so that a later
recommendation changes nothing.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

from genbench import discovery
from genbench.evaluation.store import Made, Store
from genbench.evaluation.used import find
from genbench.kinds import RUN_KINDS
from genbench.options import options
from genbench.record import without_home
from genbench.request import schema

PROMPTS = "report-prompts.jsonl"
NO_WORD = ("verifier",)  # said by searches only, with a fingerprint

Words = dict[str, str]


@dataclass(frozen=True)
class Command:
    """One `genbench eval`: chains that have the same request, and no two values of one plugin option."""

    chains: tuple[str, ...]
    request: Words
    options: Words

    def fits(self, other: Command) -> bool:
        shared = self.options.keys() & other.options.keys()
        alike = self.request == other.request and all(self.options[key] == other.options[key] for key in shared)
        return alike and not set(self.chains) & set(other.chains)

    def and_(self, other: Command) -> Command:
        return Command((*self.chains, *other.chains), self.request, {**self.options, **other.options})


def commands(store: Store, made: Sequence[Made], negative: str = "") -> list[str]:
    """Return the commands, to be typed in the store's folder; all write to `out=again`."""
    found: list[Command] = []
    for _, chain, content in store.settings():
        mine = _command(chain, content)
        home = next((i for i, each in enumerate(found) if each.fits(mine)), None)
        found = [*found, mine] if home is None else [*found[:home], found[home].and_(mine), *found[home + 1 :]]
    common = {"seeds": ranges({picture.seed for picture in made})}
    common |= {"negative_prompt": negative} if negative else {}
    return [_typed(each, common, _metric_words(store)) for each in found] if made else []


def prompt_lines(made: Sequence[Made]) -> str:
    """Return the prompt list as JSON lines: every column that the list had."""
    lines = (json.dumps({**picture.row, "prompt": picture.text}, ensure_ascii=False) for picture in made)
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


def ranges(seeds: Iterable[int]) -> str:
    """Write whole numbers as `0..3,7`."""
    runs = [list(run) for _, run in groupby(enumerate(sorted(seeds)), key=lambda pair: pair[1] - pair[0])]
    return ",".join(f"{run[0][1]}..{run[-1][1]}" if len(run) > 1 else str(run[0][1]) for run in runs)


def _typed(command: Command, common: Words, metrics: Words) -> str:
    words = {"prompts": PROMPTS, "chains": "; ".join(command.chains), **common, **command.request, **command.options}
    return " ".join(["genbench eval", *(_word(*each) for each in {**words, **metrics, "out": "again"}.items())])


def _word(name: str, value: str) -> str:
    quoted = shlex.quote(value)
    return f"{name}={value}" if quoted == value else f"{name}={quoted}"


# --- words of one chain -------------------------------------------------------------------------------------------


def _command(chain: str, content: Mapping[str, object]) -> Command:
    request = cast(dict[str, Any], content["request"])
    verifier: list[Any] = request.get("verifier") or []  # its word, its fingerprint and the options it was given
    given = {name: value for name, value in request.items() if name in schema() and name not in NO_WORD}
    words = {name: spelled(value) for name, value in given.items() if _differs(value, schema()[name].default)}
    options = {"verifier": str(verifier[0])} if verifier else {}
    for name, value in cast(dict[str, object], verifier[2] if len(verifier) > 2 else {}).items():
        alone = "" if "." in name else f"{discovery.short_name(options['verifier'])}."  # several say whose it is
        options[f"{alone}{name}"] = spelled(value)
    for plugin in cast(list[dict[str, Any]], content["plugins"]):
        options |= _option_words(str(plugin["plugin"]), plugin["options"])
    return Command((chain,), words, options)


def _option_words(word: str, values: Mapping[str, object]) -> Words:
    loaded = find(word, RUN_KINDS)
    known = {name: option.default for name, option in options(loaded.cls).items()} if loaded else {}
    chosen = {name: value for name, value in values.items() if name not in known or _differs(value, known[name])}
    return {f"{discovery.short_name(word)}.{name}": spelled(value) for name, value in chosen.items()}


def _differs(value: object, default: object) -> bool:
    """Whether a value that went through JSON is not the default."""
    return value != (list(cast(tuple[object, ...], default)) if isinstance(default, tuple) else default)


def spelled(value: object) -> str:
    """Write a value as a word's: true, none, a,b."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(spelled, cast(Sequence[object], value)))
    return without_home(str(value).lower() if value is None or isinstance(value, bool) else str(value))


# --- words of the metrics -----------------------------------------------------------------------------------------


def _metric_words(store: Store) -> Words:
    names, words = list(store.scorers()), Words()
    for scorer, version in store.scorers().items():
        words |= _told_options(scorer, version)
    for value in store.sets():
        names.append(f"{value.metric}@{value.encoder}")
        metric, _, encoder = value.version.partition("; ")
        words |= {**_told_options(value.metric, metric), **_told_options(value.encoder, encoder)}
        words |= _reference_words(value.reference)
    return {"metrics": ",".join(dict.fromkeys(names)), **words} if names else {}


def _told_options(word: str, version: str) -> Words:
    """Read a metric's options from its version, which ends in them as JSON."""
    _, brace, told = version.partition("{")
    values: dict[str, object] = json.loads(brace + told) if brace else {}
    return {f"{discovery.short_name(word)}.{name}": spelled(value) for name, value in values.items()}


def _reference_words(reference: str) -> Words:
    """`folder HASH` is a folder that only its owner knows, `solids ... 5000 of HASH` what the model solids renders."""
    if not reference:
        return {}
    word, *_ = reference.split()
    if word == "folder":
        return {"reference": "FOLDER"}
    return {"reference": word, "reference_size": reference.split()[-3]}
