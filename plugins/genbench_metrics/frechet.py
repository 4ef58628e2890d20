"""Frechet distance of Gaussians fitted to two sets of features (Heusel et al., arXiv:1706.08500; FID on Inception).

d^2 = |mu_1 - mu_2|^2 + Tr C_1 + Tr C_2 - 2 Tr (C_1 C_2)^(1/2)

The last trace is the nuclear norm of C_1^(1/2) C_2^(1/2): its singular values are found without forming a product of
covariances, so there is no complex square root to discard and singular covariances are fine.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import ClassVar

import torch
from torch import Tensor

from genbench.kinds import About
from genbench_metrics.features import checked_pair
from genbench_metrics.subsets import Subset, frechet_subsets


def frechet_distance(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> float:
    """Squared Frechet distance of two Gaussians, means (d,), covariances (d, d), all float64."""
    shared = torch.linalg.svdvals(psd_root(cov_1) @ psd_root(cov_2)).sum()
    value = (mean_1 - mean_2).square().sum() + cov_1.trace() + cov_2.trace() - 2 * shared
    return max(0.0, float(value))


def psd_root(cov: Tensor) -> Tensor:
    """Symmetric square root (d, d) of a positive semi-definite matrix; rounding below zero counts as zero."""
    values, vectors = torch.linalg.eigh(cov)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_resampled(x: Tensor, y: Tensor, weights: Tensor) -> list[float]:
    """Distances of x (n, d), its rows taken `weights` (draws, n) times, to y (m, d); nan for draws below two rows.

    The nuclear norm is that of the weighted rows, centred, times C_2^(1/2), which is computed once.
    """
    mean_2, cov_2 = y.mean(0), y.T.cov()
    rooted = x @ psd_root(cov_2)
    return [_weighted(x, rooted, mean_2, cov_2.trace(), w) if w.sum() > 1 else nan for w in weights.double()]


def _weighted(x: Tensor, rooted: Tensor, mean_2: Tensor, trace_2: Tensor, w: Tensor) -> float:
    n, taken = w.sum(), w > 0
    x, rooted, w = x[taken], rooted[taken], w[taken]
    mean, scale = w @ x / n, (w / (n - 1)).sqrt()[:, None]
    product = scale * (rooted - w @ rooted / n)
    gram = product @ product.T if len(product) < product.shape[1] else product.T @ product
    shared = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum()
    return float((mean - mean_2).square().sum() + (scale * (x - mean)).square().sum() + trace_2 - 2 * shared)


@dataclass(frozen=True)
class Frechet:
    """Frechet distance on an encoder's features, smaller is better. Biased upwards for small n: compare at equal n."""

    trusted_from: ClassVar[int] = 2000
    known_as: ClassVar[Mapping[str, str]] = {"fid": "frechet@inception"}
    about: ClassVar[About] = About(
        "Frechet distance between Gaussians fitted to features (FID where the encoder is Inception).",
        paper="Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017",
        url="https://arxiv.org/abs/1706.08500",
    )

    def value(self, features: Tensor, reference: Tensor | None = None, groups: Sequence[object] | None = None) -> float:
        """Distance of features (n, d) to reference (m, d); warns below 2 d pictures on either side."""
        x, y = checked_pair(features, reference, 2, "frechet")
        fewest, d = min(len(x), len(y)), x.shape[1]
        if fewest < 2 * d:
            warnings.warn(
                f"frechet: {fewest} pictures for {d} features is below 2 x {d}: the value is biased upwards; "
                "compare only at equal numbers, or use kid",
                stacklevel=2,
            )
        return frechet_distance(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())

    def resampled(self, features: Tensor, reference: Tensor | None, weights: Tensor) -> list[float]:
        """Distances of resampled features: draw i takes row j weights[i, j] times; weights (draws, n)."""
        x, y = checked_pair(features, reference, 2, "frechet")
        return frechet_resampled(x, y, weights)

    def subsets(self, features: Tensor, reference: Tensor | None) -> Subset:
        """Return a function from row numbers to the distance of these rows; its cost does not depend on d."""
        x, y = checked_pair(features, reference, 2, "frechet")
        covariance = y.T.cov()
        return frechet_subsets(x, y.mean(0), psd_root(covariance), covariance.trace())
