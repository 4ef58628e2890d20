"""Pure update formulas of diffusion sampling: conversions between predictions, and one-step solvers with inverses.

Everything here is a function of tensors. A noise level is a pair (alpha, sigma) with `x = alpha * x0 + sigma * eps`;
variance-preserving levels have alpha^2 + sigma^2 = 1, variance-exploding ones alpha = 1, rectified flow
alpha + sigma = 1. Shapes: x and predictions `(b, ...)`, levels broadcast against them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    Scalar: TypeAlias = Tensor | float


def eps_to_x0(eps: Tensor, x: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
    """x0 = (x - sigma eps) / alpha."""
    return (x - sigma * eps) / alpha


def x0_to_eps(x0: Tensor, x: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
    """eps = (x - alpha x0) / sigma; undefined at sigma = 0."""
    return (x - alpha * x0) / sigma


def v_to_x0(v: Tensor, x: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
    """x0 from v = (alpha eps - sigma x0) / s, s = sqrt(alpha^2 + sigma^2) (Salimans and Ho, arXiv:2202.00512, D)."""
    square = alpha**2 + sigma**2
    return (alpha * x - sigma * square**0.5 * v) / square


def v_to_eps(v: Tensor, x: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
    """eps = (sigma x + alpha s v) / s^2, s = sqrt(alpha^2 + sigma^2)."""
    square = alpha**2 + sigma**2
    return (sigma * x + alpha * square**0.5 * v) / square


def x0_to_v(x0: Tensor, x: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
    """v = (alpha x / s - s x0) / sigma with s = sqrt(alpha^2 + sigma^2); undefined at sigma = 0."""
    s = (alpha**2 + sigma**2) ** 0.5
    return (alpha * x / s - s * x0) / sigma


def eps_to_v(eps: Tensor, x: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
    """v = (s eps - sigma x / s) / alpha with s = sqrt(alpha^2 + sigma^2); undefined at alpha = 0."""
    s = (alpha**2 + sigma**2) ** 0.5
    return (s * eps - sigma * x / s) / alpha


def flow_to_x0(u: Tensor, x: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
    """x0 from the velocity u = eps - x0 (rectified flow, arXiv:2209.03003): x0 = (x - sigma u) / (alpha + sigma)."""
    return (x - sigma * u) / (alpha + sigma)


def flow_to_eps(u: Tensor, x: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
    """eps = (x + alpha u) / (alpha + sigma)."""
    return (x + alpha * u) / (alpha + sigma)


def x0_to_flow(x0: Tensor, x: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
    """u = (x - (alpha + sigma) x0) / sigma; undefined at sigma = 0."""
    return (x - (alpha + sigma) * x0) / sigma


def eps_to_flow(eps: Tensor, x: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
    """u = ((alpha + sigma) eps - x) / alpha; undefined at alpha = 0."""
    return ((alpha + sigma) * eps - x) / alpha


def x0_to_score(x0: Tensor, x: Tensor, alpha: Scalar, sigma: Scalar) -> Tensor:
    """grad log p(x) = (alpha x0 - x) / sigma^2 (Tweedie)."""
    return (alpha * x0 - x) / sigma**2


def ddim(x: Tensor, eps: Tensor, alpha: Scalar, sigma: Scalar, alpha_to: Scalar, sigma_to: Scalar) -> Tensor:
    """Move x along the DDIM ODE between two levels with noise eps (arXiv:2010.02502, eq. 12, eta = 0).

    The same formula with the levels swapped inverts the step; with alpha = 1 it is Euler's, with alpha + sigma = 1
    the flow Euler step.
    """
    return alpha_to * ((x - sigma * eps) / alpha) + sigma_to * eps


def flow_euler(x: Tensor, u: Tensor, sigma: Scalar, sigma_to: Scalar) -> Tensor:
    """x + (sigma_to - sigma) u: the Euler step of rectified flow, its own inverse with the levels swapped."""
    return x + (sigma_to - sigma) * u


def renoise(x: Tensor, noise: Tensor, alpha: Scalar, sigma: Scalar, alpha_to: Scalar, sigma_to: Scalar) -> Tensor:
    """Add noise to go from one level to a noisier one with the exact marginal: keeps `x0` and the law of x.

    `(alpha_to/alpha) x + sqrt(sigma_to^2 - (alpha_to sigma / alpha)^2) noise`; for VP, VE and rectified flow alike.
    """
    ratio = alpha_to / alpha
    variance = sigma_to**2 - (ratio * sigma) ** 2
    return ratio * x + (variance**0.5) * noise
