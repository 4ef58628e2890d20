"""The diffusion Hessian along a walk, and the step that it corrects. Derived in docs/lml.md.

At a level x = alpha x0 + sigma eps write tau = sigma / alpha and D(x) = E[x0 | x]. Then

    -Hessian of log p_t(x) = (I - A) / sigma^2,    A = alpha dD/dx = (alpha / sigma)^2 Cov[x0 | x]

A is symmetric, its eigenvalues j >= 0, below 1 where p_t is log-concave. On Gaussian data with variance c along an
eigendirection j = c / (c + tau^2), and one step from tau to r tau scales a deviation along it, in units of x / alpha,

    exactly by g(j) = sqrt(j + (1 - j) r^2),    with DDIM by g_ddim(j) = j + (1 - j) r

d = tau (I - A)^-1 eps is the Newton displacement from the mean, damped as Levenberg and Marquardt do:
tau (I - A + mu I)^-1 eps. So the exact step is DDIM's plus tau phi(A) eps with phi = (g - g_ddim) / (1 - j + mu).

Gains are functions of j, a float64 tensor of any shape.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genbench_lml.transform import dot, norm

GRID = 512
Gain = Callable[[Tensor], Tensor]


def newton_gain(j: Tensor, r: float, mu: float = 0.0) -> Tensor:
    """phi(j) = (g - g_ddim) / (1 - j + mu) for j in [0, 1], r = tau_next / tau in [0, 1); 0 at j = 0.

    g^2 - g_ddim^2 = j (1 - j) (1 - r)^2, so undamped phi = j (1 - r)^2 / (g + g_ddim): no cancellation, finite at 1.
    """
    undamped = j * (1 - r) ** 2 / _positive((j + (1 - j) * r**2).sqrt() + j + (1 - j) * r)
    return undamped if mu == 0 else undamped * (1 - j) / (1 - j + mu)


def secant_gain(j: Tensor, ratio: float) -> Tensor:
    """psi(j) with eps_before = psi(A) eps on a Gaussian's exact walk; ratio = tau_before / tau > 1, inf allowed.

    Along the walk eps is proportional to tau / sqrt(c + tau^2) = sqrt(1 - j).
    """
    return 1 / _positive(j / ratio**2 + 1 - j).sqrt()


def data_gain(j: Tensor, ratio: float) -> Tensor:
    """Delta(j) with D - D_before = tau Delta(A) eps on a Gaussian's exact walk; ratio = tau_before / tau."""
    g = (j + (1 - j) * ratio**2).sqrt()
    return j * (ratio**2 - 1) / (g * (g + 1))


def spectrum_weight(gain: Gain, ratio: float) -> float:
    """w for which w (psi(A) - I) eps is nearest gain(A) eps when the spectrum of the data has no scale.

    Variances c of the data that are uniform in log c give dj / (j (1 - j)) eigenvalues, eps has variance 1 - j along
    each: least squares with weight 1 / j. For tau_before near tau it tends to Taylor's (1 - r)^2 / (2 (ratio - 1)).
    """
    j = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    change = secant_gain(j, ratio) - 1
    return float((gain(j) * change / j).sum() / (change**2 / j).sum())


def ritz_value(before: Tensor, earlier: Tensor, ratio: float, ratio_earlier: float) -> Tensor:
    """j in [0, 1] of every row, (b, 1, ...), from two changes of eps.

    `before` = eps_1 - eps, `earlier` = eps_2 - eps_1; eps_k was predicted k steps ago at tau_k; the ratios are
    tau_1 / tau and tau_2 / tau. On a Gaussian's walk along one eigendirection earlier = chi(j) before with
    chi = (psi_2 - psi_1) / (psi_1 - 1), which rises with j; here 1 / chi is the share of `earlier` that came again, so
    changes that turned aside count as strongly curved, j near 1, and are continued least.
    """
    j = torch.linspace(1e-6, 1, GRID, dtype=torch.float64, device=before.device)
    first = secant_gain(j, ratio)
    chi = (secant_gain(j, ratio_earlier) - first) / (first - 1)
    found = dot(earlier, earlier).double() / _positive(dot(before, earlier).double())
    above = torch.searchsorted(chi, found.detach().flatten()).clamp(1, GRID - 1)
    low, high = chi[above - 1], chi[above]
    share = ((found.flatten() - low) / (high - low)).clamp(0, 1)
    return (j[above - 1] + share * (j[above] - j[above - 1])).reshape(found.shape)


def lanczos(apply: Callable[[Tensor], Tensor], start: Tensor, rank: int, gain: Gain) -> Tensor:
    """Return gain(A) start, (b, ...), with A restricted to the Krylov space of `start` of dimension `rank`.

    `apply(v)` is A v for rows v (b, ...) of unit length; A is taken as symmetric. Ritz values are clamped to [0, 1],
    where the Hessian of -log p_t is positive semi-definite: Gauss-Newton's assumption.
    """
    length = norm(start)
    basis = [start / torch.where(length > 0, length, 1)]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for i in range(rank):
        w = apply(basis[i])
        diagonal.append(dot(basis[i], w))
        for q in (*basis, *basis):  # twice is enough (Parlett): the basis stays orthogonal in float32
            w = w - q * dot(q, w)
        if i + 1 < rank:
            beside.append(norm(w))
            basis.append(w / torch.where(beside[i] > 0, beside[i], 1))
    coefficients = _first_column(diagonal, beside, gain).to(start.dtype)
    shape = [-1, *[1] * (start.ndim - 1)]
    return length * torch.stack([coefficients[:, i].reshape(shape) * q for i, q in enumerate(basis)]).sum(0)


def _first_column(diagonal: list[Tensor], beside: list[Tensor], gain: Gain) -> Tensor:
    """gain(T) e1, (b, rank), of the symmetric tridiagonal T, in float64."""
    middle = torch.stack([each.flatten() for each in diagonal], 1).double()
    t = torch.diag_embed(middle)
    if beside:
        side = torch.stack([each.flatten() for each in beside], 1).double()
        t = t + torch.diag_embed(side, 1) + torch.diag_embed(side, -1)
    values, vectors = torch.linalg.eigh(t)
    return (vectors * gain(values.clamp(0, 1))[:, None, :] * vectors[:, :1, :]).sum(2)


def _positive(value: Tensor) -> Tensor:
    return value.clamp(min=1e-12)
