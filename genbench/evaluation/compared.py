"""Chains against others, metric by metric: paired by prompt and seed, intervals clustered by prompt.

Each is compared with the first chain at the same settings, where there is one, else with the first row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import inf, nan

import numpy as np

from genbench.evaluation import resampling, signs, statistics
from genbench.evaluation.lines import Equal, Line
from genbench.evaluation.statistics import Estimate
from genbench.evaluation.store import Made, SetValue

Key = tuple[str, int]
Values = Mapping[tuple[str, str], float]
"""A scorer's values by (image, asked)."""
Scores = Mapping[Key, float]
"""One chain's values by (pair, seed)."""
Bounds = tuple[float, float]
"""Between what a metric's values lie."""
UNBOUNDED = (-inf, inf)
NOTHING = Estimate(nan, nan, nan, 0, 0)


@dataclass(frozen=True)
class Chains:
    """The chains of a report: `names` by settings id, in order; `partner` gives which row a chain is compared with,
    `equal` its rival of equal cost.
    """

    names: Mapping[str, str]
    partner: Mapping[str, str]
    equal: Mapping[str, str]

    def against(self, settings: str, found: Mapping[str, object]) -> str:
        """Return which of the rows found a row is compared with: its partner, else the first; itself for that."""
        partner = self.partner.get(settings, "")
        return partner if partner in found else next(iter(found))


# --- scores of pictures -------------------------------------------------------------------------------------------


def score_lines(
    metric: str,
    group: str,
    rate: bool,
    members: Sequence[Made],
    values: Values,
    chains: Chains,
    bounds: Bounds = UNBOUNDED,
) -> Iterator[Line]:
    """Yield one line per chain that has pictures among the members."""
    all_of_them = {settings: _scores(settings, members, values) for settings in chains.names}
    found = {settings: scores for settings, scores in all_of_them.items() if scores}
    shared = set[Key]().union(*found.values()).intersection(*found.values())
    for settings, mine in found.items():
        other = chains.against(settings, found)
        line = Line(metric, group, chains.names[settings], _mean(mine, rate, bounds), rate)
        if len(shared) < max(map(len, found.values())):
            line = replace(line, common=_mean({key: mine[key] for key in mine if key in shared}, rate, bounds))
        line = line if other == settings else _against(line, chains.names[other], found[other], mine, bounds)
        rival = chains.equal.get(settings, "")
        difference = _difference(found.get(rival, {}), mine, rate, bounds)
        yield replace(line, equal=Equal(chains.names[rival], difference)) if difference else line


def _mean(scores: Scores, rate: bool, bounds: Bounds) -> Estimate:
    mean = statistics.clustered_rate if rate else statistics.clustered_mean
    return mean(list(scores.values()), [pair for pair, _ in scores]).clipped(*bounds) if scores else NOTHING


def _scores(settings: str, members: Sequence[Made], values: Values) -> Scores:
    return {(p.pair, p.seed): values[p.image, p.asked] for p in members if p.settings == settings}


def _against(line: Line, name: str, other: Scores, mine: Scores, bounds: Bounds) -> Line:
    difference = _difference(other, mine, line.rate, bounds)
    if difference is None:
        return line
    return replace(line, difference=difference, signs=signs.signs(*_pairs(other, mine)), against=name)


def _difference(first: Scores, mine: Scores, rate: bool, bounds: Bounds) -> Estimate | None:
    pairs = _pairs(first, mine)
    difference = statistics.paired_rate_difference if rate else statistics.paired_difference
    return _within(difference(*pairs), bounds) if pairs[0] else None


def _within(difference: Estimate, bounds: Bounds) -> Estimate:
    low, high = bounds
    return difference.clipped(low - high, high - low)


def _pairs(first: Scores, mine: Scores) -> tuple[list[float], list[float], list[str]]:
    both = [key for key in mine if key in first]
    return [first[key] for key in both], [mine[key] for key in both], [pair for pair, _ in both]


def corrected(lines: Sequence[Line]) -> list[Line]:
    """Correct the sign tests of all chains that were compared by one metric on one group of prompts."""
    done: list[Line] = []
    for _, family in groupby(lines, key=lambda line: (line.metric, line.group)):
        members = list(family)
        adjusted = iter(signs.holm([line.signs.p for line in members if line.signs]))
        done += [replace(x, signs=replace(x.signs, holm=next(adjusted))) if x.signs else x for x in members]
    return done


# --- set metrics --------------------------------------------------------------------------------------------------


def set_lines(
    metric: str,
    values: Mapping[str, SetValue],
    drawn: Mapping[str, set[Key]],
    chains: Chains,
    bounds: Bounds = UNBOUNDED,
) -> Iterator[Line]:
    """Yield one line per chain whose set was measured; `drawn` says which prompts and seeds each set holds.

    Sets are compared where they are of the same prompts and seeds, by the same versions, with the same reference.
    """
    found = {settings: values[settings] for settings in chains.names if settings in values}
    first = next(iter(found), "")
    for settings, mine in found.items():
        other = found[chains.against(settings, found)]
        line = Line(metric, "all", chains.names[settings], _interval(mine, drawn[settings]).clipped(*bounds))
        line = line if drawn[settings] == drawn[first] else replace(line, common=NOTHING)
        if mine is not other and _alike(other, mine, drawn):
            difference, ratio = _within(_set_difference(line, other, mine), bounds), _ratio(line, other, mine)
            line = replace(line, difference=difference, ratio=ratio, against=chains.names[other.settings])
        rival = values.get(chains.equal.get(settings, ""))
        if rival and _alike(rival, mine, drawn):
            difference = _within(_set_difference(line, rival, mine), bounds)
            line = replace(line, equal=Equal(chains.names[rival.settings], difference))
        yield line


def _interval(value: SetValue, drawn: set[Key]) -> Estimate:
    prompts = len({pair for pair, _ in drawn})
    if value.drawn:
        found = resampling.interval(value.value, value.drawn, value.n, prompts)
        positive = value.value >= 0 and np.nanmin(value.drawn) >= 0  # then it is a distance, which ends at zero
        return replace(found, low=max(found.low, 0.0)) if positive else found
    return statistics.jackknife(value.value, value.without, prompts, value.n)


def _alike(first: SetValue, mine: SetValue, drawn: Mapping[str, set[Key]]) -> bool:
    return _measured(first) == _measured(mine) and drawn[first.settings] == drawn[mine.settings]


def _measured(value: SetValue) -> tuple[object, ...]:
    return value.reference, value.version, value.n, value.m, len(value.without), len(value.drawn)


def _set_difference(line: Line, first: SetValue, mine: SetValue) -> Estimate:
    """Paired draw by draw, or jackknife group by group."""
    n, prompts = line.estimate.n, line.estimate.clusters
    if mine.drawn:
        return resampling.difference(first.value, mine.value, (first.drawn, mine.drawn), n, prompts)
    without = np.subtract(mine.without, first.without)
    return statistics.jackknife(mine.value - first.value, without, prompts, n)


def _ratio(line: Line, first: SetValue, mine: SetValue) -> Estimate | None:
    pair = (first.drawn, mine.drawn)
    return (
        resampling.ratio(first.value, mine.value, pair, line.estimate.n, line.estimate.clusters) if mine.drawn else None
    )
