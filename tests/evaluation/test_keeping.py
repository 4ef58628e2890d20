"""What a store is handed: file before row, and what cannot be encoded as a failure of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genbench.evaluation import keeping, worklist
from genbench.evaluation.keeping import Failure, Shelf, Sketch, image_hash, keep
from genbench.evaluation.planning import Plan, plan
from genbench.evaluation.store import Store
from genbench.evaluation.studio import Studio
from genbench.evaluation.words import sort_words


@pytest.fixture
def grid(work: Path) -> Plan:
    Path("p.txt").write_text("red\nblue\n")
    return plan(sort_words({"model": "toy", "prompts": "p.txt", "seeds": "0..1", "steps": "2"}))


def sketches(grid: Plan, store: Store) -> list[Sketch]:
    store.add_plan(grid.settings, grid.cells)
    studio = Studio(Shelf(store), {each.id: worklist.for_worker(each, 4) for each in grid.settings})
    return [sketch for sketch in studio.draw(grid.cells) if isinstance(sketch, Sketch)]


def test_a_sketch_holds_what_is_in_the_file(grid: Plan) -> None:
    with Store("cmp") as store:
        drawn = sketches(grid, store)
        assert keep(Shelf(store), drawn) == 4 and store.done() == {cell.key for cell in grid.cells}
        made = {each.key: each for each in store.pictures()}
    for sketch in drawn:
        each = made[sketch.cell.key]
        with Image.open(Path("cmp") / each.path) as opened:
            assert np.array_equal(np.asarray(opened), np.asarray(sketch.pil))
        assert each.image == image_hash(np.asarray(sketch.pil)) and each.nfe == sketch.nfe


def test_a_picture_that_cannot_be_encoded_costs_its_own_cell(grid: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = keeping.encoded

    def picky(picture: Sketch, environment: dict[str, object]) -> bytes:
        if picture.item.prompt == "blue":
            raise ValueError("blue cannot be told")
        return encoded(picture, environment)

    monkeypatch.setattr(keeping, "encoded", picky)
    with Store("cmp") as store:
        drawn = sketches(grid, store)
        assert keep(Shelf(store), [*drawn[:3], Failure(drawn[3].cell, "not drawn")]) == 4
        assert {made.text for made in store.pictures()} == {"red"} and len(store.done()) == 2
        assert sorted(error for *_, error in store.failures()) == ["ValueError: blue cannot be told", "not drawn"]
