"""What an update is does not depend on how it is shared: rounds and their prompts, parts of a batch, processes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from genbench.errors import UsageError
from genbench.kinds import Conditioning
from genbench.training import curves
from genbench.training.finetuning import Finetuning
from genbench.training.optimise import Turn
from genbench.training.place import Place
from genbench.training.processes import spread
from genbench.training.rollouts import Rollout
from genbench_alignprop import AlignPropTrainer
from genbench_dragon import DragonTrainer
from genbench_dragon.trainer import Round
from genbench_metrics import Vendi
from tests.plugins.test_finetuning import SMALL, Colours, job, weights

ROWS = tuple({"prompt": f"{colour} {shape}"} for colour in ("red", "blue") for shape in ("a", "b", "c", "d", "e", "f"))
PROMPTS = tuple(row["prompt"] for row in ROWS)
SHARED: dict[str, dict[str, Any]] = {
    "alignprop": {},
    "dpo": {"contrast": "dpo", "inner": 2},
    "kto": {"contrast": "kto", "inner": 2},
}


def trainer_of(name: str, **more: Any) -> Finetuning:
    asked = {**SMALL, "updates": 4, "lr": 3e-3, **SHARED[name], **more}
    return AlignPropTrainer(**asked, truncation="full") if name == "alignprop" else DragonTrainer(**asked)


def asked_of(name: str, folder: Path) -> Any:
    metrics: dict[str, Any] = {} if name == "alignprop" else {"metrics": {"vendi": Vendi()}, "encoder": Colours()}
    return job(folder, rows=ROWS, prompts=PROMPTS, **metrics)


def figures(folder: Path, name: str) -> list[float]:
    """Every update's loss and its gradient's norm, which AdamW's weights would not show to be twice what it should."""
    lines = curves.read(Place(folder), trainer_of(name).name)
    return [line[each] for line in lines for each in ("loss", "gradient")]


def test_every_update_of_a_round_takes_the_prompts_that_were_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, _, _ = trainer_of("dpo").prepare(asked_of("dpo", tmp_path))
    training.watcher = None
    seen: list[tuple[str, ...]] = []
    context = Rollout.context

    def noted(self: Rollout, prompts: Any, seeds: Any) -> Any:
        seen.append(tuple(prompts))
        return context(self, prompts, seeds)

    monkeypatch.setattr(Rollout, "context", noted)
    training.run()
    rounds = [set(seen[:4]), set(seen[4:])]  # two drawings, two updates
    assert len(seen) == 8 and all(len(told) == 1 for told in rounds) and rounds[0] != rounds[1]


@pytest.mark.parametrize("name", list(SHARED))
def test_parts_of_a_batch_change_nothing_later_either(name: str, tmp_path: Path) -> None:
    """At the first update the model is the base, so that the mean of kto is 0 however it is formed."""
    for micro in (4, 1):
        training, _, _ = trainer_of(name, micro=micro).prepare(asked_of(name, tmp_path / str(micro)))
        training.watcher = None
        training.run()
    one, two = (figures(tmp_path / str(micro), name) for micro in (4, 1))
    assert one == pytest.approx(two, rel=2e-3) and len({*one}) > 2


def test_the_mean_of_kto_is_that_of_the_whole_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of("kto", micro=1)
    assert isinstance(trainer, DragonTrainer)
    _, bench, _ = trainer.prepare(asked_of("kto", tmp_path))
    round_ = Round(trainer, bench)
    errors = torch.tensor([[1.0, 2.0], [3.0, 5.0], [0.5, 0.5], [2.0, 2.5]])  # of the base less ours, by sample
    monkeypatch.setattr(Round, "_errors", lambda _, turn: (torch.zeros(2), errors[turn.items[0]]))
    assert float(round_._mean_gain(Turn("0 dragon", 0, "model", (0, 1, 2, 3), 4))) == pytest.approx(16.5 / 8)


def work(rank: int, world: int, place: Place, name: str = "dpo") -> None:
    """Train, and leave what this process saw of the sets."""
    sets: list[Any] = []
    decided = Round.sets

    def noted(self: Round, *args: Any) -> Any:
        sets.append(decided(self, *args))
        return sets[-1]

    Round.sets = noted  # type: ignore[method-assign]
    try:
        trainer_of(name, micro=2).train(asked_of(name, place.folder))
    finally:
        Round.sets = decided  # type: ignore[method-assign]
    torch.save([(each.positive, each.negative) for each in sets], place.at(f"sets-{rank}.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SHARED))
def test_two_processes_make_the_updates_of_one(name: str, tmp_path: Path) -> None:
    """Half of a batch each: the same sets in both, and the weights of one process with the whole batch."""
    shared, alone = Place(tmp_path / "shared", processes=2), Place(tmp_path / "alone")
    spread(partial(work, name=name), shared)
    work(0, 1, alone, name)
    expected, made = (weights(place.folder, trainer_of(name)) for place in (alone, shared))
    assert all(torch.allclose(expected[key], made[key], atol=1e-4) for key in expected)
    assert figures(shared.folder, name) == pytest.approx(figures(alone.folder, name), rel=2e-3)
    sets = [torch.load(place.at(f"sets-{rank}.pt")) for place, rank in ((alone, 0), (shared, 0), (shared, 1))]
    assert sets[0] == sets[1] == sets[2] and len(sets[0]) == (0 if name == "alignprop" else 2)


def test_a_batch_that_cannot_be_shared_evenly(tmp_path: Path) -> None:
    class Three:
        num_processes = 3

    trainer = trainer_of("dpo")
    assert isinstance(trainer, DragonTrainer)
    _, bench, _ = trainer.prepare(asked_of("dpo", tmp_path))
    object.__setattr__(bench, "accelerator", Three())
    with pytest.raises(UsageError, match="batch=4 cannot be shared evenly by 3"):
        Round(trainer, bench)._gathered(torch.zeros(2, 1), Turn("0 dragon", 0, "model", (0, 3), 4, 0, 3))


def test_guidance_takes_no_part_in_the_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of("dpo")
    training, bench, _ = trainer.prepare(asked_of("dpo", tmp_path))
    seen: list[bool] = []
    denoiser = type(bench.base).denoiser

    def noted(self: Any, conditioning: Conditioning, guidance_scale: float) -> Any:
        if torch.is_grad_enabled():
            seen.append(conditioning.negative is None)
        return denoiser(self, conditioning, guidance_scale)

    monkeypatch.setattr(type(bench.base), "denoiser", noted)
    training._step(0)
    assert seen and all(seen)


@pytest.mark.parametrize("name", ["alignprop", "dpo"])
def test_pictures_of_another_size_and_shape(name: str, tmp_path: Path) -> None:
    training, bench, looks = trainer_of(name, updates=1, height=32, width=16).prepare(asked_of(name, tmp_path))
    training.run()
    for rollout in (bench.rollout, looks.rollout):
        assert rollout.pictures(("red",), (1,)).shape == (1, 3, 32, 16)
    assert training.done == 1


def test_writers_get_updates_and_looks(tmp_path: Path) -> None:
    told: list[tuple[int, frozenset[str]]] = []

    class Noted:
        def write(self, step: int, figures: Any) -> None:
            told.append((step, frozenset(figures)))

        def close(self) -> None: ...

    training, _, looks = trainer_of("alignprop", updates=2, look_every=2).prepare(asked_of("alignprop", tmp_path))
    training.writers = looks.writers = (Noted(),)
    training.run()
    assert [step for step, _ in told] == [1, 2, 2]
    assert {"update/loss", "update/reward", "update/gradient"} <= told[0][1] and "look/reward" in told[2][1]
