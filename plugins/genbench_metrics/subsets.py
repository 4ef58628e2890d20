"""Values of many subsets of one set of pictures, from products of features that are formed once.

All that these metrics need of features (n, d) are inner products: with the n x n matrix of them a subset of k rows
costs O(k^2) to gather and at most O(k^3) to decompose, whatever the width d.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Subset = Callable[[Sequence[int]], float]


def frechet_subsets(x: Tensor, mean: Tensor, root: Tensor, trace: Tensor, unbiased: bool = True) -> Subset:
    """Frechet distances of rows of x (n, d) to a Gaussian of `mean` (d,), covariance root^2 (d, d) of that `trace`.

    Tr (C_x C)^(1/2) is the sum of the singular values of X_c root / sqrt(k), so of square roots of eigenvalues of a
    k x k matrix. `unbiased` divides covariances by k - 1, otherwise by k.
    """
    rooted = x @ root
    plain, mixed = x @ x.T, rooted @ rooted.T
    to_mean, square = x @ mean, mean @ mean

    def value(rows: Sequence[int]) -> float:
        at = torch.as_tensor(rows)
        k = len(at)
        scale = k - 1 if unbiased else k
        gram, other = plain[at][:, at], _centred(mixed[at][:, at])
        own_trace = _centred(gram).trace() / scale
        offset = gram.mean() - 2 * to_mean[at].mean() + square
        shared = torch.linalg.eigvalsh(other / scale).clamp(min=0).sqrt().sum()
        return max(0.0, float(offset + own_trace + trace - 2 * shared))

    return value


def vendi_subsets(x: Tensor) -> Subset:
    """Vendi scores of rows of x (n, d)."""
    unit = torch.nn.functional.normalize(x, dim=1)
    similarity = unit @ unit.T

    def value(rows: Sequence[int]) -> float:
        at = torch.as_tensor(rows)
        shares = torch.linalg.eigvalsh(similarity[at][:, at] / len(at)).clamp(min=0)
        return float(torch.special.entr(shares).sum().exp())

    return value


def mmd_subsets(within: Tensor, to_reference: Tensor, constant: Tensor, unbiased: bool) -> Subset:
    """MMD^2 of rows with kernel values `within` (n, n), means over the reference (n,), and the reference's own mean."""

    def value(rows: Sequence[int]) -> float:
        at = torch.as_tensor(rows)
        own, k = within[at][:, at], len(at)
        mean = (own.sum() - own.trace()) / (k * (k - 1)) if unbiased else own.mean()
        return float(mean + constant - 2 * to_reference[at].mean())

    return value


def _centred(gram: Tensor) -> Tensor:
    """Inner products of rows after their mean is taken off."""
    return gram - gram.mean(0, keepdim=True) - gram.mean(1, keepdim=True) + gram.mean()
