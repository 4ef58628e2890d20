"""Scenes in a comparison: a sheet of views each, judged view by view."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genbench.cli import main
from genbench.evaluation.keeping import SHEET
from genbench.evaluation.scoring import load, views
from genbench.evaluation.worklist import settings_of
from genbench.generation import generate, looked_at
from genbench.request import resolve
from genbench.scenes.views import Stand, between, cells, sheet

QUICK = [f"{method}.{word}" for method in ("asd", "sds") for word in ("iterations=2", "batch=1", "count=20")]


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red\nblue\n")
    out = tmp_path / "out"
    words = ["model=toy", f"prompts={prompts}", "chains=sds;asd", "seeds=0", "metrics=toy", f"out={out}", *QUICK]
    assert main(["eval", *words]) == 0
    return out


def scores(out: Path) -> dict[str, float]:
    with closing(sqlite3.connect(out / "results.sqlite")) as db:
        query = "SELECT path, value FROM pictures JOIN scores ON pictures.image = scores.image WHERE name = ''"
        return dict(db.execute(query))


def test_a_scene_is_kept_as_eight_views_and_scored_as_their_mean(compared: Path) -> None:
    from genbench.backbones.toy import ToyScorer

    told = scores(compared)
    assert len(told) == 4 and all(path.endswith(SHEET) for path in told)
    texts = {path: "red" if "red" in prompt else "blue" for path, prompt in prompts_of(compared).items()}
    for path, value in told.items():
        seen = views(compared / path)
        assert seen.shape == (8, 3, 256, 256)
        each = ToyScorer().score(images=seen, prompts=[texts[path]] * 8)
        assert value == pytest.approx(float(each.double().mean()), abs=1e-6)


def prompts_of(out: Path) -> dict[str, str]:
    with closing(sqlite3.connect(out / "results.sqlite")) as db:
        return dict(
            db.execute("SELECT path, prompts.prompt FROM pictures JOIN prompts ON pictures.prompt = prompts.id")
        )


def test_what_is_drawn_is_not_drawn_again(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["model=toy", f"prompts={compared.parent / 'prompts.txt'}", "chains=sds;asd", "seeds=0", *QUICK]
    assert main(["eval", *words, "metrics=toy", f"out={compared}"]) == 0
    assert "4 cells, 4 done, 0 to draw" in capsys.readouterr().err


def test_a_sheet_can_be_cut_again() -> None:
    frames = list(torch.rand(8, 3, 5, 7))
    assert torch.equal(cells(sheet(frames), 4, 2), torch.stack(frames))


def test_judged_views_lie_between_those_that_are_shown() -> None:
    stand = between(Stand(azimuth_deg=0.0), 8)
    assert stand.around(8, 4).azimuth_deg.tolist() == [22.5 + 45 * k for k in range(8)]
    (picture,) = generate(
        plugin="sds", model="toy", prompt="red", options={"sds": dict(iterations=1, batch=1, count=9)}
    )
    scene = picture.scene
    assert scene is not None
    turned = replace(scene, stand=between(scene.stand, 8))  # type: ignore[attr-defined,type-var]
    assert torch.equal(looked_at(scene, judged=True), looked_at(turned))
    assert not torch.equal(looked_at(scene), looked_at(scene, judged=True))


def test_a_plain_picture_is_one_view(tmp_path: Path) -> None:
    (picture,) = generate(model="toy", prompt="red")
    picture.pil.save(tmp_path / "one.png")
    assert torch.equal(views(tmp_path / "one.png"), load(tmp_path / "one.png")[None])


def test_settings_know_a_scene() -> None:
    assert settings_of(resolve({"model": "toy", "plugin": "asd"})).scene
    assert not settings_of(resolve({"model": "toy"})).scene
