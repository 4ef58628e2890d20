"""A scorer with options of its own as verifier of a run, metric of an evaluation and encoder of a set metric."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import genbench
from genbench import cli
from genbench.errors import ModelError, UsageError
from genbench.evaluation.worklist import settings_of
from genbench_scorers import weights
from tests.plugins import scorers_published as published


@pytest.fixture
def tiny(work: Path) -> str:
    return str(published.clip_folder(work / "tiny")[0])


def words(**more: object) -> dict[str, Any]:
    return {"model": "toy", "plugin": "search", "verifier": "clip", "prompt": "red", "steps": 2, **more}


def test_a_search_follows_the_scorer_with_its_options(tiny: str) -> None:
    generate: Any = genbench.generate
    options = {"clip": {"model": tiny, "convention": "paper"}, "search": {"candidates": 2}}
    (picture,) = generate(**words(options=options))
    scores = [each["score"] for each in picture.trace]
    build: Any = genbench.build
    scorer = build("clip", options["clip"], ("scorer",)).object
    judged = scorer.score(images=picture.image[None], prompts=["red"])
    assert picture.score == max(scores) == pytest.approx(float(judged), abs=1e-5)
    assert picture.resolved.options["clip"] == options["clip"]


def test_a_rerun_has_the_verifiers_options(tiny: str, work: Path) -> None:
    asked = (
        f"run model=toy plugin=search search.candidates=2 verifier=clip clip.model={tiny} prompt=red steps=2 out=made"
    )
    assert cli.main(asked.split()) == 0
    (picture,) = work.glob("made/**/*.png")
    assert cli.main(["rerun", str(picture), "out=again"]) == 0
    (again,) = work.glob("again/**/*.png")
    record = json.loads(next(work.glob("made/**/run.json")).read_text())
    assert weights.version(Path(tiny)) in record["environment"]["verifier"]["content"]
    assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(Image.open(again)))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"model": "nowhere"}, ModelError, "clip.model=nowhere"),
        ({"modle": "x"}, UsageError, "clip has no option 'modle'; did you mean 'model'"),
    ],
)
def test_what_is_wrong_with_a_verifier_is_said_before_the_model_opens(
    options: dict[str, str], error: type[Exception], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genbench.models.open_model", lambda *_, **__: pytest.fail("the model was opened"))
    generate: Any = genbench.generate
    with pytest.raises(error, match=says):
        generate(**words(options={"clip": options}))


def test_a_verifiers_options_and_weights_are_part_of_what_a_cell_is(tiny: str, work: Path) -> None:
    resolve: Any = genbench.resolve
    other = str(published.clip_folder(work / "other", seed=1)[0])
    asked = [{"model": tiny}, {"model": tiny, "convention": "paper"}, {"model": other}]
    found = [settings_of(resolve(words(options={"clip": each}))).id for each in asked]
    assert len(set(found)) == 3
    assert found[0] == settings_of(resolve(words(options={"clip": asked[0]}))).id


def test_eval_takes_options_of_verifier_metric_and_encoder(tiny: str, work: Path) -> None:
    (work / "prompts.txt").write_text("red\nblue\n")
    common = "eval model=toy prompts=prompts.txt seeds=0..1 steps=2 search.candidates=2 verifier=clip out=cmp"
    asked = [*common.split(), "chains=none; search", "metrics=clip,diversity@clip", f"clip.model={tiny}"]
    assert cli.main(asked) == 0
    with sqlite3.connect("cmp/results.sqlite") as store:
        versions = {row[0] for row in store.execute("SELECT version FROM scores")}
        values = [row[0] for row in store.execute("SELECT value FROM sets WHERE metric = 'diversity'")]
    assert len(versions) == 1 and " weights " in versions.pop()
    assert len(values) == 2 and all(value > 0 for value in values)
