"""What a store says: per metric and kind of prompt, means with 95 % intervals, comparisons of chains, costs.

Intervals are clustered by prompt. Comparisons are paired: the same prompt and seed, drawn by both chains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite, nan

import numpy as np

from genbench.evaluation import chains as naming, statistics
from genbench.evaluation.compared import UNBOUNDED, Chains, Key, Values, corrected, score_lines, set_lines
from genbench.evaluation.lines import Cost, Failure, Line, Report, Unscored
from genbench.evaluation.notes import fresh, notes
from genbench.evaluation.provenance import measured
from genbench.evaluation.store import Made, SetValue, Store
from genbench.evaluation.used import bounds

BY = ("kind", "unseen")
Scores = Mapping[tuple[str, str], Values]
NO_NUMBER = "the scorer gave no number (nan or infinite)"


def report(store: Store, by: Sequence[str] = BY) -> Report:
    """Read a store and work out its tables; `by` names columns of the prompt file."""
    made, known, names = store.pictures(), store.settings(), labels(store)
    costs = dict(_costs(store, made, names))
    nfe = {settings: cost.nfe for settings, cost in costs.items() if cost.pictures}
    chains, scores = Chains(names, naming.partners(known), naming.equal_cost(known, nfe)), store.scores()
    members = {name: [picture for picture in made if belongs(picture)] for name, belongs in groups(made, by).items()}
    rows = [*_scored(scores, members, chains), *_sets(store, made, chains)]
    failures = tuple(Failure(names[i], prompt, seed, error) for i, prompt, seed, error in store.failures())
    curves = tuple(naming.curves(known, nfe))
    return Report(
        tuple(corrected(rows)),
        tuple(costs.values()),
        failures,
        curves,
        tuple(notes(store, members, names, rows)),
        (*_unscored(store, made, names, scores), *_no_numbers(store, made, names)),
        tuple(measured(store, made, scores)),
    )


def labels(store: Store) -> dict[str, str]:
    """Return {settings id: how the report names that chain}, in the order first asked for."""
    return naming.labels(store.settings())


def _unscored(store: Store, made: Sequence[Made], names: Mapping[str, str], scores: Scores) -> Iterator[Unscored]:
    """Which pictures lack a value of a scorer that failed; not told where others were never given to it."""
    for scorer, n, error in store.unscored():
        known = scores.get((scorer, ""), {})
        lacking = [picture for picture in made if (picture.image, picture.asked) not in known]
        certain = lacking if len({(picture.image, picture.asked) for picture in lacking}) == n else []
        yield Unscored(scorer, n, error, tuple((names[p.settings], p.seed, p.text) for p in certain))


def _no_numbers(store: Store, made: Sequence[Made], names: Mapping[str, str]) -> Iterator[Unscored]:
    for scorer, odd in store.no_numbers().items():
        which = tuple((names[p.settings], p.seed, p.text) for p in made if (p.image, p.asked) in odd)
        if which:
            yield Unscored(scorer, len(which), NO_NUMBER, which)


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


def _scored(scores: Scores, members: Mapping[str, Sequence[Made]], chains: Chains) -> Iterator[Line]:
    for (scorer, detail), values in scores.items():
        metric = f"{scorer}.{detail}" if detail else scorer
        rate = _is_rate(values) and (any(values.values()) or _is_rate(scores.get((scorer, ""), values)))
        within = bounds(scorer) if not detail else UNBOUNDED
        for group, mine in members.items() if not detail else [("all", members["all"])]:
            judged = [p for p in mine if isfinite(values.get((p.image, p.asked), nan))]
            yield from score_lines(metric, group, rate, judged, values, chains, within)


def _is_rate(values: Values) -> bool:
    """Of a part of a score, zeros alone say nothing: a log-probability may be zero everywhere."""
    return statistics.is_rate(list(values.values()))


# --- sets and costs -----------------------------------------------------------------------------------------------


def _sets(store: Store, made: Sequence[Made], chains: Chains) -> Iterator[Line]:
    found: dict[str, dict[str, SetValue]] = {}
    for value in fresh(store, made):
        found.setdefault(f"{value.metric}@{value.encoder}", {})[value.settings] = value
    drawn: dict[str, set[Key]] = {}
    for picture in made:
        drawn.setdefault(picture.settings, set()).add((picture.pair, picture.seed))
    for metric, values in found.items():
        yield from set_lines(metric, values, drawn, chains, bounds(metric.partition("@")[0]))


def _costs(store: Store, made: Sequence[Made], chains: Mapping[str, str]) -> Iterator[tuple[str, Cost]]:
    failed, planned = Counter(settings for settings, _, _, _ in store.failures()), store.planned()
    drawn: dict[str, list[Made]] = {}
    for picture in made:
        drawn.setdefault(picture.settings, []).append(picture)
    for settings, chain in chains.items():
        mine, asked = drawn.get(settings, []), planned.get(settings, 0)
        if mine or asked or failed[settings]:
            nfe, seconds = _mean([picture.nfe for picture in mine]), _mean([picture.seconds for picture in mine])
            yield settings, Cost(chain, len(mine), failed[settings], nfe, seconds, asked)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else nan
