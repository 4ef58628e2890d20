"""The decisive behaviour on a generator of numbers, N(m, s^2): a reward of numbers collapses it, one of sets does not.

Both rewards are at their best at the target N(1, 1) as far as they see it: -(x - 1)^2 of a number, minus the Frechet
distance to N(1, 1) of a set. The whole method runs: on-policy rounds of DDIM, sets, Diffusion-DPO, AdamW.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genbench.backbones.toy import ToyModel
from genbench.kinds import Ledger, TrainJob
from genbench.training.adapters import Adapted
from genbench.training.finetuning import Bench
from genbench.training.machines import accelerated
from genbench.training.optimise import Training, Update
from genbench.training.place import Place
from genbench.training.roles import Optimiser, Role
from genbench.training.rollouts import Rollout
from genbench_dragon import DragonTrainer
from tests.training.rolling import resources

PAIRS, STEPS, ROUNDS = 48, 12, 60


class Bell(nn.Module):
    """The exact denoiser of N(mean, exp(log_deviation)^2); both can be learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_deviation = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, alpha: Tensor, sigma: Tensor, weights: Tensor) -> Tensor:
        variance = (2 * self.log_deviation).exp()
        return sigma * (x - alpha * self.mean) / (alpha**2 * variance + sigma**2)


@dataclass(frozen=True)
class Numbers(ToyModel):
    """A model whose pictures are numbers."""

    modules: Mapping[str, nn.Module] = field(default_factory=lambda: {"network": Bell()})

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        return (1, 1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        return latents


class Itself:
    def embed_images(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        raise NotImplementedError


class Near:
    """-(x - 1)^2."""

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Any = None) -> Tensor:
        return -(images.flatten(1)[:, 0] - 1).square()


class FrechetToTarget:
    """(mean - 1)^2 + (deviation - 1)^2: the Frechet distance to N(1, 1) on a line."""

    def value(self, features: Tensor, reference: Tensor | None = None, groups: object = None) -> float:
        return float((features.mean() - 1) ** 2 + (features.std(correction=0) - 1) ** 2)


def learnt(folder: Path, updates: int, **words: Any) -> tuple[float, float]:
    """Mean and deviation of 2,000 numbers drawn after so many rounds."""
    learner, base = Numbers(ledger=Ledger()), Numbers(ledger=Ledger())
    network = learner.modules["network"]
    job = TrainJob(folder, resources(learner), learner, rows=({"prompt": ""},), prompts=("",), **words)
    rollout = Rollout(job.resources, learner, STEPS, 1.0, batch=2000)
    bench = Bench(job, Adapted(learner, "network", network, 1, 1), base, rollout, accelerated())
    asked = DragonTrainer(batch=PAIRS, beta=0.5, inner=1).objective(bench)
    role = Role("model", dict(network.named_parameters()), Optimiser(0.05, clip_norm=None))
    update = Update("model", asked.loss, PAIRS, 0, asked.begin)
    Training(Place(folder, 0), "numbers", [role], lambda step: [update], updates, bench.accelerator).run()
    numbers = rollout.latents(("",) * 2000, range(2000))
    return float(numbers.mean()), float(numbers.std())


def test_a_reward_of_numbers_collapses_what_a_reward_of_sets_keeps(tmp_path: Path) -> None:
    of_numbers: dict[str, Any] = {"reward": Near()}
    of_sets: dict[str, Any] = {"metrics": {"frechet": FrechetToTarget()}, "encoder": Itself()}
    assert learnt(tmp_path / "before", 0, **of_numbers) == pytest.approx((0.0, 0.88), abs=0.1)  # of 12 steps of DDIM
    mean, deviation = learnt(tmp_path / "numbers", ROUNDS, **of_numbers)
    assert abs(mean - 1) < 0.1 and deviation < 0.25
    mean, deviation = learnt(tmp_path / "sets", ROUNDS, **of_sets)
    assert abs(mean - 1) < 0.2 and 0.75 < deviation < 1.25
