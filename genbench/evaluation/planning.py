"""Words -> settings and cells, before any weight loads: every chain resolved, the prompt list read once for all."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from genbench import prompts
from genbench.errors import UsageError
from genbench.evaluation import worklist
from genbench.evaluation.words import Asked
from genbench.evaluation.worklist import Cell, Listed, Settings
from genbench.prompts import STDIN
from genbench.request import CHOSEN_BY_ROW, Resolved, resolve


@dataclass(frozen=True)
class Plan:
    """Every setting that is compared, in the order asked for, and every picture of theirs, each once."""

    settings: tuple[Settings, ...]
    cells: tuple[Cell, ...]


def plan(asked: Asked) -> Plan:
    """Work out a command's grid. Raises UsageError, PluginError or ModelError for what cannot run."""
    with _nothing_collected():
        first, *others = asked.runs()
        resolved = _read(resolve(first))
        chosen = [resolved, *(resolve(words, rows=resolved.rows) for words in others)]
        settings = {each.id: each for each in map(worklist.settings_of, chosen)}
        listings: dict[object, list[Listed]] = {}
        cells = [cell for each in settings.values() for cell in worklist.cells(each, _listed(each, listings))]
        return Plan(tuple(settings.values()), tuple(worklist.unique(cells)))


@contextmanager
def _nothing_collected() -> Generator[None]:
    """Suspend the garbage collector: all of a grid stays, and looking through it took half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(resolved: Resolved) -> Resolved:
    """Return the request with standard input read to its end: every chain draws the same lines."""
    if resolved.request.prompts != STDIN:
        return resolved
    rows = tuple(prompts.stdin_rows())
    if not rows:
        raise UsageError("prompts=- is given, but standard input holds no prompt; write one per line")
    return replace(resolved, rows=rows)


def _listed(settings: Settings, known: dict[object, list[Listed]]) -> list[Listed]:
    """Return what the prompt list asks for, worked out once for all chains with the same texts, seeds and options."""
    resolved = settings.resolved
    own = resolved.plugins if any("." in name for row in resolved.rows or () for name in row) else ()
    key = (settings.searches, own, *(getattr(resolved.request, name) for name in CHOSEN_BY_ROW))
    if key not in known:
        known[key] = worklist.listing(resolved, settings.searches)
    return known[key]
