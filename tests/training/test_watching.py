"""Looks at a training: the same pictures each time, what they are judged by, the best, and when to stop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genbench.training.machines import accelerated
from genbench.training.place import Place
from genbench.training.roles import Average, Optimiser, Role
from genbench.training.rollouts import Rollout
from genbench.training.watching import Looks, Sitting, within_prompts
from tests.training.rolling import Pixels, Redness, resources, toy

SITTING = Sitting.of([{"prompt": "red"}, {"prompt": "blue", "kind": "cold"}], each=3, seed=50)


class Scripted:
    """A judge that says what it is told, call by call."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = iter(values)

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Any = None) -> Tensor:
        return torch.full((len(images),), next(self.values))


def looks(folder: Path, values: Sequence[float] = (), average: bool = False, **more: Any) -> Looks:
    model = toy()
    role = Role.of("a", nn.Linear(2, 2), Optimiser(0.1), Average(0.5) if average else None)
    judges = {"reward": Redness(), "holdout": Scripted(values)}
    rollout = Rollout(resources(model), model, steps=2, height=8, width=8)
    told = {"every": 2, "encoder": Pixels(), **more}
    return Looks(Place(folder), "toy", role, rollout, SITTING, judges, accelerated(), **told)


def test_a_sitting_repeats_prompts_with_seeds_of_their_own() -> None:
    assert SITTING.prompts == ("red",) * 3 + ("blue",) * 3 and SITTING.seeds == tuple(range(50, 56))
    assert SITTING.rows[5]["kind"] == "cold"


def test_looks_come_when_they_are_due_and_are_logged(tmp_path: Path) -> None:
    made = looks(tmp_path, [0.1, 0.2])
    assert [made.after(step) for step in range(1, 5)] == [False] * 4
    lines = [json.loads(line) for line in (tmp_path / "curves" / "toy-looks.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4] and lines[0]["holdout"] == pytest.approx(0.1)
    assert lines[0]["reward"] == lines[1]["reward"] and lines[0]["diversity"] > 0  # the same noises each time
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["toy-000002.png", "toy-000004.png"]


def test_the_best_look_is_kept_and_patience_ends(tmp_path: Path) -> None:
    made = looks(tmp_path, [0.1, 0.3, 0.2, float("nan")], patience=2)
    for step in (2, 4):
        assert not made.after(step)
    best = {name: tensor.clone() for name, tensor in made.role.result().items()}
    with torch.no_grad():
        next(iter(made.role.parameters.values())).add_(1.0)
    assert not made.after(6) and made.after(8) and made.stopped
    assert made.best["step"] == 4 and made.best["value"] == pytest.approx(0.3)
    assert all(torch.equal(best[name], tensor) for name, tensor in made.best["weights"].items())


def test_no_patience_never_stops(tmp_path: Path) -> None:
    made = looks(tmp_path, [0.3, 0.2, 0.1, 0.0])
    assert not any(made.after(step) for step in range(1, 9))


def test_state_goes_through_a_checkpoint(tmp_path: Path) -> None:
    made = looks(tmp_path, [0.1, 0.3], patience=1)
    made.after(2)
    again = looks(tmp_path, [0.05], patience=1)
    again.restore(made.state())
    assert again.after(4) and again.best["step"] == 2 and [look["step"] for look in again.looks] == [2, 4]


def test_the_average_is_looked_at_and_the_weights_come_back(tmp_path: Path) -> None:
    made = looks(tmp_path, [0.1], average=True)
    own = {name: tensor.clone() for name, tensor in made.role.weights().items()}
    made.role.mean = {name: tensor + 1 for name, tensor in own.items()}
    seen: list[Tensor] = []
    rollout = made.rollout

    class Watched:
        def pictures(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
            seen.extend(tensor.clone() for tensor in made.role.weights().values())
            return rollout.pictures(prompts, seeds)

    made.rollout = Watched()  # type: ignore[assignment]
    made.look(2)
    assert all(torch.equal(a, b + 1) for a, b in zip(seen, own.values(), strict=True))
    assert all(torch.equal(tensor, own[name]) for name, tensor in made.role.weights().items())


def test_diversity_within_prompts() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [5.0, 5.0]])
    assert within_prompts(features, ["a", "a", "b", "b", "alone"]) == pytest.approx(0.5)
    assert within_prompts(features[:1], ["a"]) != within_prompts(features[:1], ["a"])
