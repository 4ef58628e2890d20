"""What a comparison was made with: every model, method and metric in its store, with what each says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from math import inf
from typing import Any, cast

from genbench import discovery
from genbench.discovery import Loaded
from genbench.errors import GenbenchError
from genbench.evaluation.store import Store
from genbench.kinds import RUN_KINDS, About
from genbench.request import words_of


@dataclass(frozen=True)
class Used:
    """A word of the comparison, what it was used as, and its `about`; None where it is not installed here.

    `origin` is its distribution with its version, `license` that of the distribution's code.
    """

    word: str
    role: str
    about: About | None
    origin: str = ""
    license: str = ""


def used(store: Store) -> list[Used]:
    """Return models, methods, verifiers, metrics and encoders in that order; what is several of them, once."""
    asked = dict.fromkeys([*_of_chains(store), *_of_metrics(store)])
    found: dict[tuple[str, str], Used] = {}
    for word, role in sorted(asked, key=lambda each: list(KINDS).index(each[1])):
        mine = _described(word, role)
        key = word, mine.about.summary if mine.about else role
        found[key] = replace(found[key], role=f"{found[key].role}, {role}") if key in found else mine
    return list(found.values())


def trusted_from(metric: str) -> int:
    """Return the fewest pictures for which a set metric's value stands alone; 0 where it says nothing."""
    loaded = find(metric, ("metric",))
    return int(getattr(loaded.cls, "trusted_from", 0)) if loaded else 0


def bounds(metric: str) -> tuple[float, float]:
    """Return between what a metric's or scorer's values lie, as it says itself; infinite where it says nothing."""
    loaded = find(metric, ("metric", "scorer"))
    low, high = getattr(loaded.cls, "bounds", (-inf, inf)) if loaded else (-inf, inf)
    return float(low), float(high)


def better(metric: str) -> str:
    """Say which values are better: larger ones of a scorer, and of a set metric that says so."""
    loaded = find(metric, ("metric",))
    return "smaller is better" if loaded and not getattr(loaded.cls, "larger_is_better", False) else "larger is better"


def find(word: str, kinds: tuple[str, ...]) -> Loaded | None:
    """Return the plugin class of a word; None where it is not installed here or broken."""
    try:
        return discovery.plugin_class(word, kinds)
    except (GenbenchError, OSError):
        return None


KINDS = {
    "model": ("source",),
    "method": RUN_KINDS,
    "verifier": ("scorer",),
    "metric": ("scorer", "metric"),
    "encoder": ("encoder",),
}


def _of_chains(store: Store) -> Iterator[tuple[str, str]]:
    for _, _, content in store.settings():
        request = cast(dict[str, Any], content["request"])
        yield from ((str(request[key]), "model") for key in ("model",) if request.get(key))
        yield from ((str(plugin["plugin"]), "method") for plugin in cast(list[dict[str, Any]], content["plugins"]))
        verifier: list[str | None] = request.get("verifier") or []  # its word and its fingerprint
        yield from ((word, "verifier") for word in words_of(verifier[0] if verifier else None))


def _of_metrics(store: Store) -> Iterator[tuple[str, str]]:
    yield from ((scorer, "metric") for scorer in store.scorers())
    for value in store.sets():
        yield value.metric, "metric"
        yield value.encoder, "encoder"


def _described(word: str, role: str) -> Used:
    loaded = find(word, KINDS[role])
    if loaded is None:
        return Used(word, role, None)
    if loaded.entry is None:
        return Used(word, role, loaded.about, "file")
    told = metadata.metadata(loaded.entry.distribution)
    license = next((told[key] for key in ("License-Expression", "License") if key in told), "").partition("\n")[0]
    origin = f"{loaded.entry.distribution} {loaded.entry.version}"
    return Used(word, role, loaded.about, origin, license)
