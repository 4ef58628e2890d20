"""Scoring while drawing: the same values, sooner; it ends when it is told to, and what it cannot do costs nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image

from genbench.discovery import Plugin
from genbench.evaluation import cli_main, overlap
from genbench.evaluation.keeping import Outcome
from genbench.evaluation.overlap import BATCH, Overlap
from genbench.evaluation.scoring import Metric
from genbench.evaluation.store import Store
from genbench.evaluation.studio import Studio
from genbench.evaluation.worklist import Cell, Settings
from genbench.kinds import About
from genbench.request import Item, Request, Resolved

PLAIN = Settings("s" * 24, "none", {"request": {"model": "toy"}, "plugins": [], "model": "m"}, Resolved(Request()))
WAIT = 60.0
"""Seconds after which a test has failed that waits for another thread."""
CHOOSY = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genbench.kinds import About


@dataclass(frozen=True)
class Choosy:
    """A scorer that raises for one prompt."""

    about: ClassVar[About] = About("Raises for blue.")

    def score(self, *, images, prompts, rows=None):
        if "blue" in prompts:
            raise ValueError("blue has no score")
        return images.mean((1, 2, 3))
'''


class Grey:
    """A scorer that does something before it answers, and counts its pictures."""

    about: ClassVar[About] = About("Mean of all pixels.")

    def __init__(self, before: Any = lambda: None) -> None:
        self.before, self.seen, self.threads = before, 0, list[int]()

    def score(self, *, images: torch.Tensor, prompts: Any, rows: Any = None) -> torch.Tensor:
        self.seen += len(images)
        self.threads.append(torch.get_num_threads())
        self.before()
        return images.mean((1, 2, 3))


def metric(scorer: Grey, word: str = "grey") -> Metric:
    return Metric(word, Plugin(word, scorer, ("scorer",)), "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of forty pictures, all different."""
    with Store(tmp_path) as store:
        cells = [Cell(f"k{n}", PLAIN.id, f"p{n}", f"p{n}", Item(n, f"a {n}", "", 0, {})) for n in range(40)]
        store.add_plan([PLAIN], cells)
        for n, cell in enumerate(cells):
            Image.new("RGB", (4, 4), (n, n, n)).save(tmp_path / f"{n}.png")
            values: dict[str, Any] = {"image": f"i{n}", "nfe": 1, "seconds": 0.1, "batch": 1, "score": None}
            store.add_picture(cell, path=f"{n}.png", trace=(), **values)
    return tmp_path


def values(folder: Path | str, word: str = "grey") -> dict[tuple[str, str], float]:
    with Store(folder) as store:
        return store.scores().get((word, ""), {})


def test_where_this_process_draws_the_first_pictures_are_scored_before_it_goes_on(folder: Path) -> None:
    scorer = Grey()
    with Overlap(folder, [metric(scorer)], here=True) as scoring:
        scoring.tell(0)
        assert scoring.thread is None
        scoring.tell(40)
        assert len(values(folder)) >= BATCH
    assert set(scorer.threads) == {1} and scoring.thread is not None and not scoring.thread.is_alive()


def test_every_picture_is_scored_once_however_often_it_is_told(folder: Path) -> None:
    scorer, last = Grey(), Event()
    scorer.before = lambda: last.set() if scorer.seen == 40 else None
    with Overlap(folder, [metric(scorer)], here=False) as scoring:
        for _ in range(3):
            scoring.tell(1)
        assert last.wait(WAIT)
    assert scorer.seen == 40 and len(values(folder)) == 40


def test_the_end_waits_for_the_batch_at_hand_and_for_no_other(folder: Path) -> None:
    scorer, began = Grey(), Event()
    with pytest.raises(KeyboardInterrupt), Overlap(folder, [metric(scorer)], here=False) as scoring:

        def stay() -> None:
            began.set()
            assert scoring.stopped.wait(WAIT)

        scorer.before = stay
        scoring.tell(40)
        assert began.wait(WAIT)
        raise KeyboardInterrupt
    assert scoring.thread is not None and not scoring.thread.is_alive()
    assert scorer.seen == BATCH == len(values(folder))


def test_nothing_is_scored_while_weights_may_load(folder: Path) -> None:
    held = list[bool]()
    scorer = Grey(lambda: held.append(scoring.loading.locked()))
    with Overlap(folder, [metric(scorer)], here=True) as scoring:
        scoring.tell(1)
    assert held and all(held)


def test_a_scorer_that_raises_is_left_for_afterwards_and_the_others_go_on(folder: Path) -> None:
    def fails() -> None:
        raise ValueError("never")

    bad, good, last = Grey(fails), Grey(), Event()
    good.before = lambda: last.set() if good.seen == 40 else None
    with Overlap(folder, [metric(bad, "bad"), metric(good)], here=False) as scoring:
        scoring.tell(1)
        assert last.wait(WAIT)
    assert bad.seen == BATCH and len(values(folder)) == 40
    with Store(folder) as store:
        assert store.unscored() == []  # it is said afterwards, where it is asked again


def test_a_store_that_cannot_be_opened_stops_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path) -> Store:
        raise OSError("no store")

    monkeypatch.setattr(overlap, "Store", broken)
    with Overlap(folder, [metric(Grey())], here=True) as scoring:
        scoring.tell(1)
    assert values(folder) == {}


# --- the command ----------------------------------------------------------------------------------------------------


def evaluate(out: str, *words: str) -> int:
    Path("p.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("red", "blue", "green")))
    Path("choosy.py").write_text(CHOOSY)
    base = ["model=toy", "steps=2", "prompts=p.jsonl", "seeds=0..3", "batch_size=2", f"out={out}"]
    return cli_main("eval", [*base, "metrics=toy,./choosy.py:Choosy", *words])


def test_the_same_values_and_the_same_failures_as_afterwards(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = dict[str, tuple[Any, ...]]()
    for word in ("true", "false"):
        assert evaluate(word, f"overlap={word}") == 1  # blue has no score
        with Store(word) as store:
            told[word] = (store.scores(), store.unscored(), capsys.readouterr().err.replace(word, ""))
    assert told["true"] == told["false"]
    scores, unscored, _ = told["true"]
    assert len(scores["toy", ""]) == 12 and len(scores["./choosy.py:Choosy", ""]) == 8
    assert unscored == [("./choosy.py:Choosy", 4, "ValueError: blue has no score")]


@pytest.mark.parametrize(("word", "before_the_end"), [("true", True), ("false", False)])
def test_scores_come_before_the_last_picture(
    work: Path, monkeypatch: pytest.MonkeyPatch, word: str, before_the_end: bool
) -> None:
    draw, there = Studio.draw, list[int]()

    def counted(studio: Studio, cells: Sequence[Cell]) -> list[Outcome]:
        there.append(len(values("cmp", "toy")))
        return draw(studio, cells)

    monkeypatch.setattr(Studio, "draw", counted)
    evaluate("cmp", f"overlap={word}")
    assert (there[-1] > 0) is before_the_end and len(values("cmp", "toy")) == 12


def test_a_drawing_that_is_broken_off_ends_the_scoring(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, drawn = Studio.draw, list[int]()

    def interrupted(studio: Studio, cells: Sequence[Cell]) -> list[Outcome]:
        drawn.append(len(cells))
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return draw(studio, cells)

    monkeypatch.setattr(Studio, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate("cmp", "overlap=true")
    made = values("cmp", "toy")
    assert 0 < len(made) <= 6
    monkeypatch.setattr(Studio, "draw", draw)
    evaluate("cmp", "overlap=true")
    assert made.items() <= values("cmp", "toy").items() and len(values("cmp", "toy")) == 12
