"""The bootstrap of set metrics: its weights, its pairing, and how often its intervals hold the truth."""

from __future__ import annotations

from math import exp, isnan, log, nan

import numpy as np
import pytest
import torch

from genbench.evaluation import resampling
from genbench.evaluation.student import t95
from genbench_metrics import Frechet


def test_weights_belong_to_the_prompt_and_not_to_the_list() -> None:
    prompts = [f"p{i // 2}" for i in range(40)]
    all_of_them = resampling.weights(prompts)
    assert all_of_them.shape == (resampling.DRAWS, 40)
    assert (all_of_them[:, 0] == all_of_them[:, 1]).all() and (all_of_them[:, 0] != all_of_them[:, 2]).any()
    assert (resampling.weights(prompts[10:6:-1]) == all_of_them[:, [10, 9, 8, 7]]).all()


def test_weights_are_poisson() -> None:
    drawn = resampling.weights([f"p{i}" for i in range(400)])
    assert drawn.mean() == pytest.approx(1.0, abs=0.02) and drawn.var() == pytest.approx(1.0, abs=0.03)
    correlations = np.asarray(np.corrcoef(drawn.T))
    assert abs(correlations[np.triu_indices(400, 1)].mean()) < 0.005


def test_interval_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(size=500)
    weights = resampling.weights([f"p{i}" for i in range(500)], 2000)
    estimate = resampling.interval(values.mean(), weights @ values / weights.sum(1), 500, 500)
    assert estimate.high - estimate.mean == pytest.approx(t95(499) * values.std(ddof=1) / 500**0.5, rel=0.05)


def test_pairing_removes_what_both_share() -> None:
    shared = np.random.default_rng(2).normal(size=100)
    own = 0.01 * np.random.default_rng(5).normal(size=100)
    paired = resampling.difference(3.0, 3.5, (3 + shared, 3.5 + shared + own), 10, 10)
    assert (paired.mean, paired.high - 0.5) == pytest.approx((0.5, t95(9) * own.std(ddof=1)))
    ratio = resampling.ratio(2.0, 1.0, (2 * exp(0.1) * (1 + shared), exp(0.1) * (1 + shared)), 10, 10)
    assert ratio is not None and (ratio.mean, ratio.low, ratio.high) == pytest.approx((0.5, 0.5, 0.5))


def test_ratio_is_even_on_a_log_scale_and_only_of_distances() -> None:
    drawn = np.random.default_rng(3).normal(1, 0.1, 300)
    ratio = resampling.ratio(1.0, 2.0, (np.ones(300), 2 * drawn), 10, 10)
    assert ratio is not None and log(ratio.high / 2) == pytest.approx(log(2 / ratio.low))
    assert log(ratio.high / 2) == pytest.approx(t95(9) * drawn.std(ddof=1))
    assert resampling.ratio(-0.1, 2.0, (drawn, drawn), 10, 10) is None


def test_draws_without_a_value_are_left_out() -> None:
    assert resampling.spread([1.0, nan, 3.0]) == pytest.approx(2**0.5)
    assert isnan(resampling.interval(1.0, [nan, 1.0], 2, 2).low)


# --- the Frechet distance -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:frechet")
@pytest.mark.parametrize("d", [3, 50])
def test_frechet_of_a_resample_is_that_of_the_repeated_rows(d: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(n, d, generator=generator, dtype=torch.float64) for n in (30, 80))
    weights = torch.tensor(resampling.weights([f"p{i // 2}" for i in range(30)], 5))
    weights = torch.cat([weights, torch.zeros(1, 30, dtype=weights.dtype)])
    drawn = Frechet().resampled(x, y, weights)
    expected = [Frechet().value(x.repeat_interleave(w, 0), y) for w in weights[:-1]]
    assert drawn[:-1] == pytest.approx(expected, rel=1e-6) and isnan(drawn[-1])


def frechet(rows: np.ndarray, reference: torch.Tensor, weights: torch.Tensor) -> tuple[float, list[float]]:
    x = torch.tensor(rows)
    whole = torch.ones(1, len(x), dtype=torch.int64)
    return Frechet().resampled(x, reference, whole)[0], Frechet().resampled(x, reference, weights)


def test_intervals_of_difference_and_ratio_hold_the_truth() -> None:
    """Two chains share the prompts' features; 60 prompts of two seeds in five dimensions, where the bias of a
    resample is as large as its spread: intervals around the resamples themselves would miss."""
    rng = np.random.default_rng(4)
    prompts, clusters = 60, np.repeat(np.arange(60), 2)
    reference = torch.tensor(rng.normal(size=(4000, 5)))
    weights = torch.tensor(resampling.weights([f"p{i}" for i in clusters], 60))
    found = []
    for _ in range(150):
        shared = 0.5 * rng.normal(size=(prompts, 5))[clusters]
        pair = [shared + s * rng.normal(size=(120, 5)) + m for s, m in ((0.9, 0.3), (0.8, 0.5))]
        (a, drawn_a), (b, drawn_b) = (frechet(each, reference, weights) for each in pair)
        drawn = (drawn_a, drawn_b)
        found.append((resampling.difference(a, b, drawn, 120, 60), resampling.ratio(a, b, drawn, 120, 60)))
    difference, ratio = [d for d, _ in found], [r for _, r in found if r]
    truth = np.mean([d.mean for d in difference]), exp(np.mean([log(r.mean) for r in ratio]))
    for estimates, true in zip((difference, ratio), truth, strict=True):
        assert 0.90 <= np.mean([e.low <= true <= e.high for e in estimates]) <= 1.0
        assert np.median([e.high - e.low for e in estimates]) < 5 * np.std([e.mean for e in estimates])
