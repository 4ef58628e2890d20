"""Intervals that respect how pictures are made: several seeds of one prompt are one cluster, not several samples.

All in float64 on numpy arrays. `clusters` (n,) names the prompt of each value; every interval is at 95 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isnan, nan, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genbench.errors import UsageError

Z95 = 1.959963984540054
RESAMPLES = 4000
BLOCKS = 8
JACKKNIFE_GROUPS = 25

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over n values in `clusters` clusters with its 95 % interval (nan where fewer than two clusters exist)."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int


def wilson(rate: float, n: float) -> tuple[float, float]:
    """95 % interval of a proportion seen in n trials (Wilson 1927); n may be an effective number of trials."""
    if n <= 0:
        return nan, nan
    centre = (rate + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * sqrt(rate * (1 - rate) / n + Z95**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def clustered_mean(values: ArrayLike, clusters: Sequence[object], seed: int = 0) -> Estimate:
    """Mean of all values with a percentile bootstrap over whole clusters (Davison and Hinkley 1997, 3.8)."""
    data, sums, counts = per_cluster(values, clusters)
    if len(sums) < 2:
        return Estimate(float(data.mean()) if len(data) else nan, nan, nan, len(data), len(sums))
    means = _bootstrap_means(sums, counts, seed)
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(data.mean()), float(low), float(high), len(data), len(sums))


def clustered_rate(values: ArrayLike, clusters: Sequence[object]) -> Estimate:
    """Share of ones with Wilson's interval at the effective sample size n / design effect.

    The design effect is the clustered variance over the binomial one, kept so that the effective size lies between
    the number of clusters and n; at a rate of 0 or 1, where it cannot be seen, the number of clusters is taken.
    """
    data, sums, counts = per_cluster(values, clusters)
    if not len(data):
        return Estimate(nan, nan, nan, 0, 0)
    rate = float(data.mean())
    low, high = wilson(rate, _effective_size(rate, sums, counts))
    return Estimate(rate, low, high, len(data), len(sums))


def standard_error(values: ArrayLike, clusters: Sequence[object]) -> float:
    """Standard error of the mean, robust to clusters: sqrt(C / (C - 1) sum_c (S_c - n_c mean)^2) / n."""
    data, sums, counts = per_cluster(values, clusters)
    return _standard_error(float(data.mean()), sums, counts) if len(sums) > 1 else nan


def paired_difference(first: ArrayLike, second: ArrayLike, clusters: Sequence[object]) -> Estimate:
    """Mean of `second - first` over pairs of the same prompt and seed, with the clustered bootstrap interval."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise UsageError(f"paired values need one partner each, got {a.shape} and {b.shape}; pair them first")
    return clustered_mean(b - a, clusters)


def jackknife(value: float, without: ArrayLike, clusters: int, n: int) -> Estimate:
    """Interval of a statistic from its values with each of g groups left out in turn (Quenouille, Tukey)."""
    left = np.asarray(without, np.float64)
    g = len(left)
    half = Z95 * sqrt((g - 1) / g * float(((left - left.mean()) ** 2).sum())) if g > 1 else nan
    return Estimate(value, value - half, value + half, n, clusters)


def jackknife_groups(clusters: Sequence[object], groups: int = JACKKNIFE_GROUPS) -> NDArray[np.int64]:
    """Deal whole clusters into at most `groups` groups, round robin in order of appearance: (n,) group numbers."""
    order = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    return np.array([order[name] % min(groups, len(order)) for name in clusters], np.int64)


def leave_out(statistic: Callable[[NDArray[np.int64]], float], groups: NDArray[np.int64]) -> Array:
    """Values of `statistic(rows kept)` with each group left out in turn, (g,)."""
    return np.array([statistic(np.flatnonzero(groups != group)) for group in np.unique(groups)])


def is_rate(values: ArrayLike) -> bool:
    """Whether every value is 0 or 1."""
    data = np.asarray(values, np.float64)
    return bool(np.isin(data, (0.0, 1.0)).all())


def per_cluster(values: ArrayLike, clusters: Sequence[object]) -> tuple[Array, Array, Array]:
    """Return the values (n,), and the sum (c,) and number (c,) of values of each cluster, in order of appearance."""
    data = np.asarray(values, np.float64)
    order = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    index = np.array([order[name] for name in clusters], np.int64)
    sums = np.bincount(index, data, len(order)).astype(np.float64)
    return data, sums, np.bincount(index, minlength=len(order)).astype(np.float64)


def _bootstrap_means(sums: Array, counts: Array, seed: int) -> Array:
    return np.concatenate([(block @ sums) / (block @ counts) for block in _drawn(len(sums), seed)])


@lru_cache(maxsize=8)
def _drawn(clusters: int, seed: int) -> tuple[NDArray[np.uint8], ...]:
    """How often each resample takes each cluster, (RESAMPLES, clusters) in blocks; a table needs the same ones often.

    A byte is enough: of up to 255 clusters none is taken more often, and of more no cluster ever 256 times.
    """
    rng, even = np.random.default_rng(seed), np.full(clusters, 1 / clusters)
    return tuple(rng.multinomial(clusters, even, RESAMPLES // BLOCKS).astype(np.uint8) for _ in range(BLOCKS))


def _standard_error(mean: float, sums: Array, counts: Array) -> float:
    c = len(sums)
    return sqrt(c / (c - 1) * float(((sums - counts * mean) ** 2).sum())) / float(counts.sum())


def _effective_size(rate: float, sums: Array, counts: Array) -> float:
    n, c = float(counts.sum()), len(sums)
    if rate in (0.0, 1.0) or c < 2:
        return c
    variance = _standard_error(rate, sums, counts) ** 2
    return n if variance == 0 or isnan(variance) else float(np.clip(rate * (1 - rate) / variance, c, n))
