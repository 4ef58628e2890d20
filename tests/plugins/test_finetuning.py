"""AlignProp's and DRAGON's trainers on tiny pipelines: rewards rise, stops change nothing, mistakes are said early."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from genbench.backbones import adapt
from genbench.errors import ModelError, TrainingError, UsageError
from genbench.kinds import Ledger, Model, TrainJob
from genbench.training import curves
from genbench.training.adapters import FILE
from genbench.training.checkpoints import checkpoint_path, load_weights, read_checkpoint
from genbench.training.finetuning import Finetuning
from genbench.training.job import train
from genbench.training.place import Place
from genbench.training.rollouts import Rollout
from genbench_alignprop import AlignPropTrainer
from genbench_dragon import DragonTrainer
from genbench_metrics import Frechet, Vendi
from tests.tiny import saved, tiny
from tests.training.rolling import Pixels, Redness, resources

ROWS = tuple({"prompt": text} for text in ("red cube", "blue", "a cat", "photo of the sphere"))
SMALL: dict[str, Any] = {
    "batch": 4,
    "micro": 4,
    "steps": 2,
    "updates": 3,
    "rank": 2,
    "look_prompts": 2,
    "look_seeds": 2,
}
TRAINERS: tuple[type[Finetuning], ...] = (AlignPropTrainer, DragonTrainer)


class Blind(Redness):
    """A reward without a gradient."""

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Any = None) -> Tensor:
        return super().score(images=images, prompts=prompts, rows=rows).detach()


class Broken(Redness):
    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Any = None) -> Tensor:
        return super().score(images=images, prompts=prompts, rows=rows) * float("nan")


class Colours(Pixels):
    """Mean colour of a picture: a narrow encoder."""

    def embed_images(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float("red" in text), 0.0, float("blue" in text)] for text in texts])


def model_of(family: str = "sd") -> Model:
    opened: Any = adapt(tiny(family), Ledger())
    return opened.replace(name="tiny", recommended={"height": 16, "width": 16})


def job(folder: Path, model: Model | None = None, **more: Any) -> TrainJob:
    model = model or model_of()
    told = {"reward": Redness(), "rows": ROWS, "prompts": tuple(str(row["prompt"]) for row in ROWS), **more}
    return TrainJob(folder, resources(model), model, **told)


def weights(folder: Path, trainer: Finetuning) -> Mapping[str, Tensor]:
    return load_weights(Place(folder), trainer.name)


def drawn(model: Model) -> Tensor:
    rollout = Rollout(resources(model), model, steps=2)
    return rollout.pictures([str(row["prompt"]) for row in ROWS], range(4))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_lora_is_made_and_used(trainer: type[Finetuning], tmp_path: Path) -> None:
    model = model_of()
    before = drawn(model)
    made = trainer(**SMALL).train(job(tmp_path, model, holdout=Redness(), encoder=Pixels()))
    assert made == tmp_path / "lora" and (made / FILE).is_file()
    card = (made / "README.md").read_text()
    assert "base_model: tiny" in card and "arxiv.org" in card and "| 3 |" in card
    assert not torch.allclose(drawn(model.view(lora=str(made))), before, atol=1e-5)
    assert torch.equal(drawn(model), before)  # the base stays
    assert len(list((tmp_path / "samples").iterdir())) == 2  # before the first update and after the last


@pytest.mark.parametrize("family", ["sd_v", "sdxl", "sd3", "flux"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_family_that_takes_a_lora(trainer: type[Finetuning], family: str, tmp_path: Path) -> None:
    model: Any = adapt(tiny(family), Ledger())
    model = model.replace(name="tiny")
    asked = job(tmp_path, model)
    method = trainer(**{**SMALL, "updates": 1, "batch": 2, "micro": 2, "look_prompts": 1})
    made = (replace(method, truncation="full") if isinstance(method, AlignPropTrainer) else method).train(asked)
    assert not torch.allclose(drawn(model.view(lora=str(made))), drawn(model), atol=1e-6)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_stopped_training_ends_in_the_same_bits(trainer: type[Finetuning], tmp_path: Path) -> None:
    method = trainer(**SMALL)
    method = replace(method, inner=1) if isinstance(method, DragonTrainer) else method  # a stop is between rounds
    method.train(job(tmp_path / "whole"))
    training, _, _ = method.prepare(job(tmp_path / "parts"))
    training.run(until=1)
    method.train(job(tmp_path / "parts"))
    whole, parts = (weights(tmp_path / name, method) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_parts_of_a_batch_change_nothing(trainer: type[Finetuning], tmp_path: Path) -> None:
    for micro in (4, 2):
        replace(trainer(**SMALL), micro=micro, updates=1).train(job(tmp_path / str(micro)))
    one, two = (weights(tmp_path / name, trainer()) for name in ("4", "2"))
    assert all(torch.allclose(one[name], two[name], atol=2e-5) for name in one)


def test_alignprop_raises_its_reward(tmp_path: Path) -> None:
    trainer = AlignPropTrainer(**{**SMALL, "updates": 12, "lr": 3e-3}, truncation="full", look_every=12)
    training, _, looks = trainer.prepare(job(tmp_path))
    looks.look(0)
    training.run()
    before, after = looks.looks[0]["reward"], looks.looks[-1]["reward"]
    assert after > before + 0.01


@pytest.mark.parametrize(
    "changes", [{"truncation": "last"}, {"truncation": "per_step_random"}, {"draws": 2}, {"kl": 1.0}, {"target": 0.0}]
)
def test_what_can_be_chosen_is_another_training(changes: dict[str, Any], tmp_path: Path) -> None:
    for name, more in (("default", {}), ("changed", changes)):
        AlignPropTrainer(**{**SMALL, "updates": 2}, **{"truncation": "full", **more}).train(job(tmp_path / name))
    default, changed = (weights(tmp_path / name, AlignPropTrainer()) for name in ("default", "changed"))
    assert any(not torch.allclose(default[name], changed[name]) for name in default)


def test_blocks_computed_again_give_the_same_gradients(tmp_path: Path) -> None:
    for again in (False, True):
        trainer = AlignPropTrainer(**{**SMALL, "updates": 2}, truncation="full", checkpointing=again)
        trainer.train(job(tmp_path / str(again)))
    plain, blocks = (weights(tmp_path / name, AlignPropTrainer()) for name in ("False", "True"))
    assert all(torch.allclose(plain[name], blocks[name], atol=1e-5) for name in plain)
    norms = [
        [line["gradient"] for line in curves.read(Place(tmp_path / name), "alignprop")] for name in ("False", "True")
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5) and min(norms[0]) > 0


@pytest.mark.parametrize("changes", [{"truncation": "last"}, {"draws": 2}])
def test_half_precision_has_the_gradient_too(changes: dict[str, Any], tmp_path: Path) -> None:
    """Steps without a graph come first, and autocast remembers how it cast their weights."""
    found: list[float] = []
    for precision in ("no", "bf16"):
        trainer = AlignPropTrainer(**SMALL, **changes, precision=precision)
        training, _, _ = trainer.prepare(job(tmp_path / precision))
        training.watcher = None
        found.append(training._step(0)["gradient"])
    assert found[0] > 0 and found[1] == pytest.approx(found[0], rel=0.2)


def exemplars(folder: Path, count: int = 6) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (16, 16), (200 + number, 10 * number, 20)).save(folder / f"{number}.png")
    return folder


def test_dragon_follows_pictures_sets_and_texts(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("red\nred cube\n")
    pictures = exemplars(tmp_path / "pictures")
    asked: dict[str, dict[str, Any]] = {
        "instance": {"encoder": Colours()},
        "near": {"exemplars": pictures, "encoder": Colours(), "reward": None},
        "texts": {"exemplars": texts, "encoder": Colours(), "reward": None},
        "set": {"exemplars": pictures, "encoder": Colours(), "metrics": {"frechet": Frechet()}, "reward": None},
        "vendi": {"encoder": Colours(), "metrics": {"vendi": Vendi()}},
    }
    for name, words in asked.items():
        trainer = DragonTrainer(**SMALL, witness="cosine" if name == "texts" else "mahalanobis")
        trainer.train(job(tmp_path / name, **words))
        lines = curves.read(Place(tmp_path / name), "dragon")
        assert len(lines) == 3, name
        for line in lines:  # a set is at least as good as what it was made of, in the eyes of its own reward
            assert line["positive_set"] >= max(line["first_set"], line["second_set"]) - 1e-6, name


@pytest.mark.parametrize("contrast", ["dpo", "kto"])
def test_dragon_begins_at_the_loss_on_paper(contrast: Any, tmp_path: Path) -> None:
    trainer = DragonTrainer(**{**SMALL, "updates": 1}, contrast=contrast)
    training, _, _ = trainer.prepare(job(tmp_path))
    training.watcher = None
    figures = training._step(0)
    assert figures["loss"] == pytest.approx(0.693147 if contrast == "dpo" else 0.5, abs=1e-4)


def test_one_round_serves_several_updates(tmp_path: Path) -> None:
    drawings: list[int] = []
    trainer = DragonTrainer(**{**SMALL, "updates": 4}, inner=2)
    training, bench, _ = trainer.prepare(job(tmp_path))
    training.watcher = None
    latents = Rollout.latents

    def counted(self: Rollout, *args: Any, **more: Any) -> Tensor:
        drawings.append(1)
        return latents(self, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rollout, "latents", counted)
        training.run()
    assert len(drawings) == 2 * 2 and bench.adapted.parameters


@pytest.mark.parametrize("trainer", TRAINERS)
def test_what_is_missing_is_said_before_anything_is_drawn(trainer: type[Finetuning], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"give model= and prompts=FILE"):
        trainer(**SMALL).train(TrainJob(tmp_path, job(tmp_path).resources, reward=Redness()))
    with pytest.raises(UsageError, match="follows"):
        trainer(**SMALL).train(job(tmp_path, reward=None))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"exemplars": Path("none")}, "through an encoder"),
        ({"exemplars": Path("none"), "encoder": Colours()}, "does not exist"),
        ({"metrics": {"frechet": Frechet(), "vendi": Vendi()}, "encoder": Colours()}, "names 2"),
    ],
)
def test_dragon_refuses_what_it_cannot_follow(words: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        DragonTrainer(**SMALL).train(job(tmp_path, **words))


@pytest.mark.parametrize(("kind", "message"), [("folder", "holds 1; a"), ("file", "holds 1; a"), ("none", "holds no")])
def test_one_exemplar_is_no_distribution(kind: str, message: str, tmp_path: Path) -> None:
    place = exemplars(tmp_path / "one", count=1) if kind == "folder" else tmp_path / "texts.txt"
    if kind != "folder":
        place.write_text("red\n" if kind == "file" else "\n")
    with pytest.raises(UsageError, match=f"^exemplars=.*{message}"):
        DragonTrainer(**SMALL).train(job(tmp_path / "run", exemplars=place, encoder=Colours()))
    assert not (tmp_path / "run").exists()  # said before anything is drawn


def test_alignprop_needs_a_gradient(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no gradient to the pixels.*plugin=dragon"):
        AlignPropTrainer(**SMALL).train(job(tmp_path, reward=Blind()))


@pytest.mark.parametrize("method", TRAINERS)
def test_a_reward_that_is_no_number_keeps_what_was_reached(method: type[Finetuning], tmp_path: Path) -> None:
    asked = job(tmp_path)
    trainer = method(**SMALL)
    training, _, _ = trainer.prepare(asked)
    training.run(until=2)
    before = weights(tmp_path, trainer)
    broken, _, _ = trainer.prepare(replace(asked, reward=_named_alike(Broken())))
    with pytest.raises(TrainingError, match=r"no numbers?\b.* are kept"):
        broken.run()
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(tmp_path, trainer).items())


def _named_alike(scorer: Redness) -> Redness:
    scorer.__class__ = type("Redness", (type(scorer),), {})
    return scorer


@pytest.mark.parametrize("method", TRAINERS)
def test_a_checkpoint_of_another_model_is_refused(method: type[Finetuning], tmp_path: Path) -> None:
    trainer = method(**SMALL)
    training, _, _ = trainer.prepare(job(tmp_path))
    training.run(until=1)
    before = weights(tmp_path, trainer)
    opened: Any = adapt(tiny("sd", seed=5), Ledger())
    other = opened.replace(name="other", recommended={"height": 16, "width": 16})
    with pytest.raises(ModelError, match="was made with model=tiny.*another folder with run="):
        trainer.train(job(tmp_path, other))
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(tmp_path, trainer).items())


@pytest.mark.parametrize("trainer", TRAINERS)
def test_an_empty_prompt_file_is_said_before_the_model_opens(
    trainer: type[Finetuning], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genbench.models.open_model", lambda *_, **__: pytest.fail("the model was opened"))
    Path("none.txt").write_text("\n")
    words = {"plugin": trainer().name, "model": "solids", "reward": "solids", "prompts": "none.txt"}
    with pytest.raises(UsageError, match=r"prompts=none.txt holds no prompt; write one per line"):
        train(words)
    assert [path.name for path in work.iterdir()] == ["none.txt"]


def test_a_set_whose_metric_is_no_number(tmp_path: Path) -> None:
    class Nothing:
        def value(self, features: Tensor, reference: Tensor | None = None, groups: object = None) -> float:
            return float("nan")

    with pytest.raises(TrainingError, match="the reward of a set of 4 pictures is no number"):
        DragonTrainer(**SMALL).train(job(tmp_path, metrics={"nothing": Nothing()}, encoder=Colours()))


KILLED = """
import sys
from functools import partial
from genbench.cli import main
from genbench.training import finetuning
finetuning.Place = partial(finetuning.Place, save_seconds=0.0)
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_killed_training_ends_in_the_same_bits(trainer: type[Finetuning], work: Path) -> None:
    """`genbench train`, kill -9 in the middle, and once more with resume=true."""
    saved("sd", work / "sd")
    Path("p.txt").write_text("red\nblue cube\ngreen\n")
    name = trainer().name
    small = {"updates": 40, "batch": 4, "steps": 2, "rank": 2, "look_every": 9, "look_prompts": 1, "look_seeds": 2}
    own = {f"{name}.{key}": str(value) for key, value in {**small, "ema": 0.9}.items()}
    words = {"plugin": name, "model": "sd", "prompts": "p.txt", "reward": "toy", "holdout": "toy", **own}
    train({**words, "run": "whole"})
    line = [f"{key}={value}" for key, value in {**words, "run": "killed"}.items()]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *line], stderr=subprocess.DEVNULL)
    path = checkpoint_path(Place(Path("killed")), name)
    while process.poll() is None and (not path.exists() or read_checkpoint(path)["step"] < 5):
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL and 5 <= read_checkpoint(path)["step"] < 40
    train({**words, "run": "killed", "resume": "true"})
    whole, killed = (read_checkpoint(checkpoint_path(Place(Path(run)), name)) for run in ("whole", "killed"))
    for part in ("weights", "average"):
        for key, tensor in whole["roles"]["model"][part].items():
            assert torch.equal(tensor, killed["roles"]["model"][part][key]), key
    assert curves.read(Place(Path("whole")), f"{name}-looks") == curves.read(Place(Path("killed")), f"{name}-looks")
    files = [Path(run) / "lora" / FILE for run in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_plan_leaves_nothing(trainer: type[Finetuning], tmp_path: Path) -> None:
    told = trainer(**SMALL).plan(job(tmp_path))
    assert {"trainable parameters", "evaluations an update", "seconds an update", "peak memory"} <= set(told)
    assert int(str(told["evaluations an update"])) > 4 * 2
