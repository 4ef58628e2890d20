"""The loop over roles: parts of a batch, processes, kills, numbers that are none, and watchers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genbench.errors import ModelError, TrainingError, UsageError
from genbench.training import curves
from genbench.training.checkpoints import checkpoint_path, load_weights, read_checkpoint
from genbench.training.machines import accelerated
from genbench.training.optimise import Figures, Training, Turn, Update, Watcher
from genbench.training.place import Place
from genbench.training.processes import spread
from genbench.training.roles import Average, Optimiser, Role

ROOT = Path(__file__).resolve().parents[2]


def samples(turn: Turn) -> Tensor:
    """One row per sample, a function of its number alone."""
    rows = [torch.randn(4, generator=torch.Generator().manual_seed(seed)) for seed in turn.seeds()]
    return torch.stack(rows)


def training(
    place: Place,
    *,
    micro: int = 0,
    steps: int = 12,
    lr: float = 1e-2,
    batch: int = 8,
    dropout: float = 0.1,
    **more: Any,
) -> Training:
    """A student that learns a sum, and a critic that learns the student's error: two roles with different paces."""
    torch.manual_seed(3)
    student = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Dropout(dropout), nn.Linear(8, 1))
    critic = nn.Linear(4, 1)

    def learn(turn: Turn) -> tuple[Tensor, Figures]:
        x = samples(turn)
        return (student(x)[:, 0] - x.sum(1)).square().mean(), {"half": 0.5}

    def judge(turn: Turn) -> tuple[Tensor, Figures]:
        x = samples(turn)
        error = (student(x)[:, 0] - x.sum(1)).square().detach()
        return (critic(x)[:, 0] - error).square().mean(), {}

    roles = [
        Role.of("student", student, Optimiser(lr, warmup=3, schedule="cosine"), Average(0.9)),
        Role.of("critic", critic, Optimiser(2 * lr, clip_value=0.01)),
    ]

    def updates(step: int) -> list[Update]:
        turns = [Update("critic", judge, batch, micro)] * 2
        return turns if step % 3 == 0 else [*turns, Update("student", learn, batch, micro)]

    return Training(place, "toy", roles, updates, steps, accelerated(), {"lr": lr}, **more)


def result(place: Place) -> dict[str, Tensor]:
    return {f"{role}.{k}": v for role in ("student", "critic") for k, v in load_weights(place, "toy", role).items()}


def gradients(place: Place) -> list[float]:
    """Norms of all updates: AdamW would not show a gradient that is twice what it should be."""
    return [value for line in curves.read(place, "toy") for name, value in line.items() if name.endswith("/gradient")]


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_stopped_training_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole, parts = Place(tmp_path / "whole"), Place(tmp_path / "parts")
    assert training(whole).run() == 12
    assert [training(parts).run(until) for until in (1, 5, 5, 12)] == [1, 5, 5, 12]
    assert equal(result(whole), result(parts))


