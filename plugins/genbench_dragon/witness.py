"""How near one picture is to a distribution of exemplars (arXiv:2504.15217, "instance-to-distribution").

The paper's reward fits a Gaussian to the many frames of one song. A picture has one embedding here, so what stands in
its place asks how the exemplars' distribution sees a single point. Larger is nearer.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Witness = Literal["mahalanobis", "mmd", "cosine"]


def nearness(features: Tensor, exemplars: Tensor, witness: Witness, shrinkage: float) -> Tensor:
    """Features (n, d) against exemplars (m, d): (n,), larger is nearer."""
    x, y = features.double(), exemplars.double()
    match witness:
        case "mahalanobis":
            return mahalanobis(x, y, shrinkage)
        case "mmd":
            return mmd_witness(x, y)
        case "cosine":
            unit = torch.nn.functional.normalize
            return unit(x, dim=1) @ unit(y.mean(0), dim=0)


def mahalanobis(x: Tensor, y: Tensor, shrinkage: float) -> Tensor:
    """-(e - mu)^T (Sigma + shrinkage tr(Sigma) / d I)^-1 (e - mu) / d: for exemplars that are Gaussian, about -1."""
    d = y.shape[1]
    covariance = y.T.cov(correction=0)
    ridge = shrinkage * covariance.trace() / d + 1e-12
    offset = x - y.mean(0)
    solved = torch.linalg.solve(covariance + ridge * torch.eye(d, dtype=y.dtype), offset.T).T
    return -(offset * solved).sum(1) / d


def mmd_witness(x: Tensor, y: Tensor) -> Tensor:
    """Mean over exemplars of exp(-|e - e_k|^2 / (2 h^2)), h the median distance between exemplars."""
    between = torch.cdist(y, y)
    h = between[~torch.eye(len(y), dtype=torch.bool)].median()
    return (-torch.cdist(x, y).square() / (2 * h**2 + 1e-12)).exp().mean(1)
