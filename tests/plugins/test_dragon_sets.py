"""Sets, subsets and losses against numbers on paper and brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from genbench.errors import TrainingError
from genbench_dragon import losses, sets
from genbench_dragon.sets import by_exchange, by_pictures, mean_reward
from genbench_dragon.trainer import subset_values
from genbench_dragon.witness import mahalanobis, nearness
from genbench_metrics import Cmmd, Frechet, Kid, Vendi
from genbench_metrics.subsets import frechet_subsets, vendi_subsets

DOUBLE = torch.float64


def line(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=DOUBLE)[:, None]


def frechet_to_normal(x: Tensor, mean: float, deviation: float) -> sets.SetReward:
    """Minus the Frechet distance to N(mean, deviation^2) with population moments, as the numbers on paper have it."""
    one = torch.eye(1, dtype=DOUBLE)
    value = frechet_subsets(x, torch.tensor([mean], dtype=DOUBLE), deviation * one, torch.tensor(deviation**2), False)
    return lambda rows: -value(rows)


def test_the_exchange_on_paper() -> None:
    """D1 = {0, 2, 4}, D2 = {1, 1, 3}, reference N(1, 1): only exchanging the second prompt helps."""
    x = line(0, 2, 4, 1, 1, 3)
    reward = frechet_to_normal(x, 1.0, 1.0)
    found = by_exchange(reward, 3, (0, 1, 2))
    assert found.values[:2] == pytest.approx((-1.400680, -0.447715), abs=1e-6)
    # From D2, prompt 0 first: {0, 1, 3} has 0.172228.
    assert found.value == pytest.approx(-0.172228, abs=1e-6)
    assert sorted(x[list(found.positive), 0].tolist()) == [0, 1, 3]
    assert sorted(x[list(found.negative), 0].tolist()) == [1, 2, 4]
    best = max(reward([i + 3 * side for i, side in enumerate(sides)]) for sides in itertools.product((0, 1), repeat=3))
    assert found.value == pytest.approx(best)


def test_one_pass_brings_a_set_near() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(128, 1, generator=generator, dtype=DOUBLE)
    reward = frechet_to_normal(x, 0.5, 0.8)
    found = by_exchange(reward, 64, torch.randperm(64, generator=generator).tolist())
    assert -max(found.values[:2]) > 0.1 and -found.value < 1e-3 and -reward(found.negative) > 0.4
    assert list(found.values[2:]) == sorted(found.values[2:])


@pytest.mark.parametrize("seed", range(5))
def test_with_a_mean_of_rewards_the_exchange_is_the_better_of_each_pair(seed: int) -> None:
    rewards = torch.randn(2, 9, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed)).tolist()
    greedy, pairs = by_exchange(mean_reward(rewards.flatten()), 9, order), by_pictures(rewards)
    assert greedy.positive == pairs.positive and greedy.negative == pairs.negative
    assert greedy.value == pytest.approx(pairs.value) and greedy.value >= max(greedy.values[:2])


def test_a_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(TrainingError, match="no number"):
        by_exchange(lambda rows: float("nan"), 2, (0, 1))


@pytest.mark.parametrize("metric", [Frechet(), Kid(), Cmmd(), Vendi()])
def test_subsets_are_the_metric_of_the_rows(metric: Frechet | Kid | Cmmd | Vendi) -> None:
    generator = torch.Generator().manual_seed(1)
    features, reference = (torch.randn(n, 40, generator=generator, dtype=DOUBLE) for n in (32, 100))
    value = subset_values(metric, features, reference)
    for rows in (range(16), range(5, 25), [3, 1, 30, 8, 9]):
        with pytest.warns(UserWarning) if isinstance(metric, Frechet) else torch.no_grad():
            expected = metric.value(features[list(rows)], reference)
        assert value(list(rows)) == pytest.approx(expected, rel=1e-6)


def test_a_metric_without_a_short_way_is_asked_again() -> None:
    class Mean:
        def value(self, features: Tensor, reference: Tensor | None = None, groups: object = None) -> float:
            return float(features.mean())

    assert subset_values(Mean(), line(1, 2, 9), None)([0, 2]) == 5.0


def test_vendi_on_paper() -> None:
    assert vendi_subsets(torch.eye(4, dtype=DOUBLE))(range(4)) == pytest.approx(4)
    assert vendi_subsets(torch.ones(4, 3, dtype=DOUBLE))(range(4)) == pytest.approx(1)
    blocks = torch.eye(2, dtype=DOUBLE).repeat_interleave(2, 0)
    assert vendi_subsets(blocks)(range(4)) == pytest.approx(2)


def test_dpo_on_paper() -> None:
    same = torch.tensor([0.3], dtype=DOUBLE)
    assert float(losses.dpo(same, same, same, same, 5000)) == pytest.approx(0.693147, abs=1e-6)
    plus = torch.tensor([0.100], dtype=DOUBLE, requires_grad=True)
    minus, plus_ref, minus_ref = (torch.tensor([value], dtype=DOUBLE) for value in (0.120, 0.101, 0.119))
    loss = losses.dpo(plus, minus, plus_ref, minus_ref, 5000)
    (slope,) = torch.autograd.grad(loss.sum(), plus)
    assert float(loss.detach()) == pytest.approx(0.006715, abs=1e-5)
    assert float(slope) == pytest.approx(16.7321, abs=1e-2)


def test_kto_on_paper() -> None:
    loss, reference = torch.tensor([0.100], dtype=DOUBLE), torch.tensor([0.101], dtype=DOUBLE)
    zero = torch.zeros((), dtype=DOUBLE)
    liked = losses.kto(loss, reference, torch.tensor([True]), 1000, zero)
    disliked = losses.kto(loss, reference, torch.tensor([False]), 1000, zero)
    assert float(liked) == pytest.approx(0.268941, abs=1e-6) and float(disliked) == pytest.approx(0.731059, abs=1e-6)


def test_the_mean_of_kto_is_not_below_zero() -> None:
    worse, reference = torch.tensor([0.3, 0.4], dtype=DOUBLE), torch.tensor([0.1, 0.1], dtype=DOUBLE)
    positive = torch.tensor([True, True])
    zero = torch.zeros((), dtype=DOUBLE)
    assert torch.equal(losses.kto(worse, reference, positive, 5.0), losses.kto(worse, reference, positive, 5.0, zero))


def test_mahalanobis_is_that_of_the_plain_formula() -> None:
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.randn(n, 3, generator=generator, dtype=DOUBLE) for n in (5, 50))
    ridge = 0.1 * y.T.cov(correction=0).trace() / 3
    inverse = torch.linalg.inv(y.T.cov(correction=0) + ridge * torch.eye(3, dtype=DOUBLE))
    by_hand = torch.stack([-(row - y.mean(0)) @ inverse @ (row - y.mean(0)) / 3 for row in x])
    assert torch.allclose(mahalanobis(x, y, 0.1), by_hand)


@pytest.mark.parametrize("witness", ["mahalanobis", "mmd", "cosine"])
def test_what_lies_among_the_exemplars_is_nearer(witness: str) -> None:
    generator = torch.Generator().manual_seed(3)
    y = torch.randn(60, 4, generator=generator) + 3
    near, far = y[:5], -y[:5]
    assert nearness(near, y, witness, 0.1).min() > nearness(far, y, witness, 0.1).max()  # type: ignore[arg-type]
