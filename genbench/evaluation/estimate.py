"""`genbench eval --dry-run`: what a run would draw and what that costs, with where each number comes from.

Network evaluations and seconds of a chain are the means of its finished pictures where there are some. Otherwise:
evaluations as the sampler and the plugins state them, seconds from one call of the network and one decoding at the
batch size of the run, after one of each that is not timed. Loading, scoring and what plugins do besides calling the
network are not in it. Disk is the mean of finished pictures, else the file of one that is still noise, which is larger
than others. Memory is the peak of this process, which has then opened the models and done what a worker does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import torch

from genbench import cost, peak, streams
from genbench.discovery import one_line
from genbench.evaluation.chains import labels
from genbench.evaluation.keeping import encoded
from genbench.evaluation.planning import Plan
from genbench.evaluation.store import Made
from genbench.evaluation.studio import environment
from genbench.evaluation.worklist import Cell, Settings, for_worker, opening, reopened
from genbench.generation import Picture, Session
from genbench.request import Item

GIGA = 1e9
T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """What one picture of a chain costs: network evaluations, seconds, bytes on disk; None is unknown. `told` says from
    what.
    """

    evaluations: float | None
    seconds: float | None
    size: float | None
    told: str


@dataclass(frozen=True)
class Line:
    """One chain: cells to draw, cells that are there, and what one costs."""

    chain: str
    todo: int
    done: int
    cost: Cost


def estimate(plan: Plan, todo: Sequence[Cell], made: Sequence[Made], folder: Path, batch: int) -> list[Line]:
    """Work out every chain's line; opens a model for chains that still have to be drawn."""
    named = labels([(each.id, each.chain, each.content) for each in plan.settings])
    opened: dict[str, Session | str] = {}
    lines: list[Line] = []
    for settings in plan.settings:
        waiting = [cell for cell in todo if cell.settings == settings.id]
        finished = [picture for picture in made if picture.settings == settings.id]
        total = sum(cell.settings == settings.id for cell in plan.cells)
        measured = _measured(settings, waiting, opened, batch) if waiting else Cost(None, None, None, "")
        cost = _of_finished(finished, folder) if finished else measured
        lines.append(Line(named[settings.id], len(waiting), total - len(waiting), cost))
    return lines


def _of_finished(finished: Sequence[Made], folder: Path) -> Cost:
    sizes = [path.stat().st_size for each in finished[-100:] if (path := folder / each.path).is_file()]
    return Cost(
        fmean(each.nfe for each in finished),
        fmean(each.seconds for each in finished),
        fmean(sizes) if sizes else None,
        f"mean of {len(finished)} finished",
    )


def _measured(settings: Settings, waiting: Sequence[Cell], opened: dict[str, Session | str], batch: int) -> Cost:
    """Measure on an opened model; chains that differ only in what a row could change share it."""
    drawn = for_worker(settings, batch)
    key = opening(settings)
    if key not in opened:
        opened[key] = _opened(drawn)
    session = opened[key]
    if isinstance(session, str):
        return Cost(None, None, None, f"unknown: {session}")
    try:
        return measure(reopened(session, drawn), waiting)
    except Exception as error:  # what a plugin raises is told and costs the others nothing
        return Cost(None, None, None, f"unknown: {one_line(error)}")


def _opened(settings: Settings) -> Session | str:
    try:
        return Session.open(settings.resolved)
    except Exception as error:  # as above
        return one_line(error)


def measure(session: Session, waiting: Sequence[Cell]) -> Cost:
    """Time one call of the network and one decoding for a batch of these cells, after one of each that is not timed."""
    first, whole = waiting[0].item.overrides, session
    session = whole.changed(first)
    batch = session.resolved.request.batch_size or 1
    items = [cell.item for cell in takewhile(lambda cell: cell.item.overrides == first, waiting[:batch])]
    if session.chain.search is not None:
        items = [items[0]] * batch
    with torch.no_grad():
        ctx, shape = session.context(items, session.resolved)
        noise, _ = streams.normal(streams.seeded(range(len(items))), shape)
        x = noise.to(session.model.device, session.model.dtype)
        denoise, before = ctx.denoiser(), session.ledger.evaluations
        called, _ = _second_time(lambda: denoise(x, ctx.schedule.levels[0]))
        rows = (session.ledger.evaluations - before) / 2
        decoded, images = _second_time(lambda: session.model.decode(x))
    evaluations = fmean(_evaluations(whole, [cell.item for cell in waiting]))
    unstated = [type(plugin).__name__ for plugin in cost.unstated(session.chain)]
    drawn = Picture(images[0], x[0], items[0], session.resolved, 0, 0.0, tuple(items), 0)
    size = len(encoded(drawn, environment(session)))
    if unstated:
        return Cost(None, None, size, f"unknown: {', '.join(unstated)} does not state its cost")
    seconds = evaluations * called / rows + decoded / len(items)
    return Cost(evaluations, seconds, size, f"measured on {len(items)} at once")


