"""A distillation in two processes: the same students, bins and path as in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from genbench.training.distilling import Distillation
from genbench.training.place import Place
from genbench.training.processes import spread
from genbench_fdistill.trainer import FDistillTrainer
from genbench_sid.trainer import SiDTrainer
from tests.plugins.test_distilling import job, roles

SMALL: dict[str, Any] = {"batch": 5, "micro": 2, "updates": 3, "lr": 1e-4, "look_prompts": 1, "look_seeds": 1}
METHODS: dict[str, Distillation] = {
    "fdistill": FDistillTrainer(**SMALL, ratio=1, real=6, steps=2),
    "sid": SiDTrainer(**SMALL, steps=2, backtrack=2, backtrack_updates=1, backtrack_steps=1),
}


def work(rank: int, world: int, place: Place) -> None:
    torch.manual_seed(0)
    METHODS[place.folder.name].train(job(place.folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(METHODS))
def test_two_processes_make_the_student_of_one(name: str, tmp_path: Path) -> None:
    """Five samples are shared unevenly; means of ratio and weights are over all of them."""
    shared, alone = Place(tmp_path / "two" / name, processes=2), Place(tmp_path / "one" / name)
    spread(work, shared)
    work(0, 1, alone)
    found, expected = (roles(place.folder, METHODS[name]) for place in (shared, alone))
    for role in expected:
        for key, value in expected[role]["weights"].items():
            assert torch.allclose(found[role]["weights"][key], value, atol=3e-5), f"{role} {key}"
    if name == "fdistill":
        bins = expected["discriminator"]["weights"]["bins"]
        assert not torch.equal(bins, torch.ones(10))
    assert (shared.folder / "student.safetensors").is_file()
