"""What earlier processes left: cells that were being drawn when one ended come last and alone, and fail after two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from genbench.evaluation import worklist
from genbench.evaluation.store import Store
from genbench.evaluation.worklist import Cell

ENDS = 2
"""Processes that may end while they draw a cell; then it fails, and the run after that tries it again."""
SHOWN = 3


def batches(store: Store, todo: Sequence[Cell], size: int, say: Callable[[str], None]) -> list[list[Cell]]:
    """Cut what is to be drawn into batches. Cells in whose drawing a process ended come one by one, at the end: which
    of a batch ended it is not known, and what comes before them is safe. Those that ended two fail now.
    """
    ends = store.attempts()
    deadly = [cell for cell in todo if ends.get(cell.key, 0) >= ENDS]
    doubtful = [cell for cell in todo if 0 < ends.get(cell.key, 0) < ENDS]
    for cell in deadly:
        store.add_failure(cell, f"{ends[cell.key]} processes ended while they drew it; the next run tries it again")
    if deadly:
        say(f"{_cells(deadly)}: {ENDS} processes ended while drawing; not drawn now ({_named(deadly)})")
    if doubtful:
        say(f"{_cells(doubtful)}: a process ended while drawing; drawn last, one by one ({_named(doubtful)})")
    apart = {cell.key for cell in (*deadly, *doubtful)}
    plain = [cell for cell in todo if cell.key not in apart]
    return [*worklist.chunks(plain, size), *([cell] for cell in doubtful)]


def _cells(cells: Sequence[Cell]) -> str:
    return "1 cell" if len(cells) == 1 else f"{len(cells)} cells"


def _named(cells: Sequence[Cell]) -> str:
    more = f" and {len(cells) - SHOWN} more" if len(cells) > SHOWN else ""
    return ", ".join(f"seed {cell.item.seed} of '{_short(cell.item.prompt)}'" for cell in cells[:SHOWN]) + more


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= 40 else f"{prompt[:39]}…"


def mixed(made_with: Iterable[tuple[str, int]]) -> str:
    """Say that pictures were made with unlike versions or on unlike devices; "" where they were not."""
    found = list(made_with)
    told = "; ".join(f"{count} with {versions}" for versions, count in found)
    return f"pictures of unlike versions or devices are compared: {told}" if len(found) > 1 else ""
