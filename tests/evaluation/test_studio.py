"""One process's sessions: what opens a model, and what only draws otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event, Lock

import pytest
from PIL import Image

from genbench import cli
from genbench.errors import OutputError
from genbench.evaluation import worklist
from genbench.evaluation.keeping import Drawn, Failure, Outcome, Shelf
from genbench.evaluation.planning import Plan, plan
from genbench.evaluation.store import Store
from genbench.evaluation.studio import Studio
from genbench.evaluation.words import sort_words
from genbench.evaluation.worklist import Cell
from genbench.generation import Session
from genbench.request import Item


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The chains whose sessions were opened, in order."""
    chains, original = list[str](), Session.open
    monkeypatch.setattr(
        Session, "open", lambda resolved: (chains.append(",".join(resolved.plugins)), original(resolved))[1]
    )
    return chains


def draw(*words: str) -> Plan:
    Path("p.txt").write_text("red\nblue\n")
    given = dict(word.split("=", 1) for word in words)
    grid = plan(sort_words({"model": "toy", "prompts": "p.txt", "seeds": "0..1", **given}))
    with Store("cmp") as store:
        store.add_plan(grid.settings, grid.cells)
        studio = Studio(Shelf(store), {each.id: worklist.for_worker(each, 4) for each in grid.settings})
        for batch in worklist.chunks(grid.cells, 4):
            studio.make(batch)
    return grid


def made() -> dict[str, tuple[str, int]]:
    with Store("cmp") as store:
        return {made.key: (made.image, made.nfe) for made in store.pictures()}


def test_swept_settings_share_the_open_model_and_draw_what_they_would_alone(work: Path, opened: list[str]) -> None:
    grid = draw("sweep.steps=2,3", "sweep.guidance_scale=1,4")
    assert opened == [""] and len(grid.settings) == 4
    together = made()
    for steps, scale in ((2, 1), (2, 4), (3, 1), (3, 4)):
        Path("cmp").rename(f"before-{steps}-{scale}")
        draw(f"steps={steps}", f"guidance_scale={scale}")
        assert made().items() <= together.items()
    assert {nfe for _, nfe in together.values()} == {2, 3, 4, 6} and len(together) == 16


def test_a_picture_is_made_again_bit_by_bit_and_without_a_warning(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw("chains=search", "steps=2")
    picture = next(Path("cmp").rglob("*.png"))
    assert cli.main(["rerun", str(picture), "out=again"]) == 0
    assert "differ" not in capsys.readouterr().err
    (again,) = Path("again").rglob("*.png")
    with Image.open(picture) as one, Image.open(again) as other:
        assert one.tobytes() == other.tobytes()


def test_other_plugins_or_options_open_a_session_of_their_own(work: Path, opened: list[str]) -> None:
    draw("chains=none; search", "sweep.search.candidates=2,3", "steps=2")
    assert opened == ["", "search", "search"]
    assert {nfe for _, nfe in made().values()} == {4, 8, 12}


# --- one batch is written while the next is drawn -------------------------------------------------------------------

WAIT = 60.0
"""Seconds after which a test has failed that waits for another thread."""


class Tray:
    """A sink that keeps keys; `full` makes it refuse everything."""

    def __init__(self, full: bool = False) -> None:
        self.full, self.there, self.one = full, list[str](), Event()

    def add_picture(self, drawn: Drawn) -> None:
        pytest.fail("only failures are handed over here")

    def add_failure(self, cell: Cell, error: str) -> None:
        if self.full:
            raise OutputError("the disk is full")
        self.there.append(cell.key)
        self.one.set()


def batches(count: int) -> list[list[Cell]]:
    items = [Item(n, "red", "", n, {}) for n in range(2 * count)]
    cells = [Cell(f"k{item.index}", "s", "p", "p", item) for item in items]
    return [cells[first : first + 2] for first in range(0, len(cells), 2)]


class Drawing(Studio):
    """Draws nothing: every cell fails at once, from the second batch on once something has been handed over."""

    drawn = 0

    def draw(self, cells: Sequence[Cell]) -> list[Outcome]:
        assert isinstance(self.sink, Tray)
        if self.drawn and not self.sink.full:
            assert self.sink.one.wait(WAIT), "nothing is handed over while the next batch is drawn"
        self.drawn += 1
        return [Failure(cell, "not drawn") for cell in cells]


def test_a_batch_is_handed_over_while_the_next_is_drawn_and_told_when_it_is_there() -> None:
    tray, told = Tray(), list[int]()
    for count in Drawing(tray, {}).made(batches(3)):
        told.append(count)
        assert sum(told) <= len(tray.there)
    assert told == [0, 2, 2, 2] and tray.there == [f"k{n}" for n in range(6)]
    assert list(Drawing(Tray(), {}).made([])) == []


def test_a_full_disk_stops_the_drawing() -> None:
    studio = Drawing(Tray(full=True), {})
    with pytest.raises(OutputError, match="full"):
        list(studio.made(batches(5)))
    assert studio.drawn == 2  # what was being drawn when the disk was full is the last


def test_leaving_in_the_middle_waits_for_what_is_being_written() -> None:
    tray = Tray()
    with pytest.raises(KeyboardInterrupt), closing(Drawing(tray, {}).made(batches(3))) as made:
        for count in made:
            if count:
                raise KeyboardInterrupt
    assert tray.there == ["k0", "k1", "k2", "k3"]


def test_a_session_loads_and_draws_its_first_batch_alone(work: Path) -> None:
    Path("p.txt").write_text("red\nblue\n")
    grid = plan(
        sort_words({"model": "toy", "prompts": "p.txt", "seeds": "0..3", "chains": "none; search", "steps": "2"})
    )
    alone = Lock()
    held, taken = list[bool](), list[str]()

    class Sized(Studio):
        def _outcomes(self, cells: Sequence[Cell]) -> Iterator[Outcome]:
            held.append(alone.locked())
            return super()._outcomes(cells)

    tray = Tray()
    tray.add_picture = lambda drawn: taken.append(drawn.cell.key)  # type: ignore[method-assign]
    studio = Sized(tray, {each.id: worklist.for_worker(each, 4) for each in grid.settings}, alone)
    assert sum(studio.made(worklist.chunks(grid.cells, 4))) == 16 == len(taken)
    assert held == [True, False, True, False]
