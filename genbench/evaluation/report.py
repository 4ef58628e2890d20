"""What a store says: per metric and kind of prompt, means with 95 % intervals, comparisons with the first chain, costs.

Intervals are clustered by prompt. Comparisons are paired: the same prompt and seed, drawn by both chains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import isnan, nan

import numpy as np

from genbench.evaluation import chains as naming, resampling, signs, statistics
from genbench.evaluation.chains import Curve
from genbench.evaluation.signs import Signs
from genbench.evaluation.statistics import Estimate
from genbench.evaluation.store import Made, SetValue, Store
from genbench.evaluation.used import trusted_from

BY = ("kind", "unseen")
Values = Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Line:
    """One row of the table. `rate`: every value is 0 or 1, shown in per cent with Wilson's interval.

    Against the first chain: `difference`, for scores of pictures `signs`, for set metrics above zero `ratio`.
    """

    metric: str
    group: str
    chain: str
    estimate: Estimate
    rate: bool = False
    difference: Estimate | None = None
    signs: Signs | None = None
    ratio: Estimate | None = None


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
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()


def report(store: Store, by: Sequence[str] = BY) -> Report:
    """Read a store and work out its tables; `by` names columns of the prompt file."""
    made, chains = store.pictures(), labels(store)
    rows = [*_scored(store, made, chains, by), *_sets(store, made, chains)]
    failures = tuple(Failure(chains[i], prompt, seed, error) for i, prompt, seed, error in store.failures())
    costs = dict(_costs(store, made, chains))
    curves = naming.curves(store.settings(), {i: cost.nfe for i, cost in costs.items() if cost.pictures})
    return Report(_corrected(rows), tuple(costs.values()), failures, tuple(curves), tuple(_notes(store)))


def labels(store: Store) -> dict[str, str]:
    """Return {settings id: how the report names that chain}, in the order first asked for."""
    return naming.labels(store.settings())


def _corrected(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Correct the sign tests of all chains that were compared by one metric on one group of prompts."""
    done: list[Line] = []
    for _, family in groupby(lines, key=lambda line: (line.metric, line.group)):
        members = list(family)
        adjusted = iter(signs.holm([line.signs.p for line in members if line.signs]))
        done += [replace(x, signs=replace(x.signs, holm=next(adjusted))) if x.signs else x for x in members]
    return tuple(done)


def _notes(store: Store) -> Iterator[str]:
    fewest: dict[str, int] = {}
    for value in store.sets():
        fewest[value.metric] = min(value.n, fewest.get(value.metric, value.n))
    for metric, n in fewest.items():
        least = trusted_from(metric)
        if n < least:
            yield (
                f"{metric}: a set of {n} pictures, below {least}, where its value depends on their number; "
                "prefer kid or cmmd"
            )


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
        line = Line(metric, group, chain, estimate, rate)
        yield line if first is None else _against(line, first, mine)
        first = mine if first is None else first


def _against(line: Line, first: Mapping[tuple[str, int], float], mine: Mapping[tuple[str, int], float]) -> Line:
    both = [key for key in mine if key in first]
    if not both:
        return line
    old, new, prompts = [first[k] for k in both], [mine[k] for k in both], [pair for pair, _ in both]
    difference = statistics.paired_difference(old, new, prompts)
    return replace(line, difference=difference, signs=signs.signs(old, new, prompts))


# --- sets and costs -----------------------------------------------------------------------------------------------


def _sets(store: Store, made: Sequence[Made], chains: Mapping[str, str]) -> Iterator[Line]:
    found: dict[str, dict[str, SetValue]] = {}
    for value in store.sets():
        found.setdefault(f"{value.metric}@{value.encoder}", {})[value.settings] = value
    drawn: dict[str, set[tuple[str, int]]] = {}
    for picture in made:
        drawn.setdefault(picture.settings, set()).add((picture.pair, picture.seed))
    for metric, values in found.items():
        first: SetValue | None = None
        for settings, chain in chains.items():
            if settings in values:
                mine = values[settings]
                alike = first is not None and _kind_of_set(first) == _kind_of_set(mine)
                paired = alike and first is not None and drawn[first.settings] == drawn[settings]
                line = Line(metric, "all", chain, _interval(mine, len({pair for pair, _ in drawn[settings]})))
                yield _set_against(line, first, mine) if first and paired else line
                first = first or mine


def _interval(value: SetValue, prompts: int) -> Estimate:
    if value.drawn:
        return resampling.interval(value.value, value.drawn, value.n, prompts)
    return statistics.jackknife(value.value, value.without, prompts, value.n)


def _set_against(line: Line, first: SetValue, mine: SetValue) -> Line:
    """Paired, draw by draw or jackknife group by group; where the two are sets of the same prompts and seeds."""
    n, prompts = line.estimate.n, line.estimate.clusters
    if mine.drawn:
        pair = (first.drawn, mine.drawn)
        difference = resampling.difference(first.value, mine.value, pair, n, prompts)
        return replace(line, difference=difference, ratio=resampling.ratio(first.value, mine.value, pair, n, prompts))
    without = np.subtract(mine.without, first.without)
    return replace(line, difference=statistics.jackknife(mine.value - first.value, without, prompts, n))


def _kind_of_set(value: SetValue) -> tuple[object, ...]:
    return value.reference, value.version, value.n, value.m, len(value.without), len(value.drawn)


def _costs(store: Store, made: Sequence[Made], chains: Mapping[str, str]) -> Iterator[tuple[str, Cost]]:
    failed = [settings for settings, _, _, _ in store.failures()]
    for settings, chain in chains.items():
        mine = [picture for picture in made if picture.settings == settings]
        if mine or settings in failed:
            nfe, seconds = _mean([picture.nfe for picture in mine]), _mean([picture.seconds for picture in mine])
            yield settings, Cost(chain, len(mine), failed.count(settings), nfe, seconds)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else nan
