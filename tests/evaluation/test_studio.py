"""One process's sessions: what opens a model, and what only draws otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from genbench import cli
from genbench.evaluation import worklist
from genbench.evaluation.keeping import Shelf
from genbench.evaluation.planning import Plan, plan
from genbench.evaluation.store import Store
from genbench.evaluation.studio import Studio
from genbench.evaluation.words import sort_words
from genbench.generation import Session


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
