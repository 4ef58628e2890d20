"""The scorers of a search: asked, watched, named by words, and what goes wrong with them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genbench import judging
from genbench.errors import PluginError, UsageError
from genbench.judging import Panel
from genbench.kinds import Candidate, State
from genbench.request import resolve

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@dataclass
class Asked:
    """Answers with a fixed value, and keeps what it was asked."""

    value: Any = 1.0
    seen: tuple[Any, ...] = ()

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Any = None) -> Tensor:
        self.seen = (list(prompts), rows)
        if isinstance(self.value, Exception):
            raise self.value
        return self.value if isinstance(self.value, (Tensor, list)) else torch.full((len(images),), self.value)


def test_every_verifier_is_asked_about_every_picture_with_prompt_and_row() -> None:
    one, other = Asked(1.0), Asked(2.0)
    told = Panel({"one": one, "other": other}).judge(IMAGES, "red", {"kind": "x"})
    assert {name: values.tolist() for name, values in told.items()} == {"one": [1.0] * 3, "other": [2.0] * 3}
    assert one.seen == other.seen == (["red"] * 3, [{"kind": "x"}] * 3)


def test_no_verifier_a_failure_and_a_wrong_shape_are_one_line_each() -> None:
    for panel, error, says in (
        (Panel(), UsageError, "needs a verifier; name one with verifier="),
        (Panel({"v": Asked(ValueError("a\nb"))}), PluginError, "^the scorer 'v' failed: ValueError: a; choose another"),
        (Panel({"v": Asked(UsageError("not in the grammar"))}), UsageError, "^not in the grammar$"),
        (Panel({"v": Asked([0.5])}), PluginError, r"'v' answered a list for 3 pictures, not a tensor of shape \(3,\)"),
        (Panel({"v": Asked(torch.zeros(3, 1))}), PluginError, r"'v' answered \(3, 1\) for 3 pictures, not \(3,\)"),
    ):
        with pytest.raises(error, match=says):
            panel.judge(IMAGES, "red", {})


def test_a_holdout_that_fails_costs_nothing_but_its_number() -> None:
    with pytest.warns(UserWarning, match="holdout=h says nothing of this picture: the scorer 'h' failed"):
        told = Panel(holdouts={"h": Asked(ValueError("no")), "k": Asked(2.0)}).watch(IMAGES, "red", {})
    assert told["h"].isnan().all() and told["k"].tolist() == [2.0] * 3


def candidate(*rows: dict[str, object]) -> Candidate:
    return Candidate(State(torch.zeros(1)), 2.0, rows)


def test_a_foreign_searchs_winner_is_marked_and_shown_to_the_holdouts() -> None:
    watched: list[int] = []

    def watch(images: Tensor) -> dict[str, Tensor]:
        watched.append(len(images))
        return {"h": torch.tensor([0.5])}

    trace = judging.with_holdouts(candidate({"score": 1.0}, {"score": 2.0}, {"score": 2.0}), watch, IMAGES[:1])
    assert trace == ({"score": 1.0}, {"score": 2.0, "chosen": True, "holdout": {"h": 0.5}}, {"score": 2.0})
    own = candidate({"score": 2.0}, {"score": 2.0, "chosen": True, "holdout": {"h": 1.0}})
    assert judging.with_holdouts(own, watch, IMAGES[:1]) == own.trace and watched == [1]
    assert judging.with_holdouts(candidate({"score": None}), watch, IMAGES[:1]) == ({"score": None},)


# --- which they are -----------------------------------------------------------------------------------------------

SCORER = """from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
import torch
from genbench.kinds import About

@dataclass(frozen=True)
class Dark:
    gain: float = 1.0  # multiplies
    about: ClassVar[About] = About("Darkness.")
    def score(self, *, images, prompts, rows=None):
        return -self.gain * images.mean((1, 2, 3))
"""
TOY = {"model": "toy", "prompt": "red", "plugin": "search", "steps": 3}


@pytest.fixture
def dark(work: Path) -> str:
    (work / "dark.py").write_text(SCORER)
    return "./dark.py:Dark"


def test_verifiers_and_holdouts_take_their_own_options(dark: str) -> None:
    asked = resolve({**TOY, "verifier": f"toy,{dark}", "dark.gain": "3"}, files=False)
    assert list(judging.verifiers(asked)) == ["toy", "dark"] and judging.holdouts(asked) == {}
    assert judging.verifiers(asked)["dark"].object.gain == 3.0  # type: ignore[attr-defined]
    held = resolve({**TOY, "verifier": "toy", "holdout": dark, "dark.gain": "2"}, files=False)
    assert list(judging.holdouts(held)) == ["dark"]
    assert judging.panel(held).holdouts["dark"].gain == 2.0  # type: ignore[attr-defined]


def test_an_identity_follows_words_code_and_options(dark: str) -> None:
    one = resolve({**TOY, "verifier": "toy"}, files=False)
    two = resolve({**TOY, "verifier": f"toy,{dark}", "dark.gain": "3"}, files=False)
    assert judging.identity(one)[0] == "toy" and len(judging.identity(one)) == 2
    words, hashes, options = judging.identity(two)
    assert words == f"toy,{dark}" and options == {"dark.gain": "3"}
    assert hashes.startswith(judging.identity(one)[1] + " ")


def test_what_is_named_wrongly_stops_before_the_model(dark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from genbench.generation import generate

    monkeypatch.setattr("genbench.models.open_model", lambda *a, **k: pytest.fail("a model was opened"))
    for words, says in (
        ({"verifier": "toy,toy"}, "verifier=toy,toy names a scorer twice"),
        ({"verifier": "toy", "holdout": "toyy"}, "no scorer 'toyy'; did you mean 'toy'"),
        ({"verifier": "toy", "holdout": dark, "options": {"dark": {"gian": 1}}}, "dark has no option 'gian'"),
        ({"verifier": "toy", "options": {"search": {"budget": "2nfe"}}}, "budget=2nfe is below one picture"),
        ({"verifier": "toy", "options": {"search": {"budget": "200"}}}, "budget=200 needs a unit"),
        ({"verifier": f"toy,{dark}", "options": {"search": {"algorithm": "fk"}}}, "needs one reward"),
    ):
        with pytest.raises((UsageError, PluginError), match=says):
            generate(**{**TOY, **words})


def test_an_ensemble_searches_and_tells_each_score(dark: str) -> None:
    from genbench.generation import generate

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (picture,) = generate(**{**TOY, "verifier": f"toy,{dark}", "options": {"search": {"candidates": 5}}})
    scores: Any = [row["scores"] for row in picture.trace]
    assert [set(each) for each in scores] == [{"toy", "dark"}] * 5
    shares = [sum(sum(other[v] < own[v] for other in scores) / 4 for v in own) / 2 for own in scores]
    assert [row["score"] for row in picture.trace] == pytest.approx(shares)
    assert picture.trace[shares.index(max(shares))]["chosen"] and picture.score == max(shares)
