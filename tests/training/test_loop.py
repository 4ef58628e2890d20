"""The shared optimisation loop: stopping changes nothing, several processes see one model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genbench.training.checkpoints import load_weights
from genbench.training.loop import Stage, fit
from genbench.training.place import Place
from genbench.training.processes import spread


def stage(ema: float = 0.0, steps: int = 20) -> Stage:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 1))

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        x = torch.randn(8, 4, generator=generator)
        return (model(x)[:, 0] - x.sum(1)).square().mean(), {"half": 0.5}

    return Stage("toy", model, loss, steps=steps, lr=1e-2, ema=ema)


@pytest.mark.parametrize("ema", [0.0, 0.99])
def test_a_stopped_training_ends_in_the_same_bits(tmp_path: Path, ema: float) -> None:
    whole, parts = Place(tmp_path / "whole"), Place(tmp_path / "parts")
    expected = fit(whole, stage(ema)).state_dict()
    for until in (3, 11, 20):
        resumed = fit(parts, stage(ema), until=until).state_dict()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert all(torch.equal(expected[name], tensor) for name, tensor in load_weights(parts, "toy").items())


def test_the_seed_of_the_place_is_the_seed_of_every_step(tmp_path: Path) -> None:
    one, other = (fit(Place(tmp_path / str(seed), seed), stage()).state_dict() for seed in (0, 1))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_curve_is_json_lines(tmp_path: Path) -> None:
    fit(Place(tmp_path), stage(steps=60))
    lines = [json.loads(line) for line in (tmp_path / "curves" / "toy.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 60] and all(line["half"] == 0.5 for line in lines)


def write_rank(rank: int, world: int, place: Place, *, text: str) -> None:
    place.at(f"{text}-{rank}-of-{world}").touch()
    fit(place, stage(steps=4), rank, world)


@pytest.mark.slow
def test_processes_share_every_step(tmp_path: Path) -> None:
    place = Place(tmp_path, processes=2)
    spread(partial(write_rank, text="here"), place)
    assert sorted(path.name for path in tmp_path.glob("here-*")) == ["here-0-of-2", "here-1-of-2"]
    alone = fit(Place(tmp_path / "alone"), stage(steps=4)).state_dict()
    shared = load_weights(place, "toy")
    assert any(not torch.equal(alone[name], shared[name]) for name in alone)  # twice the batch
