"""Words -> settings and cells, before any weight loads: every chain resolved, the prompt list read once for all."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from genbench import columns, prompts
from genbench.discovery import short_name
from genbench.errors import UsageError, did_you_mean
from genbench.evaluation import possible, worklist
from genbench.evaluation.report import BY
from genbench.evaluation.words import NONE, Asked, plugins_of
from genbench.evaluation.worklist import Cell, Listed, Settings
from genbench.prompts import STDIN
from genbench.request import CHOSEN_BY_ROW, Resolved, request_fields, resolve


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
        columns.check(resolved, [word for chain in asked.own.compared for word in plugins_of(chain)])
        check_by(asked.own.by, columns.first_seen(resolved.rows or ()))
        chosen = [resolved, *(_same_list(resolve(words, rows=resolved.rows), resolved) for words in others)]
        _check(chosen, asked)
        settings = {each.id: each for each in map(worklist.settings_of, chosen)}
        listings: dict[object, list[Listed]] = {}
        cells = [cell for each in settings.values() for cell in worklist.cells(each, _listed(each, listings))]
        return Plan(tuple(settings.values()), tuple(worklist.unique(cells)))


def check_by(by: Sequence[str], known: Iterable[str]) -> None:
    """Refuse columns of `by=` that no prompt has. Raises UsageError."""
    known = set(known) - {"prompt"}
    for name in by:
        if name not in known and name not in BY:
            raise UsageError(f"by={name}: no prompt has a column '{name}'{did_you_mean(name, known)}")


def _check(chosen: Sequence[Resolved], asked: Asked) -> None:
    """Refuse chains that cannot be drawn, each said once. Raises UsageError."""
    families: possible.Families = {}
    found: dict[tuple[str, str], list[str]] = {}
    for resolved in chosen:
        problem = possible.problem(resolved, families, drawn_here=not asked.own.ray)
        if problem:
            found.setdefault((",".join(resolved.plugins), problem), []).append(_label(resolved, asked))
    if found:
        told = "; ".join(f"'{labels[0]}': {problem}" for (_, problem), labels in found.items())
        count = sum(map(len, found.values()))
        raise UsageError(f"{count} of {len(chosen)} chains cannot be drawn: {told}" if len(chosen) > 1 else told)


def _label(resolved: Resolved, asked: Asked) -> str:
    """Name a chain and its swept values."""
    words: dict[str, object] = dict(request_fields(resolved.request))
    for plugin in resolved.plugins:
        words |= {f"{short_name(plugin)}.{name}": value for name, value in resolved.options.get(plugin, {}).items()}
    swept = [f"{name}={words[name]}" for name in asked.swept if name in words]
    return " ".join([",".join(resolved.plugins) or NONE, *swept])


def _same_list(resolved: Resolved, first: Resolved) -> Resolved:
    return replace(resolved, places=first.places)


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
    if resolved.request.prompts is None and not resolved.request.prompt.strip():
        raise UsageError("eval needs prompts=FILE, a list of prompts, or prompt=TEXT")
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
