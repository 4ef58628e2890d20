"""Intervals that respect how pictures are made: several seeds of one prompt are one cluster, not several samples.

All in float64 on numpy arrays. `clusters` (n,) names the prompt of each value; every interval is at 95 %. Where nothing
varies between clusters a spread says nothing, and there is no interval; of shares there always is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genbench.errors import UsageError
from genbench.evaluation.student import Z95, t95

FEW = 20  # clusters; below, how values are distributed matters more than how many there are
JACKKNIFE_GROUPS = 25
ROUNDING = 1e-12  # relative; a spread below is one of rounding

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over n values in `clusters` clusters with its 95 % interval; low and high are nan where there is none."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int

    def clipped(self, lowest: float, highest: float) -> Estimate:
        """Return it with an interval that ends where the values do."""
        if isnan(self.low):
            return self
        return replace(self, low=max(self.low, lowest), high=min(self.high, highest))


def around(value: float, error: float, df: int, n: int, clusters: int) -> Estimate:
    """Value plus and minus t95(df) standard errors; no interval where the error is nan, or of rounding alone."""
    half = t95(df) * error if df > 0 and error > ROUNDING * abs(value) else nan
    return Estimate(value, value - half, value + half, n, clusters)


def wilson(rate: float, n: float) -> tuple[float, float]:
    """95 % interval of a proportion seen in n trials (Wilson 1927); n may be an effective number of trials."""
    if n <= 0:
        return nan, nan
    centre = (rate + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * sqrt(rate * (1 - rate) / n + Z95**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def bonett_price(up: float, down: float, n: float) -> tuple[float, float]:
    """95 % interval of `up - down`, the shares of n pairs that changed either way, n may be an effective number: a pair
    is added to each, so that no interval has zero width (Bonett and Price 2012, adjusted Wald).
    """
    a, b = (up * n + 1) / (n + 2), (down * n + 1) / (n + 2)
    half = Z95 * sqrt((a + b - (a - b) ** 2) / (n + 2))
    return max(-1.0, a - b - half), min(1.0, a - b + half)


def clustered_mean(values: ArrayLike, clusters: Sequence[object]) -> Estimate:
    """Mean of all values, with Student's t at clusters - 1 degrees of freedom times `standard_error`."""
    data, sums, counts = per_cluster(values, clusters)
    if len(sums) < 2:
        return Estimate(float(data.mean()) if len(data) else nan, nan, nan, len(data), len(sums))
    mean = float(data.mean())
    return around(mean, _standard_error(mean, sums, counts), len(sums) - 1, len(data), len(sums))


def clustered_rate(values: ArrayLike, clusters: Sequence[object]) -> Estimate:
    """Share of ones with Wilson's interval at the effective number of trials."""
    data, sums, counts = per_cluster(values, clusters)
    if not len(data):
        return Estimate(nan, nan, nan, 0, 0)
    rate = float(data.mean())
    low, high = wilson(rate, _effective_size(rate, rate * (1 - rate), sums, counts))
    return Estimate(rate, low, high, len(data), len(sums))


def standard_error(values: ArrayLike, clusters: Sequence[object]) -> float:
    """Standard error of the mean, robust to clusters: sqrt(C / (C - 1) sum_c (S_c - n_c mean)^2) / n."""
    data, sums, counts = per_cluster(values, clusters)
    return _standard_error(float(data.mean()), sums, counts) if len(sums) > 1 else nan


def paired_difference(first: ArrayLike, second: ArrayLike, clusters: Sequence[object]) -> Estimate:
    """Mean of `second - first` over pairs of the same prompt and seed, with the interval of a mean."""
    return clustered_mean(_differences(first, second), clusters)


def paired_rate_difference(first: ArrayLike, second: ArrayLike, clusters: Sequence[object]) -> Estimate:
    """The same of values 0 and 1, with Bonett and Price's interval at the effective number of pairs."""
    data, sums, counts = per_cluster(_differences(first, second), clusters)
    if not len(data):
        return Estimate(nan, nan, nan, 0, 0)
    mean, up, down = float(data.mean()), float((data > 0).mean()), float((data < 0).mean())
    low, high = bonett_price(up, down, _effective_size(mean, up + down - mean**2, sums, counts))
    return Estimate(mean, low, high, len(data), len(sums))


def _differences(first: ArrayLike, second: ArrayLike) -> Array:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise UsageError(f"paired values need one partner each, got {a.shape} and {b.shape}; pair them first")
    return b - a


def jackknife(value: float, without: ArrayLike, clusters: int, n: int) -> Estimate:
    """Interval of a statistic from its values with each of g groups left out in turn (Quenouille, Tukey), with
    Student's t at g - 1 degrees of freedom.
    """
    left = np.asarray(without, np.float64)
    g = len(left)
    error = sqrt((g - 1) / g * float(((left - left.mean()) ** 2).sum())) if g > 1 else nan
    return around(value, error, g - 1, n, clusters)


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


def _standard_error(mean: float, sums: Array, counts: Array) -> float:
    c = len(sums)
    return sqrt(c / (c - 1) * float(((sums - counts * mean) ** 2).sum())) / float(counts.sum())


def _effective_size(mean: float, variance: float, sums: Array, counts: Array) -> float:
    """Return n over the design effect: the clustered variance over that of independent values, whose own is `variance`.

    Between the number of clusters and n. A design effect estimated from few clusters is taken for larger, by
    (t95 / Z95)^2 (Korn and Graubard 1998); where it cannot be seen the number of clusters stands for n.
    """
    n, c = float(counts.sum()), len(sums)
    if c < 2 or variance <= ROUNDING:
        return c
    seen = _standard_error(mean, sums, counts) ** 2 * (t95(c - 1) / Z95) ** 2
    return n if seen == 0 else float(np.clip(variance / seen, c, n))
