"""Who judged, in words; what was judged is kept; what fails costs its own value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image

from genbench.discovery import Plugin
from genbench.errors import PluginError, UsageError
from genbench.evaluation import scoring
from genbench.evaluation.scoring import Metric, Metrics
from genbench.evaluation.store import Store
from genbench.evaluation.worklist import Cell, Settings
from genbench.kinds import About
from genbench.request import Item, Request, Resolved

PLAIN = Settings("s" * 24, "none", {"request": {"model": "toy"}, "plugins": [], "model": "m"}, Resolved(Request()))


@dataclass(frozen=True)
class Asked:
    """A scorer that remembers what it was asked, and refuses some prompts."""

    about: ClassVar[About] = About("Remembers.")
    refuses: tuple[str, ...] = ()
    seen: list[list[str]] = field(default_factory=list[list[str]])

    def score(self, *, images: torch.Tensor, prompts: Any, rows: Any = None) -> torch.Tensor:
        self.seen.append(list(prompts))
        if set(self.refuses) & set(prompts):
            raise ValueError("refused")
        return images.mean((1, 2, 3))


def metric(scorer: Asked, version: str = "1") -> Metric:
    return Metric("asked", Plugin("asked", scorer, ("scorer",)), version)


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path) as store:
        for n, name in enumerate(("red", "blue", "green")):
            cell = Cell(f"k{n}", PLAIN.id, name, name, Item(n, name, "", 0, {"prompt": name}))
            store.add_plan([PLAIN], [cell])
            Image.new("RGB", (4, 4), name).save(tmp_path / f"{name}.png")
            values: dict[str, Any] = {"image": name, "nfe": 1, "seconds": 0.1, "batch": 1, "score": None, "trace": ()}
            store.add_picture(cell, path=f"{name}.png", **values)
        yield store


def test_what_this_version_has_judged_is_not_judged_again(store: Store) -> None:
    scorer = Asked()
    scoring.score(store, metric(scorer), lambda _: None)
    scoring.score(store, metric(scorer), lambda _: None)
    assert scorer.seen == [["red", "blue", "green"]]
    scoring.score(store, metric(scorer, "2"), lambda _: None)
    assert len(scorer.seen) == 2 and store.scorers() == {"asked": "2"}


def test_a_picture_that_cannot_be_scored_or_read_costs_its_own_value(store: Store) -> None:
    (store.folder / "green.png").write_bytes(b"no picture")
    scoring.score(store, metric(Asked(refuses=("blue",))), lambda _: None)
    assert [image for image, _ in store.scores()["asked", ""]] == ["red"]
    assert [(scorer, n) for scorer, n, _ in store.unscored()] == [("asked", 2)]
    Image.new("RGB", (4, 4), "green").save(store.folder / "green.png")
    scorer = Asked()
    scoring.score(store, metric(scorer), lambda _: None)
    assert scorer.seen == [["blue", "green"]] and store.unscored() == []


def test_a_version_names_code_resizing_and_options(tmp_path: Path) -> None:
    source = "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom genbench.kinds import About\n\n\n"
    source += "@dataclass(frozen=True)\nclass Grey:\n    about: ClassVar[About] = About('Grey.')\n    RESIZE\n"
    source += "    of: int = 1\n\n    def score(self, *, images, prompts, rows=None):\n        return images.mean()\n"
    versions = []
    for name, resize in (("a", "pass"), ("b", "resize: ClassVar[str] = 'bicubic to 224'")):
        (tmp_path / f"{name}.py").write_text(source.replace("RESIZE", resize))
        word = f"{tmp_path / name}.py:Grey"
        versions += [Metrics.read([word], "", given).chosen[0].version for given in ({}, {word: {"of": "2"}})]
    assert len(set(versions)) == 4
    assert all(version.startswith("file ") for version in versions)
    assert "resize: bicubic to 224" in versions[2] and versions[3].endswith('{"of": "2"}')


class Parts:
    """A scorer whose details may hold the score; counts how often it is asked."""

    about: ClassVar[About] = About("Mean and maximum.")

    def __init__(self, whole: bool) -> None:
        self.whole, self.asked = whole, list[str]()

    def score(self, *, images: torch.Tensor, prompts: Any, rows: Any = None) -> torch.Tensor:
        self.asked.append("score")
        return images.mean((1, 2, 3))

    def details(self, *, images: torch.Tensor, prompts: Any, rows: Any = None) -> dict[str, torch.Tensor]:
        self.asked.append("details")
        most = {"most": images.amax((1, 2, 3))}
        return {"": images.mean((1, 2, 3)), **most} if self.whole else most


def test_details_that_hold_the_score_are_asked_alone_and_give_the_same(store: Store) -> None:
    images, batch = torch.rand(3, 1, 3, 4, 4), store.pictures()
    whole, apart = Parts(whole=True), Parts(whole=False)
    assert scoring.judge(whole, images, batch) == scoring.judge(apart, images, batch)
    assert whole.asked == ["details"] and sorted(apart.asked) == ["details", "score"]
    assert scoring.judge(whole, images, batch)[""] == images.mean((1, 2, 3, 4)).tolist()


def test_of_several_views_the_score_is_their_mean(store: Store) -> None:
    images, batch = torch.rand(3, 8, 3, 4, 4), store.pictures()
    told = scoring.judge(Parts(whole=False), images, batch)
    assert told[""] == pytest.approx(images.double().mean((1, 2, 3, 4)).tolist(), abs=1e-6)
    assert told["most"] == pytest.approx(images.amax((2, 3, 4)).double().mean(1).tolist(), abs=1e-6)


class Columns:
    """A scorer that answers what it is told, and notes on which device it was asked."""

    about: ClassVar[About] = About("Answers.")

    def __init__(self, *answers: float, relative: bool = False) -> None:
        self.answers, self.relative, self.devices = answers, relative, list[str]()

    def score(self, *, images: torch.Tensor, prompts: Any, rows: Any = None) -> torch.Tensor:
        self.devices.append(str(images.device))
        return torch.tensor(self.answers[: len(images)] or [0.5] * len(images))

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        self.devices.append(str(images.device))
        return torch.zeros(len(images), 2)


def of(scorer: Columns, device: str = "cpu") -> Metric:
    plugin = Plugin("columns", scorer, ("scorer",))
    return Metric("columns", plugin, "1", plugin, "columns", "1", torch.device(device))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_none_and_is_asked_again(store: Store, wrong: float) -> None:
    scoring.score(store, of(Columns(0.5, wrong, 0.25)), lambda _: None)
    assert sorted(store.scores()["columns", ""].values()) == [0.25, 0.5]
    assert store.unscored() == [("columns", 1, f"the score is no number: {wrong}")]
    again = Columns(0.75)
    scoring.score(store, of(again), lambda _: None)
    assert len(again.devices) == 1 and len(store.scores()["columns", ""]) == 3 and store.unscored() == []


def test_a_column_of_another_length_is_refused(store: Store) -> None:
    class Long(Columns):
        def score(self, *, images: torch.Tensor, prompts: Any, rows: Any = None) -> torch.Tensor:
            return torch.zeros(len(images) + 1)

    scoring.score(store, of(Long()), lambda _: None)
    assert store.scores() == {}
    assert store.unscored() == [("columns", 3, "PluginError: the score has shape (2,) for 1 pictures, not (1,)")]


def test_scorers_and_encoders_are_asked_on_the_device_that_was_chosen(store: Store) -> None:
    scorer = Columns()
    scoring.score(store, of(scorer, "meta"), lambda _: None)
    scoring.embed(store, of(scorer, "meta"), lambda _: None)
    assert scorer.devices == ["meta", "meta"] and len(store.scores()["columns", ""]) == 3
    chosen = Metrics.read(["toy", "vendi@solids-clip"], "", {}, torch.device("meta")).chosen
    assert [metric.device.type for metric in chosen] == ["meta", "meta"]


def test_a_scorer_that_only_compares_is_no_metric() -> None:
    options = {"ensemble": {"scorers": "toy,solids-exact", "rule": "rank"}}
    with pytest.raises(UsageError, match="metrics=ensemble: .* only compares pictures that it sees together"):
        Metrics.read(["ensemble"], "", options)
    options["ensemble"]["rule"] = "sum"
    assert Metrics.read(["ensemble"], "", options).chosen[0].word == "ensemble"


def test_a_name_that_a_metric_is_known_by_says_what_to_write() -> None:
    with pytest.raises(UsageError, match="metrics=fid: FID is frechet@inception here; write that"):
        Metrics.read(["fid"], "", {})
    with pytest.raises(PluginError, match="did you mean 'kid'"):
        Metrics.read(["kdi"], "", {})
