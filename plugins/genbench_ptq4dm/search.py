"""Which range is represented: values up to c = i / n of the largest absolute one, i = 1 ... n; the nearest wins.

"Nearest" is one of the calibration metrics of arXiv:2211.15736, table 4: the mean of |x - x^|^p (p = 2 is the mean
squared error, the published code takes 2.4), the cosine of x and x^, or the divergence KL(x || x^) of their histograms.
The metrics ask for the distribution of x alone, so they are computed from a histogram of everything that the layer was
given: nothing is averaged over batches, and no batch counts more than another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genbench_ptq4dm.quantizer import LEVELS, Grid, Rounded

Metric = Literal["lp", "cosine", "kl"]
P = 2.4
CANDIDATES = 100
BINS = 8192
"""Of a histogram: 32 to a step of the widest grid."""


@dataclass(frozen=True)
class Histogram:
    """Counts (bins,) in float64 of values between `low` and `high`, in bins of equal width."""

    low: float
    high: float
    counts: Tensor

    @classmethod
    def empty(cls, low: float, high: float, bins: int = BINS) -> Histogram:
        return cls(low, high, torch.zeros(bins, dtype=torch.float64))

    def add(self, x: Tensor) -> None:
        """Count the values of a tensor."""
        if self.high > self.low:
            counted = torch.histc(x.detach().float(), len(self.counts), self.low, self.high)
            self.counts.add_(counted.to(self.counts))
        else:
            self.counts[0] += x.numel()

    @property
    def centres(self) -> Tensor:
        """The middle of each bin, (bins,)."""
        width = (self.high - self.low) / len(self.counts)
        return self.low + width * (torch.arange(len(self.counts), dtype=torch.float64) + 0.5)


def activation_range(
    histogram: Histogram, metric: Metric = "lp", p: float = P, candidates: int = CANDIDATES
) -> tuple[float, float]:
    """The range [low, high] whose grid is nearest to what the histogram counted: [-c, c], as far as values reach."""
    largest = max(abs(histogram.low), abs(histogram.high))
    limits = [largest * (i + 1) / candidates for i in range(candidates)]
    ranges = [(max(histogram.low, -c), min(histogram.high, c)) for c in limits]
    distances = [DISTANCES[metric](histogram, Grid.over(*each), p) for each in ranges]
    return ranges[int(torch.stack(distances).argmin())]


def weight_limits(weight: Tensor, bits: int = 8, p: float = P, candidates: int = CANDIDATES) -> Tensor:
    """The largest absolute value that each output channel keeps, (out,), by the mean of |w - w^|^p."""
    widest = weight.detach().float().abs().flatten(1).amax(1)
    best, least = widest, torch.full_like(widest, torch.inf)
    for i in range(candidates, 0, -1):  # the widest first, so that it stays where others are no better
        limits = widest * i / candidates
        error = (Rounded.of(weight, limits, bits).weights() - weight.float()).abs().pow(p).flatten(1).mean(1)
        best, least = torch.where(error < least, limits, best), torch.minimum(error, least)
    return best


# --- metrics: small is near -------------------------------------------------------------------------------------------


def lp(histogram: Histogram, grid: Grid, p: float = P) -> Tensor:
    """The mean of |x - x^|^p."""
    x = histogram.centres
    return (histogram.counts * (x - grid.fake(x)).abs().pow(p)).sum() / histogram.counts.sum()


def cosine(histogram: Histogram, grid: Grid, p: float = P) -> Tensor:
    """1 - <x, x^> / (|x| |x^|)."""
    x, n = histogram.centres, histogram.counts
    rounded = grid.fake(x)
    norms = ((n * x.square()).sum() * (n * rounded.square()).sum()).sqrt()
    return 1 - (n * x * rounded).sum() / norms.clamp(min=torch.finfo(torch.float64).tiny)


def kl(histogram: Histogram, grid: Grid, p: float = P) -> Tensor:
    """KL(P || Q): P has what is clipped in its outermost bins, Q spreads each level evenly over the bins that it holds.

    Bins that hold nothing have no part in it. The smoothing of Q lets a bin of P that Q lost cost a finite amount.
    """
    x, n = histogram.centres, histogram.counts
    level = torch.round(x / grid.scale) + grid.zero
    inside = (level >= 0) & (level <= LEVELS - 1)
    if not bool((inside & (n > 0)).any()):
        return torch.tensor(torch.inf, dtype=torch.float64)
    first, last = (int(place) for place in inside.nonzero().flatten()[[0, -1]])
    index, filled = level.clamp(0, LEVELS - 1).long(), (inside & (n > 0)).double()
    held = torch.zeros(LEVELS, dtype=torch.float64).scatter_add_(0, index, n * inside)
    bins = torch.zeros(LEVELS, dtype=torch.float64).scatter_add_(0, index, filled)
    q = filled * (held / bins.clamp(min=1))[index]
    clipped = n * inside
    clipped[first] += n[:first].sum()
    clipped[last] += n[last + 1 :].sum()
    return _divergence(clipped, q)


def _divergence(p: Tensor, q: Tensor, smooth: float = 1e-6) -> Tensor:
    p, q = p / p.sum(), q / q.sum()
    q = (q + smooth / len(q)) / (1 + smooth)
    return torch.where(p > 0, p * (p.clamp(min=torch.finfo(torch.float64).tiny) / q).log(), 0.0).sum()


DISTANCES: Mapping[Metric, Callable[[Histogram, Grid, float], Tensor]] = {"lp": lp, "cosine": cosine, "kl": kl}
