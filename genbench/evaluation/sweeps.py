"""Many settings from few words: all subsets of a chain (`ablate=a,b`) and swept values (`sweep.steps=10..50+10`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import combinations, product

from genbench.errors import UsageError
from genbench.options import short

PREFIX = "sweep."
MAX_VALUES = 1000
MAX_ABLATED = 8  # 256 chains
_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_RANGE = re.compile(rf"(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?:\+(?P<step>{_NUMBER}))?")


def subsets(plugins: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return every subset of a chain in the order typed, the empty one first, then by size."""
    if len(plugins) > MAX_ABLATED:
        raise UsageError(
            f"ablate= names {len(plugins)} plugins, which is {2 ** len(plugins)} chains; at most 8 plugins"
        )
    return tuple(chosen for size in range(len(plugins) + 1) for chosen in combinations(plugins, size))


def values(name: str, text: str) -> tuple[str, ...]:
    """Read `1,3,5`, `10..50+10` (both ends included; steps of 1 unless said), or both mixed. Raises UsageError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found = tuple(dict.fromkeys(value for part in parts for value in _part(name, part)))
    if not found:
        raise UsageError(f"{PREFIX}{name}= is empty; write {PREFIX}{name}=1,3,5 or {PREFIX}{name}=10..50+10")
    if len(found) > MAX_VALUES:
        raise UsageError(f"{PREFIX}{name}={short(text)} has {len(found)} values; at most {MAX_VALUES}")
    return found


def _part(name: str, part: str) -> Iterator[str]:
    found = _RANGE.fullmatch(part)
    if found is None:
        yield part
        return
    low, high, step = (Decimal(found[key] or 1) for key in ("low", "high", "step"))
    if step <= 0 or high < low or (high - low) / step >= MAX_VALUES:
        raise UsageError(
            f"{PREFIX}{name}={short(part)}: a range goes upwards over at most {MAX_VALUES} values: 10..50+10"
        )
    for number in range(int((high - low) / step) + 1):
        yield f"{low + number * step:f}"


def points(sweeps: Mapping[str, Sequence[str]], owned: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield every combination of swept values that a chain feels: `owned` are the prefixes of its plugins' options."""
    mine = {name: found for name, found in sweeps.items() if "." not in name or name.rpartition(".")[0] in owned}
    for chosen in product(*mine.values()):
        yield dict(zip(mine, chosen, strict=True))
