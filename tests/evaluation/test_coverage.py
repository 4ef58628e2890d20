"""How often intervals hold the truth, in simulations of few and many prompts of two seeds, by the functions in use.

The table of docs/evaluation.md: pytest -m slow -n 0 -s tests/evaluation/test_coverage.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from genbench.evaluation import statistics as st
from genbench.evaluation.statistics import Estimate

Array = NDArray[np.float64]
Case = Callable[[np.random.Generator, list[int]], tuple[Estimate, float]]
PROMPTS, SEEDS, RUNS = (5, 10, 20, 60), 2, 1000


def spread(rng: np.random.Generator, clusters: list[int], skewed: bool = False) -> Array:
    """Values around 0, of which the prompt decides as much as the seed."""
    count = clusters[-1] + 1
    prompt = rng.exponential(size=count) - 1 if skewed else rng.normal(size=count)
    return prompt[clusters] + rng.normal(size=len(clusters))


def mean(skewed: bool) -> Case:
    return lambda rng, clusters: (st.clustered_mean(spread(rng, clusters, skewed), clusters), 0.0)


def difference(rng: np.random.Generator, clusters: list[int]) -> tuple[Estimate, float]:
    first = spread(rng, clusters)
    return st.paired_difference(first, first + 0.3 + spread(rng, clusters), clusters), 0.3


def rate(p: float) -> Case:
    """Prompts differ in how likely they are: beta with a correlation of 0.3 between seeds."""

    def case(rng: np.random.Generator, clusters: list[int]) -> tuple[Estimate, float]:
        own = rng.beta(p * 7 / 3, (1 - p) * 7 / 3, clusters[-1] + 1)[clusters]
        return st.clustered_rate(rng.random(len(clusters)) < own, clusters), p

    return case


def rate_difference(up: float, down: float, shared: bool) -> Case:
    """From half right, so many pairs are gained and lost; `shared`: all seeds of a prompt change alike."""

    def case(rng: np.random.Generator, clusters: list[int]) -> tuple[Estimate, float]:
        chance = rng.random(clusters[-1] + 1)[clusters] if shared else rng.random(len(clusters))
        gained, lost = chance < up, chance > 1 - down
        first = np.where(gained, 0, np.where(lost, 1, rng.random(len(clusters)) < 0.5))
        second = np.where(gained, 1, np.where(lost, 0, first))
        return st.paired_rate_difference(first, second, clusters), up - down

    return case


def jackknife(rng: np.random.Generator, clusters: list[int]) -> tuple[Estimate, float]:
    values = spread(rng, clusters)
    without = st.leave_out(lambda kept: float(values[kept].mean()), st.jackknife_groups(clusters))
    return st.jackknife(float(values.mean()), without, clusters[-1] + 1, len(values)), 0.0


CASES: dict[str, list[Case]] = {
    "mean": [mean(skewed=False)],
    "mean, skewed prompts": [mean(skewed=True)],
    "difference of means": [difference],
    "rate of 0.5, 0.8, 0.95": [rate(p) for p in (0.5, 0.8, 0.95)],
    "difference of rates": [
        rate_difference(up, down, shared)
        for up, down in ((0.15, 0.05), (0.4, 0.1), (0.05, 0.05), (0.02, 0.0))
        for shared in (False, True)
    ],
    "jackknife": [jackknife],
}


@pytest.mark.slow
@pytest.mark.parametrize("what", CASES)
def test_intervals_hold_the_truth(what: str) -> None:
    """At least 0.9 where 0.95 is said; 0.85 of a mean of few skewed prompts, which no interval knows to be skewed."""
    told: list[str] = []
    for prompts in PROMPTS:
        clusters, rng = np.repeat(np.arange(prompts), SEEDS).tolist(), np.random.default_rng(prompts)
        found = [[case(rng, clusters) for _ in range(RUNS)] for case in CASES[what]]
        held = [np.mean([each.low <= truth <= each.high for each, truth in runs]) for runs in found]
        assert all(each.high > each.low for runs in found for each, _ in runs)
        assert min(held) >= (0.85 if "skewed" in what else 0.9), (prompts, held)
        told.append(f"{min(held):.2f}" if len(held) == 1 else f"{min(held):.2f} to {max(held):.2f}")
    sys.stdout.write(f"| {what} | {' | '.join(told)} |\n")
