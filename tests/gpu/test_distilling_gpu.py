"""What each role of a distillation costs at the size of SDXL, and students of the embedded model trained for longer.

Random weights do for costs. `pytest -m gpu -s` shows the tables. Bigger than 80 GB with optimisers and an average, so
roles are measured one at a time, without the optimisers' moments, which are told in numbers of their own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from genbench.backbones import adapt
from genbench.kinds import Ledger, Model
from genbench.training.distilling import Distillation
from genbench.training.job import train
from genbench_fdistill.trainer import FDistillTrainer
from genbench_sid.trainer import SiDTrainer
from tests.gpu.test_finetuning_gpu import freed, job_of, measured, sdxl

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(3600)]
ONE: dict[str, Any] = {"batch": 1, "micro": 1, "updates": 1, "ema": 0.0, "precision": "bf16", "checkpointing": True}
METHODS: dict[str, Distillation] = {
    "sid, unguided": SiDTrainer(**ONE, guidance="none"),
    "sid, long": SiDTrainer(**ONE, guidance="long", guidance_scale=4.0),
    "sid, long and short": SiDTrainer(**ONE, guidance_scale=4.0),
    "sid, four steps": SiDTrainer(**ONE, guidance="none", steps=4),
    "sida": SiDTrainer(**ONE, guidance="none", adversarial=0.01, adversarial_from=0.0, real=1),
    "fdistill": FDistillTrainer(**ONE, ratio=1, real=1, guidance_scale=8.0),
}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    torch.manual_seed(0)
    with torch.device("cuda"):
        pipeline = sdxl()
    pipeline = pipeline.to("cuda", torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    adapted: Any = adapt(pipeline, Ledger())
    yield adapted.replace(name="sdxl-shaped", recommended={"height": 1024, "width": 1024, "steps": 4})
    del pipeline, adapted
    freed()


@pytest.mark.parametrize("name", list(METHODS))
def test_what_each_role_costs(name: str, model: Model, tmp_path: Path) -> None:
    """GB of its weights and of its two moments, GB that its gradient and activations add at the peak, seconds."""
    training, _, _ = METHODS[name].prepare(job_of(model, tmp_path))
    held = torch.cuda.memory_allocated() / 1e9
    sys.stdout.write(f"\n{name}: teacher and all weights {held:.1f} GB")
    for update in training.updates(0):
        role = next(each for each in training.roles if each.name == update.role)
        told: dict[str, float] = {}
        training._backward(role, update, 0)  # warms up, and draws what is drawn once
        _clear(training.roles)
        peak, seconds = measured(lambda told=told, role=role, at=update: told.update(training._backward(role, at, 0)))
        weights = sum(p.numel() * p.element_size() for p in role.parameters.values()) / 1e9
        figures = f"weights {weights:5.1f}  moments {2 * weights:5.1f}  update {peak:5.1f}  {seconds:.2f} s"
        sys.stdout.write(f"\n  {role.name:<14} {figures}")
        assert told["loss"] == told["loss"]
        assert any(p.grad is not None and bool(p.grad.any()) for p in role.parameters.values())
        _clear(training.roles)


def _clear(roles: Any) -> None:
    for role in roles:
        role.adamw.zero_grad(set_to_none=True)


RECIPE = {"lr": "1e-4", "fake_lr": "2e-4", "batch": "32", "micro": "32", "guidance_scale": "1.25", "ema": "2"}
LONGER: dict[str, dict[str, str]] = {
    "sid": {"steps": "4", "guidance": "long"},
    "fdistill": {"ratio": "2", "initial": "1", "real": "1024"},
}


@pytest.mark.parametrize("plugin", list(LONGER))
def test_a_student_of_the_embedded_model_trained_for_longer(plugin: str, tmp_path: Path) -> None:
    """The recipe of the students that come with the plugins, for four times as many updates."""
    words = {f"{plugin}.{name}": value for name, value in {**RECIPE, **LONGER[plugin], "updates": "4000"}.items()}
    asked = {"plugin": plugin, "model": "solids", "holdout": "solids-exact", "holdout_prompts": "prompts/solids.jsonl"}
    made = train({**asked, "device": "cuda", "run": str(tmp_path / "run"), f"{plugin}.look_prompts": "100", **words})
    lines = (made / "curves" / f"{plugin}-looks.jsonl").read_text().splitlines()
    looks = [(int(look["step"]), float(look["holdout"])) for look in map(json.loads, lines)]
    sys.stdout.write(f"\n{plugin}: " + ", ".join(f"{step} {value:.3f}" for step, value in looks))
    assert looks[-1][1] > 0.9 and looks[-1][1] > looks[0][1]
