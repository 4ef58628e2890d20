"""How chains are named in a report, and which of them are points of one curve of score against cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import Any, cast

CLOSE = 1.05  # costs whose ratio is below count as equal
HASH = 24  # hexadecimal digits of a hash; eight are shown

Noted = tuple[str, str, Mapping[str, object]]
"""(id, chain as typed, content) of one chain's settings, as the store has them."""
Flat = Mapping[str, object]


@dataclass(frozen=True)
class Curve:
    """Chains that differ in one whole number alone (`over`: steps, candidates, ...) that makes each dearer than the
    one before. `name` says what they share.
    """

    name: str
    over: str
    chains: tuple[str, ...]


def labels(known: Sequence[Noted]) -> dict[str, str]:
    """Name each chain as typed; chains of the same name get the settings in which they differ."""
    flat = {settings: flattened(content) for settings, _, content in known}
    named: dict[str, str] = {}
    for settings, chain, _ in known:
        differs = differing([flat[other] for other, name, _ in known if name == chain])
        named[settings] = _with(chain, flat[settings], differs)
    return named


def curves(known: Sequence[Noted], cost: Mapping[str, float]) -> list[Curve]:
    """Find the curves among chains whose mean evaluations per picture are known; `cost` is by settings id."""
    named, found = labels(known), list[Curve]()
    for chain in dict.fromkeys(name for _, name, _ in known):
        same = {i: flattened(content) for i, name, content in known if name == chain and i in cost}
        differs = differing(list(same.values()))
        for over in differs:
            for ids in _along(same, over):
                if all(cost[a] < cost[b] for a, b in pairwise(ids)):
                    name = _with(chain, same[ids[0]], [key for key in differs if key != over])
                    found.append(Curve(name, over, tuple(named[i] for i in ids)))
    return found


def partners(known: Sequence[Noted]) -> dict[str, str]:
    """Return which row each row but the first is compared with: the first chain at the same settings, where there is
    one, else the first row. Settings are the same where all that both chains have is: a search's own options, or its
    verifier, are no settings of a chain without a search.
    """
    if not known:
        return {}
    flat = {settings: flattened(content) for settings, _, content in known}
    first, chain, _ = known[0]
    rows = [settings for settings, name, _ in known if name == chain]
    return {
        i: next((row for row in rows if name != chain and _agree(flat[row], flat[i])), first)
        for i, name, _ in known[1:]
    }


def _agree(one: Flat, other: Flat) -> bool:
    return all(_text(one[key]) == _text(other[key]) for key in (one.keys() & other.keys()) - {"version"})


def equal_cost(known: Sequence[Noted], cost: Mapping[str, float]) -> dict[str, str]:
    """Return, for chains other than the first, the settings on a curve of the first chain's that cost as much (within
    CLOSE); none where that is the row it is compared with anyway. `cost` is by settings id.
    """
    if not known:
        return {}
    named, partner, (first, chain, _) = labels(known), partners(known), known[0]
    on_curve = {name for curve in curves(known, cost) if named[first] in curve.chains for name in curve.chains}
    rivals = [i for i in named if named[i] in on_curve and cost.get(i, 0) > 0]
    found: dict[str, str] = {}
    for settings in (i for i, name, _ in known if rivals and name != chain and cost.get(i, 0) > 0):
        nearest = min(rivals, key=lambda rival: abs(log(cost[rival] / cost[settings])))
        if abs(log(cost[nearest] / cost[settings])) <= log(CLOSE) and nearest != partner[settings]:
            found[settings] = nearest
    return found


def _along(same: Mapping[str, Flat], over: str) -> Iterator[list[str]]:
    """Yield the ids that differ in `over` alone, by its value, where that is a whole number."""
    groups: dict[str, dict[int, str]] = {}
    for i, flat in same.items():
        value = flat.get(over)
        if isinstance(value, int) and not isinstance(value, bool):
            groups.setdefault(_text({key: flat[key] for key in flat if key != over}), {})[value] = i
    yield from ([by_value[value] for value in sorted(by_value)] for by_value in groups.values() if len(by_value) > 1)


def flattened(content: Mapping[str, object]) -> dict[str, object]:
    """Return the settings of a chain under one name each: request fields, `plugin.option`, model_hash, version."""
    plugins = cast(list[dict[str, Any]], content["plugins"])
    options = {f"{plugin['plugin']}.{name}": value for plugin in plugins for name, value in plugin["options"].items()}
    code = {"model_hash": content["model"], "version": " ".join(_version(plugin["version"]) for plugin in plugins)}
    return {**cast(dict[str, object], content["request"]), **options, **code}


def _version(told: str) -> str:
    """A plugin's version without its own `auto` for weights that it chooses itself: the word names nothing, and the
    hash beside it covers those that it ships.
    """
    return " ".join(word for word in told.split() if word != "auto")


def differing(flat: Sequence[Flat]) -> list[str]:
    """Return the settings that are not the same in all, in order of appearance."""
    keys = dict.fromkeys(key for each in flat for key in each)
    return [key for key in keys if len({_text(each.get(key)) for each in flat}) > 1]


def _with(chain: str, flat: Flat, keys: Sequence[str]) -> str:
    own = [(key.removeprefix(f"{chain}."), flat[key]) for key in keys if flat.get(key) is not None]
    return " ".join([chain, *(f"{key}={shown(value)}" for key, value in own)])


def shown(value: object) -> str:
    """Return a setting as text, a hash by its first digits."""
    text = str(value)
    return text[:8] if len(text) == HASH and text.isalnum() else text


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)
