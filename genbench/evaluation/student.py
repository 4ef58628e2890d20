"""Quantiles of Student's t at whole degrees of freedom: the interval of a mean over few prompts needs them."""

from __future__ import annotations

from functools import lru_cache
from math import atan2, cos, inf, pi, sin, sqrt, tan

Z95 = 1.959963984540054
MANY = 2000  # degrees of freedom from which on the expansion around the normal is exact to 1e-13


@lru_cache(maxsize=1024)
def t95(df: int) -> float:
    """Return the t that holds 95 % of the distribution in [-t, t]; infinite for df < 1."""
    if df < 1:
        return inf
    if df >= MANY:
        return _near_normal(df)
    low, high = 0.0, pi / 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _inside(middle, df) < 0.95 else (low, middle)
    return sqrt(df) * tan(low)


def within(t: float, df: int) -> float:
    """Return the probability of [-t, t]."""
    return _inside(atan2(t, sqrt(df)), df)


def _inside(theta: float, df: int) -> float:
    """The same by the angle theta = atan(t / sqrt(df)) (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    c2, odd = cos(theta) ** 2, df % 2
    term = cos(theta) if odd else 1.0
    total = term if df > 1 else 0.0
    for k in range(2 + odd, df, 2):
        term *= c2 * (k - 1) / k
        total += term
    return 2 / pi * (theta + sin(theta) * total) if odd else sin(theta) * total


def _near_normal(df: int) -> float:
    """Cornish and Fisher's expansion in 1 / df (Abramowitz and Stegun 26.7.5)."""
    z = Z95
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / df + second / df**2 + third / df**3
