"""Where a report's values come from: per metric how it was taken, of how many pictures, against which reference, how
pictures were resized and what judged them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite

from genbench.evaluation.compared import Values
from genbench.evaluation.lines import Measured
from genbench.evaluation.rows import SetValue
from genbench.evaluation.store import Made, Store
from genbench.evaluation.used import better, bounds

RESIZE = re.compile(r" ?resize: ([^{;]*[^{; ])")
"""How `scoring.version_of` writes a judge's rule into its version."""


def measured(store: Store, made: Sequence[Made], values: Mapping[tuple[str, str], Values]) -> Iterator[Measured]:
    """Yield one entry per scorer, and per set metric, its encoder and how many pictures; `values` as `Store.scores`."""
    for scorer, version in store.scorers().items():
        how = "each picture; Student's t over prompts, of rates Wilson's and Bonett and Price's intervals"
        known = values.get((scorer, ""), {})
        n = sum((picture.image, picture.asked) in known for picture in made)
        yield Measured(scorer, f"{better(scorer)}; {how}{_range(scorer)}", n, *_told(version))
    yield from dict.fromkeys(map(_of_set, store.sets()))


def _of_set(value: SetValue) -> Measured:
    how = "paired bootstrap over prompts" if value.drawn else f"jackknife over {len(value.without)} groups of prompts"
    taken = how if value.drawn or value.without else "no interval"
    told = f"{better(value.metric)}; each chain's set; {taken}{_range(value.metric)}"
    return Measured(f"{value.metric}@{value.encoder}", told, value.n, *_told(value.version), value.reference, value.m)


def _range(metric: str) -> str:
    """Say where intervals are cut, if the metric says where its values end."""
    low, high = bounds(metric)
    return f"; values in [{low:g}, {high:g}]" if isfinite(low) or isfinite(high) else ""


def _told(version: str) -> tuple[str, str]:
    """Part a version from the rule that it holds: (version, rule)."""
    found = RESIZE.search(version)
    return RESIZE.sub("", version), found[1] if found else ""
