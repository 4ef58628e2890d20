"""What a store says: per metric and kind of prompt, means with 95 % intervals, differences to the first chain, costs.

Intervals are clustered by prompt. Differences are paired: the same prompt and seed, drawn by both chains.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any, cast

import numpy as np

from genbench.evaluation import statistics
from genbench.evaluation.statistics import Estimate
from genbench.evaluation.store import Made, SetValue, Store

BY = ("kind", "unseen")
HASH = 24  # hexadecimal digits of a hash; eight are shown
Values = Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Line:
    """One row of the table. `rate`: every value is 0 or 1, shown in per cent with Wilson's interval."""

    metric: str
    group: str
    chain: str
    estimate: Estimate
    rate: bool = False
    difference: Estimate | None = None


@dataclass(frozen=True)
class Cost:
    """What one chain's pictures cost: network evaluations and seconds each (mean), and how many failed."""

    chain: str
    pictures: int
    failures: int
    nfe: float
    seconds: float


@dataclass(frozen=True)
class Failure:
    """A cell without a picture, and why."""

    chain: str
    prompt: str
    seed: int
    error: str


@dataclass(frozen=True)
class Report:
    """Everything that is printed and saved."""

    lines: tuple[Line, ...]
    costs: tuple[Cost, ...]
    failures: tuple[Failure, ...]


def report(store: Store, by: Sequence[str] = BY) -> Report:
    """Read a store and work out its tables; `by` names columns of the prompt file."""
    made, chains = store.pictures(), labels(store)
    rows = [*_scored(store, made, chains, by), *_sets(store, chains)]
    failures = tuple(Failure(chains[i], prompt, seed, error) for i, prompt, seed, error in store.failures())
    return Report(tuple(rows), tuple(_costs(store, made, chains)), failures)


def labels(store: Store) -> dict[str, str]:
    """Name each chain as typed; chains of the same name get the settings in which they differ."""
    known = store.settings()
    flat = {settings: _flat(content) for settings, _, content in known}
    named: dict[str, str] = {}
    for settings, chain, _ in known:
        same = [flat[other] for other, name, _ in known if name == chain]
        differs = [key for key in flat[settings] if len({json.dumps(f.get(key), sort_keys=True) for f in same}) > 1]
        named[settings] = " ".join([chain, *(f"{key}={_short(flat[settings].get(key))}" for key in differs)])
    return named


def _short(value: object) -> str:
    text = str(value)
    return text[:8] if len(text) == HASH and text.isalnum() else text


def _flat(content: Mapping[str, object]) -> dict[str, object]:
    plugins = cast(list[dict[str, Any]], content["plugins"])
    options = {f"{plugin['plugin']}.{name}": value for plugin in plugins for name, value in plugin["options"].items()}
    code = {"model_hash": content["model"], "version": " ".join(plugin["version"] for plugin in plugins)}
    return {**cast(dict[str, object], content["request"]), **options, **code}


# --- pictures -----------------------------------------------------------------------------------------------------


def groups(made: Sequence[Made], by: Sequence[str]) -> dict[str, Callable[[Made], bool]]:
    """Return the groups of prompts: all, each value of each column, and kinds crossed with yes-or-no columns."""
    found: dict[str, Callable[[Made], bool]] = {"all": lambda picture: True}
    columns = [column for column in by if any(column in picture.row for picture in made)]
    flags = [c for c in columns if all(isinstance(p.row.get(c, False), bool) for p in made)]
    for column in columns:
        for value in dict.fromkeys(picture.row.get(column) for picture in made):
            found |= {_say(column, value): _is({column: value})} if value is not None else {}
            for flag in flags if column not in flags else []:
                crossed = {p.row.get(flag) for p in made if p.row.get(column) == value}
                for side in sorted(crossed - {None}, key=bool) if len(crossed) > 1 else []:
                    found[f"{_say(column, value)}, {_say(flag, side)}"] = _is({column: value, flag: side})
    return found


def _say(column: str, value: object) -> str:
    return (column if value else f"not {column}") if isinstance(value, bool) else str(value)


def _is(wanted: Mapping[str, object]) -> Callable[[Made], bool]:
    return lambda picture: all(picture.row.get(column) == value for column, value in wanted.items())


def _scored(store: Store, made: Sequence[Made], chains: Mapping[str, str], by: Sequence[str]) -> Iterator[Line]:
    split = groups(made, by)
    for (scorer, detail), values in store.scores().items():
        metric = f"{scorer}.{detail}" if detail else scorer
        rate = statistics.is_rate(list(values.values()))
        for group, belongs in split.items() if not detail else [("all", split["all"])]:
            members = [p for p in made if belongs(p) and not isnan(values.get((p.image, p.asked), nan))]
            yield from _compared(metric, group, rate, members, values, chains)


def _compared(
    metric: str, group: str, rate: bool, members: Sequence[Made], values: Values, chains: Mapping[str, str]
) -> Iterator[Line]:
    first: dict[tuple[str, int], float] | None = None
    mean = statistics.clustered_rate if rate else statistics.clustered_mean
    for settings, chain in chains.items():
        mine = {(p.pair, p.seed): values[p.image, p.asked] for p in members if p.settings == settings}
        if not mine:
            continue
        estimate = mean(list(mine.values()), [pair for pair, _ in mine])
        yield Line(metric, group, chain, estimate, rate, None if first is None else _difference(first, mine))
        first = mine if first is None else first


def _difference(first: Mapping[tuple[str, int], float], mine: Mapping[tuple[str, int], float]) -> Estimate | None:
    both = [key for key in mine if key in first]
    if not both:
        return None
    return statistics.paired_difference([first[k] for k in both], [mine[k] for k in both], [pair for pair, _ in both])


# --- sets and costs -----------------------------------------------------------------------------------------------


def _sets(store: Store, chains: Mapping[str, str]) -> Iterator[Line]:
    found: dict[str, dict[str, SetValue]] = {}
    for value in store.sets():
        found.setdefault(f"{value.metric}@{value.encoder}", {})[value.settings] = value
    for metric, values in found.items():
        first: SetValue | None = None
        for settings, chain in chains.items():
            if settings in values:
                mine = values[settings]
                yield Line(metric, "all", chain, _jackknifed(mine), False, _set_difference(first, mine))
                first = first or mine


def _jackknifed(value: SetValue) -> Estimate:
    return statistics.jackknife(value.value, value.without, len(value.without), value.n)


def _set_difference(first: SetValue | None, mine: SetValue) -> Estimate | None:
    """Paired by jackknife group; None where the two are not alike (reference, versions, number of pictures)."""
    if first is None or _kind_of_set(first) != _kind_of_set(mine):
        return None
    without = np.subtract(mine.without, first.without)
    return statistics.jackknife(mine.value - first.value, without, len(without), mine.n)


def _kind_of_set(value: SetValue) -> tuple[object, ...]:
    return value.reference, value.version, value.n, value.m, len(value.without)


def _costs(store: Store, made: Sequence[Made], chains: Mapping[str, str]) -> Iterator[Cost]:
    failed = [settings for settings, _, _, _ in store.failures()]
    for settings, chain in chains.items():
        mine = [picture for picture in made if picture.settings == settings]
        if mine or settings in failed:
            nfe, seconds = _mean([picture.nfe for picture in mine]), _mean([picture.seconds for picture in mine])
            yield Cost(chain, len(mine), failed.count(settings), nfe, seconds)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else nan
