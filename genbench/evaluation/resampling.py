"""A bootstrap over prompts for numbers of whole sets (a Frechet distance), paired between chains.

In each draw every prompt counts Poisson(1) times (Hanley and MacGibbon 2006; the bootstrap of lists of any length). How
often is said by the prompt's own name, so any two chains meet the same prompts in the same draw, whatever else the
store holds. A resample repeats pictures, which shifts a distance as a smaller set would; so draws give the spread
alone, around the value that was measured (Efron and Tibshirani 1993, chapter 6).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import exp, nan

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genbench.evaluation.statistics import Estimate, around
from genbench.evaluation.student import t95

DRAWS = 200


def weights(prompts: Sequence[str], draws: int = DRAWS) -> NDArray[np.int64]:
    """How many times each draw takes each value, (draws, n); the same for all values of one prompt."""
    columns = {name: _counts(name, draws) for name in dict.fromkeys(prompts)}
    return np.stack([columns[name] for name in prompts], axis=1)


def _counts(name: str, draws: int) -> NDArray[np.int64]:
    seed = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return np.random.default_rng(seed).poisson(1.0, draws)


def interval(value: float, drawn: ArrayLike, n: int, clusters: int) -> Estimate:
    """Value with the interval of Student's t at clusters - 1; draws that are nan (a set too small) are left out."""
    return around(value, spread(drawn), clusters - 1, n, clusters)


def difference(first: float, second: float, drawn: tuple[ArrayLike, ArrayLike], n: int, clusters: int) -> Estimate:
    """Interval of `second - first`; `drawn` holds the values of both in the same draws."""
    a, b = (np.asarray(each, np.float64) for each in drawn)
    return interval(second - first, b - a, n, clusters)


def ratio(first: float, second: float, drawn: tuple[ArrayLike, ArrayLike], n: int, clusters: int) -> Estimate | None:
    """Interval of `second / first`, even on a log scale: d log(s / f) = ds / s - df / f. None unless both are > 0."""
    if first <= 0 or second <= 0:
        return None
    a, b = (np.asarray(each, np.float64) for each in drawn)
    factor = exp(min(t95(clusters - 1) * spread(b / second - a / first), 700.0))
    return Estimate(second / first, second / first / factor, second / first * factor, n, clusters)


def spread(drawn: ArrayLike) -> float:
    """Standard deviation over the draws that are numbers; nan below two of them."""
    data = np.asarray(drawn, np.float64)
    kept = data[np.isfinite(data)]
    return float(kept.std(ddof=1)) if len(kept) > 1 else nan
