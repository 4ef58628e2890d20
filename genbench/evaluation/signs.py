"""Which of two chains wins how often: win rate with ties, the exact sign test, Holm's correction for several tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from genbench.evaluation import statistics
from genbench.evaluation.statistics import Estimate


@dataclass(frozen=True)
class Signs:
    """How often the second of two paired values is larger, over pairs; `rate` counts a tie as half a win.

    `p` is the sign test's over prompts: several seeds of one prompt are one trial. `holm` is p corrected for the other
    comparisons by the same metric on the same prompts.
    """

    wins: int
    ties: int
    losses: int
    rate: Estimate
    p: float
    holm: float


def signs(first: ArrayLike, second: ArrayLike, clusters: Sequence[object]) -> Signs:
    """Count who is larger, pair by pair; `holm` is p itself until it is corrected."""
    difference = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    _, sums, _ = statistics.per_cluster(difference, clusters)
    p = sign_test(int((sums > 0).sum()), int((sums < 0).sum()))
    rate = statistics.clustered_rate((np.sign(difference) + 1) / 2, clusters)
    return Signs(wins, len(difference) - wins - losses, losses, rate, p, p)


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided p of `wins` against `losses` (ties left out) under a fair coin (Dixon and Mood 1946)."""
    trials, chosen, tail = wins + losses, 1, 0
    for k in range(min(wins, losses) + 1):
        tail, chosen = tail + chosen, chosen * (trials - k) // (k + 1)  # chosen: trials over k, in whole numbers
    return min(1.0, 2 * tail / 2**trials)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted so that together they err at their level (Holm 1979): the k-th smallest of m, from
    0, times m - k, never below a smaller one's, at most 1; in the order given.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
