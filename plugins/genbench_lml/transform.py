"""The update of the released code as a function, and what it is in exact arithmetic.

v is the term of the current step, p the same term one step before, both (b, ...); products run over all but the first
axis. `literal` is the arithmetic of github.com/zituitui/LML-diffusion-sampler (`lm_correct`), `closed_form` its exact
value, `tilt` that value in a strength that depends neither on the resolution nor on the length of a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    Strength: TypeAlias = float | Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of every row, (b, 1, ...): broadcasts against its arguments."""
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


def norm(a: Tensor) -> Tensor:
    """||a|| of every row, (b, 1, ...); its gradient at 0 is 0."""
    square = dot(a, a)
    return torch.where(square > 0, square, 1).sqrt() * (square > 0)


def literal(v: Tensor, p: Tensor | None, lamb: float, kappa: float) -> Tensor:
    """The released formula in the dtype of v: lambda B^-1 v at the length of v, B = lambda I + u u^T.

        u = kappa p + (1 - kappa) v,   w = v - u <u, v> / (lambda + <u, u>),   out = w ||v|| / ||w||

    By Sherman and Morrison w = lambda B^-1 v. At kappa = 0, the released default, w is a multiple of v and the exact
    result is v itself. In floating point w is what is left of v after nearly all of it was subtracted: what comes out
    is v plus rounding noise, in float32 about 3e-8 n / lambda of its length with n = <v, v>, which is 0.2 % to more
    than 100 % at the published lambda; in half precision a random direction or NaN. It depends on dtype, resolution
    and the order in which the hardware adds up.
    """
    u = v if p is None else kappa * p + (1 - kappa) * v
    w = v - u * dot(u, v) / (lamb + dot(u, u))  # from left to right: the order decides what rounding leaves
    return w * dot(v, v).sqrt() / dot(w, w).sqrt()


def closed_form(v: Tensor, p: Tensor | None, lamb: float, kappa: float) -> Tensor:
    """What `literal` is in exact arithmetic, without cancellation.

        n = <v, v>,  a = <p, v> / n,  p' = p - a v,  q = <p', p'>,  b = 1 + kappa (a - 1)
        w is parallel to v - c p' with c = kappa b n / (lambda + kappa^2 q)

    Returns v itself where kappa is 0, where there is no p, and where v is 0.
    """
    if p is None or kappa == 0:
        return v
    n, a, across = _split(v, p)
    c = kappa * (1 + kappa * (a - 1)) * n / (lamb + kappa**2 * dot(across, across))
    return _at_length(v - c * across, v)


def tilt(v: Tensor, p: Tensor | None, strength: Strength, kappa: float = 0.0) -> Tensor:
    """`closed_form` with lambda = kappa n / strength, and p brought to the length of v: free of dimension.

    c = strength b / (1 + strength kappa q / n); at kappa = 0 the limit of small kappa, c = strength: an extrapolation
    away from the previous direction that keeps the length. Returns v itself where strength is 0 or there is no p.
    """
    if p is None or (isinstance(strength, float) and strength == 0):
        return v
    length = norm(p)
    n, a, across = _split(v, p * (norm(v) / torch.where(length > 0, length, 1)))
    q = dot(across, across)
    c = strength * (1 + kappa * (a - 1)) / (1 + strength * kappa * q / torch.where(n > 0, n, 1))
    return _at_length(v - c * across, v)


def _split(v: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """n = <v, v>, a = <p, v> / n, and the part of p that is orthogonal to v."""
    n = dot(v, v)
    a = dot(p, v) / torch.where(n > 0, n, 1)
    return n, a, p - a * v


def _at_length(w: Tensor, v: Tensor) -> Tensor:
    length = norm(w)
    return w * (norm(v) / torch.where(length > 0, length, 1))
