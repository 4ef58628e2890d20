"""Learning rates, moving averages, and what a role keeps."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from genbench.training.roles import Average, Optimiser, Role


def test_the_cosine_warms_up_and_falls() -> None:
    optimiser = Optimiser(1.0, warmup=10, schedule="cosine")
    rates = [optimiser.rate(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) > 0.97 and rates[100] == pytest.approx(0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_constant_rate_only_warms_up() -> None:
    optimiser = Optimiser(0.5, warmup=4)
    assert [optimiser.rate(step, 9) for step in (0, 1, 3, 4, 8)] == [0.125, 0.25, 0.5, 0.5, 0.5]


def test_the_average_forgets_its_start() -> None:
    assert Average(0.9).beta(0) == pytest.approx(0.1) and Average(0.9).beta(10_000) == 0.9
    assert Average(0.9, warm=False).beta(0) == 0.9


def test_half_lives_count_samples() -> None:
    """EDM: after one half-life of samples the past weighs a half; early on it is a share of what was seen."""
    average = Average(half_life=1000, ramp=None)
    assert average.beta(5, batch=10) ** 100 == pytest.approx(0.5)
    ramped = Average(half_life=1000, ramp=0.05)
    assert ramped.beta(0, batch=10) == 0.0  # nothing was seen: the average is the weights
    assert ramped.beta(100, batch=10) == pytest.approx(0.5 ** (10 / 50))
    assert ramped.beta(10_000, batch=10) == average.beta(0, batch=10)


def test_a_role_averages_its_weights() -> None:
    layer = nn.Linear(1, 1, bias=False)
    role = Role.of("student", layer, Optimiser(0.1), Average(0.5, warm=False))
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.add_(1.0)
    role.advance_average(0, batch=1)
    assert torch.allclose(role.result()["weight"], start + 0.5)
    role.load(role.result())
    assert torch.allclose(layer.weight, start + 0.5)


def test_what_does_not_move_goes_along() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[0].weight.requires_grad_(False)
    role = Role.of("teacher", module, Optimiser(0.1), Average(0.5))
    assert "0.weight" not in role.parameters and set(role.result()) == set(module.state_dict())
    module(torch.randn(4, 2))
    role.advance_average(0, batch=4)
    assert role.mean["1.num_batches_tracked"] == 1


def test_a_restored_role_steps_alike() -> None:
    def stepped(role: Role, layer: nn.Linear) -> torch.Tensor:
        layer(torch.ones(1, 3)).sum().backward()
        role.adamw.step()
        return layer.weight.detach().clone()

    torch.manual_seed(0)
    first, second = nn.Linear(3, 1), nn.Linear(3, 1)
    one, two = (Role.of("a", layer, Optimiser(0.1)) for layer in (first, second))
    stepped(one, first)
    two.restore(copy.deepcopy(one.state()))
    first.zero_grad()
    assert torch.equal(stepped(one, first), stepped(two, second))