def _evaluations(session: Session, items: Sequence[Item]) -> Iterator[int]:
    """Yield each picture's network evaluations; rows of the prompt list may have steps and options of their own."""
    known: dict[str, int] = {}
    for item in items:
        key = repr(item.overrides)
        if key not in known:
            own = session.changed(item.overrides)
            known[key] = own.cost(item, own.resolved)[2]
        yield known[key]


def _second_time(call: Callable[[], T]) -> tuple[float, T]:
    """Call twice; return how many seconds the second call took, and its result."""
    call()
    _wait()
    began = time.perf_counter()
    result = call()
    _wait()
    return time.perf_counter() - began, result


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> str:
    """Return the peak memory of this process, and of the device if it is one; unknown where the system does not say."""
    here, there = peak.memory(), peak.device_memory()
    if here is None:
        return "unknown"
    device = "" if there is None else f", {there / GIGA:.1f} GB on the device"
    return f"{here / GIGA:.1f} GB{device}"


def told(lines: Sequence[Line], workers: int, metrics: Sequence[str] = ()) -> str:
    """Return the estimate as text; time and memory say that what `metrics` take is not in them."""
    head = ("chain", "to draw", "there", "evaluations each", "seconds each", "from")
    todo = sum(each.todo for each in lines)
    total = [
        f"to draw               {todo} pictures, {sum(each.done for each in lines)} are there",
        f"network evaluations   {_sum(lines, [each.cost.evaluations for each in lines], '.0f')}",
        f"time                  {_time(lines, workers, metrics)}",
        f"disk                  {_disk(lines)}",
        f"peak memory           {_memory(lines, workers, metrics)}",
    ]
    return "\n".join([*_columns([head, *map(_row, lines)]), "", *total]) + "\n"


def _row(line: Line) -> tuple[str, ...]:
    each = (_number(line.cost.evaluations, ".6g"), _number(line.cost.seconds, ".3g"))
    return (line.chain, str(line.todo), str(line.done), *each, line.cost.told)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _sum(lines: Sequence[Line], each: Sequence[float | None], form: str, unit: str = "") -> str:
    """Return todo x cost summed over the lines, with its unit; what is unknown is said beside it."""
    known = sum(line.todo * value for line, value in zip(lines, each, strict=True) if value is not None)
    unknown = sum(line.todo for line, value in zip(lines, each, strict=True) if value is None)
    return f"{known:{form}}{unit}" + (f" and those of {unknown} pictures, unknown" if unknown else "")


def _time(lines: Sequence[Line], workers: int, metrics: Sequence[str]) -> str:
    seconds = [None if each.cost.seconds is None else each.cost.seconds / workers for each in lines]
    shared = f", if {workers} processes do not slow each other" if workers > 1 else ""
    scoring = f", scoring ({', '.join(metrics)})" if metrics else ""
    return f"{_sum(lines, seconds, '.1f', ' s')} to draw{shared}; not in it: loading{scoring}, the report"


def _disk(lines: Sequence[Line]) -> str:
    finished = all(not each.todo or each.cost.told.startswith("mean") for each in lines)
    sizes = [None if each.cost.size is None else each.cost.size / 1e6 for each in lines]
    return f"{'about' if finished else 'at most about'} {_sum(lines, sizes, '.1f', ' MB')}"


def _memory(lines: Sequence[Line], workers: int, metrics: Sequence[str]) -> str:
    if not any(each.todo for each in lines):
        return "nothing to draw"
    each = f"; {workers} processes take as much each" if workers > 1 else ""
    scorers = f"; not in it: {', '.join(metrics)}" if metrics else ""
    return f"{peak_memory()} here, with the model and one call at the run's batch size{each}{scorers}"