KILLED = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from genbench.training.place import Place
from tests.training.test_optimise import training
training(Place(Path({folder!r}), save_seconds=0.0), steps=400).run()
print("done")
"""


def test_a_killed_training_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole, killed = Place(tmp_path / "whole"), Place(tmp_path / "killed")
    training(whole, steps=400).run()
    code = KILLED.format(root=str(ROOT), folder=str(killed.folder))
    kills = 0
    for wait in (1, 60):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        path, seen = checkpoint_path(killed, "toy"), 0
        while process.poll() is None and seen < wait:
            time.sleep(0.002)
            seen = read_checkpoint(path)["step"] if path.exists() else 0
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills == 2 and 0 < read_checkpoint(checkpoint_path(killed, "toy"))["step"] < 400
    assert training(killed, steps=400).run() == 400
    assert equal(result(whole), result(killed))


def test_parts_of_a_batch_are_the_batch(tmp_path: Path) -> None:
    """Without dropout, whose mask is drawn per part, micro-batches give the update of the whole."""
    for name, micro in (("whole", 0), ("parts", 3)):
        training(Place(tmp_path / name), micro=micro, dropout=0.0).run()
    whole, parts = result(Place(tmp_path / "whole")), result(Place(tmp_path / "parts"))
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)
    assert gradients(Place(tmp_path / "parts")) == pytest.approx(gradients(Place(tmp_path / "whole")), rel=1e-4)


def test_clipping_by_value_bounds_every_number(tmp_path: Path) -> None:
    role = Role.of("a", nn.Linear(4, 1), Optimiser(1e-3, clip_norm=None, clip_value=0.01))
    seen: list[float] = []

    def loss(turn: Turn) -> tuple[Tensor, Figures]:
        weight, bias = role.parameters.values()
        return 100 * (samples(turn) @ weight.T + bias).sum(), {}

    step = role.adamw.step

    def watched(*args: Any) -> Any:
        seen.extend(float(p.grad.abs().max()) for p in role.parameters.values() if p.grad is not None)
        return step(*args)

    role.adamw.step = watched  # type: ignore[method-assign]
    Training(Place(tmp_path), "toy", [role], lambda _: [Update("a", loss, 4)], 2, accelerated()).run()
    assert len(seen) == 4 and max(seen) == pytest.approx(0.01)


def test_a_loss_that_is_no_number_keeps_what_was_reached(tmp_path: Path) -> None:
    place = Place(tmp_path)
    role = Role.of("a", nn.Linear(4, 1), Optimiser(1e-2))

    def loss(turn: Turn) -> tuple[Tensor, Figures]:
        value = sum(p.square().sum() for p in role.parameters.values())
        return (value * float("nan") if turn.step == 3 else value), {}

    broken = Training(place, "toy", [role], lambda _: [Update("a", loss)], 9, accelerated())
    with pytest.raises(TrainingError, match="update 4 of 'a' has loss nan.*learning rate"):
        broken.run()
    state = read_checkpoint(checkpoint_path(place, "toy"))
    assert state["step"] == 3 and all(t.isfinite().all() for t in state["roles"]["a"]["weights"].values())


def test_other_settings_are_refused(tmp_path: Path) -> None:
    training(Place(tmp_path), steps=2).run()
    with pytest.raises(ModelError, match="was made with lr=0.01"):
        training(Place(tmp_path), steps=4, lr=2e-2).run()


def test_settings_that_came_or_went_are_named(tmp_path: Path) -> None:
    """A setting that is None is one that was not there: an option that came later leaves checkpoints usable."""
    training(Place(tmp_path), steps=2).run()
    for settings, message in (({}, "was made with lr=0.01"), ({"lr": 1e-2, "more": 1}, "was made with more=None")):
        other = training(Place(tmp_path), steps=4)
        other.settings = settings
        with pytest.raises(ModelError, match=message):
            other.run()
    other = training(Place(tmp_path), steps=4)
    other.settings = {"lr": 1e-2, "more": None}
    assert other.run() == 4


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = checkpoint_path(Place(tmp_path), "toy")
    path.parent.mkdir()
    path.write_bytes(b"half a file")
    with pytest.raises(ModelError, match="is no checkpoint"):
        training(Place(tmp_path)).run()


@dataclass
class Patience:
    """Stops after a number of looks, and remembers them."""

    looks: list[int] = field(default_factory=list[int])
    stopped: bool = False

    def after(self, step: int) -> bool:
        self.looks.append(step)
        self.stopped = len(self.looks) >= 5
        return self.stopped

    def state(self) -> Mapping[str, Any]:
        return {"looks": list(self.looks), "stopped": self.stopped}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.looks, self.stopped = list(state["looks"]), state["stopped"]


def test_a_watcher_stops_and_is_remembered(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert training(place, watcher=Patience()).run(until=3) == 3
    again: Sequence[Watcher] = [Patience(), Patience()]
    assert [training(place, watcher=watcher).run() for watcher in again] == [5, 5]
    assert [w.looks for w in again if isinstance(w, Patience)] == [[1, 2, 3, 4, 5]] * 2


def test_the_curve_names_the_roles(tmp_path: Path) -> None:
    training(Place(tmp_path), steps=2).run()
    lines = [json.loads(line) for line in (tmp_path / "curves" / "toy.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert {"critic/loss", "critic/gradient"} <= set(lines[0]) and lines[1]["student/half"] == 0.5


def work(rank: int, world: int, place: Place) -> None:
    training(place, dropout=0.0).run()


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(tmp_path: Path) -> None:
    """Each draws its share of one batch, which is the same batch however it is shared."""
    shared, alone = Place(tmp_path / "shared", processes=2), Place(tmp_path / "alone")
    spread(partial(work), shared)
    work(0, 1, alone)
    expected, made = result(alone), result(shared)
    assert all(torch.allclose(expected[name], made[name], atol=1e-6) for name in expected)
    assert gradients(shared) == pytest.approx(gradients(alone), rel=1e-4)


def test_a_batch_smaller_than_the_processes_is_refused(tmp_path: Path) -> None:
    made = training(Place(tmp_path), batch=1)
    made.accelerator = SimpleNamespace(process_index=1, num_processes=2)  # type: ignore[assignment]
    with pytest.raises(UsageError, match="a batch of 1 cannot be shared by 2 processes"):
        made._backward(made.roles[1], Update("critic", lambda turn: (torch.zeros(()), {}), 1), 0)
