"""The loop: it reaches the prompt, costs what it says, goes on in the same bits, and keeps what it had."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from genbench.backbones.toy import COLOURS, ToyModel
from genbench.errors import ModelError, SceneError
from genbench.scenes.checkpoints import read, write
from genbench.scenes.optimising import Optimisation
from genbench.scenes.prior import Prior
from genbench.scenes.prompting import Prompting
from genbench.scenes.splats import Splats
from genbench.scenes.starts import sphere
from genbench.scenes.tiles import torch_engine
from genbench_asd import ASD
from genbench_tsm import TSM
from tests.scenes.screen import Screen


def made(folder: Path, method: Any = None, **changes: Any) -> Optimisation:
    """A screen that learns to be red."""
    model, method = ToyModel(), (method or ASD(iterations=40, batch=2)).settled("toy")
    over = Prior.of(model, 16, 16)
    prompting = Prompting.of(over, "red", "", ())
    settings = {"iterations": method.iterations}
    given = (
        method,
        over,
        prompting,
        Screen(),
        method.direction,
        model.ledger,
        3,
        4.0,
        folder / "checkpoint.pt",
        settings,
    )
    return replace(Optimisation(*given), **changes)


def logits(optimisation: Optimisation) -> torch.Tensor:
    return optimisation.representation.parameters()["logits"].detach()


@pytest.mark.parametrize("method", [ASD(iterations=120, batch=2), TSM(iterations=120, batch=2)])
def test_it_reaches_the_prompt(tmp_path: Path, method: Any) -> None:
    optimisation = made(tmp_path, method)
    told: list[int] = []
    optimisation.run(told.append)
    colour = logits(optimisation).sigmoid().mean((1, 2)) * 2 - 1
    distance = {name: float((colour - torch.tensor(value)).square().sum()) for name, value in COLOURS.items()}
    assert min(distance, key=lambda name: distance[name]) == "red" and sum(told) == 120


def test_it_costs_what_it_says(tmp_path: Path) -> None:
    optimisation = made(tmp_path)
    optimisation.run()
    assert optimisation.spent == optimisation.ledger.evaluations == 3 * 2 * 40


def test_it_goes_on_in_the_same_bits(tmp_path: Path) -> None:
    whole = made(tmp_path / "whole")
    whole.run()
    first = made(tmp_path / "parts", save_seconds=0.0)
    for _ in range(17):
        first.step()
        first.done += 1
    first.spent = first.ledger.evaluations
    write(first.checkpoint, first.state())
    second = made(tmp_path / "parts")
    told: list[int] = []
    second.run(told.append, resume=True)
    assert torch.equal(logits(whole), logits(second)) and second.spent == whole.spent and told[0] == 17


def test_checkpoints_are_written_on_the_way(tmp_path: Path) -> None:
    optimisation = made(tmp_path, save_seconds=0.0)
    optimisation.run()
    assert read(optimisation.checkpoint, optimisation.settings)["done"] == 40


def test_a_checkpoint_of_other_words_is_refused(tmp_path: Path) -> None:
    optimisation = made(tmp_path, save_seconds=0.0)
    optimisation.run()
    with pytest.raises(ModelError, match="was made with iterations=40"):
        made(tmp_path, ASD(iterations=41)).run(resume=True)
    optimisation.checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="is no checkpoint"):
        made(tmp_path).run(resume=True)


def test_without_resume_it_begins_anew(tmp_path: Path) -> None:
    made(tmp_path, save_seconds=0.0).run()
    again = made(tmp_path)
    again.run()
    assert again.ledger.evaluations == 3 * 2 * 40


def test_a_gradient_that_is_no_number_leaves_the_scene_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimisation = made(tmp_path)
    for _ in range(3):
        optimisation.step()
        optimisation.done += 1
    before = logits(optimisation).clone()
    monkeypatch.setattr(type(optimisation.setting), "penalty", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(SceneError, match="iteration 4"):
        optimisation.run()
    assert torch.equal(logits(optimisation), before) and (tmp_path / "screen.pt").exists()


def left_of_rates(tmp_path: Path, **options: Any) -> dict[str, float]:
    """What the last iteration leaves of every parameter's rate."""
    cloud = Splats(sphere(9, 0.5, torch.Generator().manual_seed(0)), torch_engine)
    optimisation = made(tmp_path, ASD(iterations=2, **options), representation=cloud)
    for parameter in cloud.parameters().values():
        parameter.grad = torch.zeros_like(parameter)
    optimisation._move(1.0)  # pyright: ignore[reportPrivateUsage]
    optimisers = optimisation.optimisers.items()
    return {name: each.param_groups[0]["lr"] / cloud.rates[name] for name, each in optimisers}


def test_rates_fall_to_their_shares(tmp_path: Path) -> None:
    left = left_of_rates(tmp_path)
    assert left == pytest.approx({**dict.fromkeys(left, 1.0), "means": 0.01, "sh0": 0.6, "scales": 0.2, "quats": 0.2})


def test_a_decay_bounds_what_is_left_and_a_rate_is_a_factor(tmp_path: Path) -> None:
    left = left_of_rates(tmp_path, rate=2.0, decay=0.05)
    assert left == pytest.approx({**dict.fromkeys(left, 0.1), "means": 0.02})
