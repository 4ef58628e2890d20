"""What a reader has to know before comparing numbers: too small sets, pictures that not all chains have, values that
are of other pictures or of several versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from genbench.evaluation.lines import Line
from genbench.evaluation.rows import Made, SetValue, image_set
from genbench.evaluation.statistics import FEW
from genbench.evaluation.store import Store
from genbench.evaluation.used import trusted_from

Names = Mapping[str, str]
Members = Mapping[str, Sequence[Made]]
SEEDS = 16
"""Seeds that the prompts of a set share before pictures from one noise weigh little in it."""
NAMED = 6
"""So many groups of prompts are named, or chains; the others are counted."""


def notes(store: Store, members: Members, names: Names, lines: Sequence[Line]) -> Iterator[str]:
    """Yield one sentence or two per matter; `members` are the pictures of each group of prompts, "all" among them;
    `names` is {settings id: chain}.
    """
    made = members["all"]
    sets = fresh(store, made)
    yield from _small_sets(sets)
    yield from _shared_noise(sets, made)
    yield from _unlike(lines)
    yield from _stale(store, sets, names)
    yield from _versions(store)
    yield from _made_with(store)
    yield from _few_prompts(members) if lines else ()


def fresh(store: Store, made: Sequence[Made]) -> list[SetValue]:
    """Return the set metrics that are of the pictures that there are now."""
    today = _today(made)
    return [value for value in store.sets() if value.pictures == today.get(value.settings)]


def _today(made: Sequence[Made]) -> dict[str, str]:
    chains: dict[str, list[Made]] = {}
    for picture in made:
        chains.setdefault(picture.settings, []).append(picture)
    return {settings: image_set(mine) for settings, mine in chains.items()}


def _small_sets(values: Sequence[SetValue]) -> Iterator[str]:
    fewest: dict[str, int] = {}
    for value in values:
        fewest[value.metric] = min(value.n, fewest.get(value.metric, value.n))
    for metric, n in fewest.items():
        least = trusted_from(metric)
        if n < least:
            yield (
                f"{metric}: a set of {n} pictures, below {least}, where its value depends on their number; "
                "prefer kid or cmmd"
            )


def _shared_noise(values: Sequence[SetValue], made: Sequence[Made]) -> Iterator[str]:
    """Pictures that start from one noise are alike: of few seeds a set holds less than it seems to."""
    metrics = dict.fromkeys(value.metric for value in values)
    prompts, seeds = len({picture.pair for picture in made}), len({picture.seed for picture in made})
    if metrics and seeds < min(prompts, SEEDS):
        yield (
            f"{', '.join(metrics)}: {prompts} prompts share {seeds} seed{'s' * (seeds > 1)}. Pictures from one noise "
            "are alike, so that few seeds make a distance larger than the model's; draw more, or give each prompt its "
            "own (a column seed)"
        )


def _unlike(lines: Sequence[Line]) -> Iterator[str]:
    """Whose values are of unlike pictures; metrics of which the same is to be said share a sentence."""
    found: dict[str, list[str]] = {}
    whole = [line for line in lines if line.group == "all"]
    for metric in dict.fromkeys(line.metric for line in whole if line.common):
        mine = [line for line in whole if line.metric == metric]
        shared = max(line.common.n for line in mine if line.common)
        counts = _some([f"{line.chain} {line.estimate.n}" for line in mine])
        shown = f"the summary and the figures show means over the {shared} prompts and seeds that all have"
        told = shown if shared else "the figures leave out what is not of the first one's prompts and seeds"
        found.setdefault(f"not all chains have the same pictures ({counts}); {told}.", []).append(metric)
    yield from (f"{', '.join(metrics)}: {told}" for told, metrics in found.items())


def _stale(store: Store, known: Sequence[SetValue], names: Names) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for value in store.sets():
        if value not in known:
            found.setdefault(f"{value.metric}@{value.encoder}", []).append(names[value.settings])
    for metric, chains in found.items():
        yield (
            f"{metric}: left out for {_some(chains)}, measured before the pictures that are there now; "
            f"measure again with genbench score FOLDER metrics={metric}"
        )


def _versions(store: Store) -> Iterator[str]:
    shown = store.scorers()
    for scorer, versions in store.versions().items():
        others = [version for version in versions if version != shown[scorer]]
        if others:
            yield (
                f"{scorer}: there are values of {len(versions)} versions; shown are those of the one asked for last, "
                f"{shown[scorer]}, and not of {_some(others)}"
            )


def _made_with(store: Store) -> Iterator[str]:
    found = [f"{count} with {made_with}" for made_with, count in store.made_with().items()]
    if len(found) > 1:
        yield f"Pictures were made with unlike versions or on unlike devices: {_some(found)}."


def _few_prompts(members: Members) -> Iterator[str]:
    counts = {name: len({picture.pair for picture in mine}) for name, mine in members.items()}
    few = [f"{name} ({count})" for name, count in counts.items() if count < FEW]
    if few:
        yield (
            f"Fewer than {FEW} prompts: {_some(few)}. Intervals there rest on how values are distributed, "
            "which so few cannot show."
        )


def _some(words: Sequence[str]) -> str:
    more = len(words) - NAMED
    return ", ".join(words[:NAMED]) + (f" and {more} more" if more > 0 else "")
