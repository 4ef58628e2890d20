"""What earlier processes left: what comes last, what fails, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from genbench.evaluation import resuming
from genbench.evaluation.store import Store
from genbench.evaluation.worklist import Cell
from genbench.request import Item

CELLS = [Cell(f"k{n}", "s", "p", "p", Item(n, f"red {n}", "", n, {})) for n in range(7)]


@pytest.fixture
def store(tmp_path: Path):
    """Cells 0 and 1 were being drawn when a process ended, 2 when two did."""
    with Store(tmp_path) as store:
        store._many("INSERT INTO prompts VALUES (?, ?, ?, ?)", [("p", "p", "red", "{}")])
        values = [("k0", "red 0", 0, 1), ("k1", "red 1", 1, 1), ("k2", "red 2", 2, 2)]
        store._many("INSERT INTO attempts VALUES (?, ?, ?, ?)", values)
        yield store


def test_what_a_process_ended_in_comes_last_alone_and_fails_after_two(store: Store) -> None:
    told = list[str]()
    made = resuming.batches(store, CELLS, 3, told.append)
    assert [[cell.key for cell in batch] for batch in made] == [["k3", "k4", "k5"], ["k6"], ["k0"], ["k1"]]
    assert [error for _, _, _, error in store.failures()] == [
        "2 processes ended while they drew it; the next run tries it again"
    ]
    assert told == [
        "1 cell: 2 processes ended while drawing; not drawn now (seed 2 of 'red 2')",
        "2 cells: a process ended while drawing; drawn last, one by one (seed 0 of 'red 0', seed 1 of 'red 1')",
    ]
    again = resuming.batches(store, CELLS, 7, told.append)
    assert [[cell.key for cell in batch] for batch in again] == [["k2", "k3", "k4", "k5", "k6"], ["k0"], ["k1"]]


def test_nothing_is_said_where_nothing_was_left(tmp_path: Path) -> None:
    told = list[str]()
    with Store(tmp_path) as store:
        assert resuming.batches(store, CELLS, 7, told.append) == [CELLS] and told == []


def test_unlike_versions_are_named() -> None:
    assert resuming.mixed([("torch 2", 8)]) == "" == resuming.mixed([])
    told = resuming.mixed([("torch 2", 8), ("torch 1", 1)])
    assert told == "pictures of unlike versions or devices are compared: 8 with torch 2; 1 with torch 1"
