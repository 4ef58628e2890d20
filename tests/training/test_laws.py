"""Noise levels of a distillation: each law has the spread that its recipe says, on the levels that there are."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from genbench.backbones import adapt
from genbench.kinds import Ledger, Level
from genbench.training.laws import Laws, karras_sigma
from genbench.training.noising import train_levels
from tests.tiny import tiny
from tests.training.rolling import toy


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def grid(count: int = 1000) -> tuple[Level, ...]:
    """Noisiest first: sigma / alpha from 100 down to 0.001, evenly in the logarithm."""
    ratios = torch.logspace(2, -3, count).double()
    return tuple(Level(torch.tensor(0), 1 / (1 + r**2) ** 0.5, r / (1 + r**2) ** 0.5) for r in ratios)


def test_even_levels_leave_two_percent_at_both_ends() -> None:
    rows = Laws(grid(), "sd").rows("student", generators(4000))
    assert min(rows) >= 20 and max(rows) < 980
    assert sum(rows) / 4000 == pytest.approx(500, abs=4 * 960 / math.sqrt(12 * 4000))


def test_the_levels_of_karras() -> None:
    told = [float(karras_sigma(torch.tensor(u, dtype=torch.float64))) for u in (0.0, 0.5, 0.8, 1.0)]
    assert told == pytest.approx([0.002, 2.515, 24.41, 80.0], rel=1e-3)


def test_edm_draws_log_normal_levels_for_denoising_and_karras_levels_for_the_student() -> None:
    laws = Laws(grid(), "edm")

    def ratios(purpose: Any) -> torch.Tensor:
        found = [laws.levels[row] for row in laws.rows(purpose, generators(600))]
        return torch.tensor([float(level.sigma / level.alpha) for level in found])

    logs = ratios("denoising").log()
    assert float(logs.mean()) == pytest.approx(-1.2, abs=0.2) and float(logs.std()) == pytest.approx(1.2, abs=0.15)
    assert float(ratios("student").max()) < 24.6
    assert float(ratios("student").median()) == pytest.approx(float(karras_sigma(torch.tensor(0.4))), rel=0.2)


def test_flow_draws_a_logit_normal_sigma() -> None:
    levels = tuple(Level(torch.tensor(0), 1 - s, s) for s in torch.linspace(1, 0.001, 1000).double())
    rows = Laws(levels, "flow").rows("student", generators(2000))
    sigma = torch.tensor([float(levels[row].sigma) for row in rows])
    logit = torch.log(sigma / (1 - sigma))
    assert float(logit.median()) == pytest.approx(math.log(2), abs=0.15)
    assert float(sigma.median()) == pytest.approx(2 / 3, abs=0.03)


@pytest.mark.parametrize(("family", "law"), [("sd", "sd"), ("sdxl", "sd"), ("sd3", "flow"), ("flux", "flow")])
def test_a_model_has_the_law_of_its_kind(family: str, law: str) -> None:
    model: Any = adapt(tiny(family), Ledger())
    levels = train_levels(model, model.latent_shape(16, 16), 50)
    laws = Laws.of(levels, model)
    assert laws.law == law and Laws.of(levels, model, "edm").law == "edm"
    assert all(0 <= row < len(levels) for row in laws.rows("student", generators(50)))


def test_what_a_sample_draws_is_its_own() -> None:
    laws = Laws.of(train_levels(toy(), toy().latent_shape(64, 64), 100), toy())
    assert laws.rows("student", generators(5))[3:] == laws.rows("student", generators(5)[3:])
