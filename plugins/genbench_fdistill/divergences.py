"""The f-divergences D_f(p || q) = E_q[f(p / q)] between teacher p and student q, and what each weighs a sample with.

Their gradient by the student's weights theta is (arXiv:2502.15681, theorem 1), at x_t = alpha G(z) + sigma eps,

    grad D_f(p_t || q_t) = -E[ h(r) (s_p(x_t) - s_q(x_t))^T dx_t / dtheta ],   h(r) = r^2 f''(r),  r = p_t / q_t

so they differ from the reverse KL of DMD by one number per sample. The faster h rises, the less a student clings to the
modes it has; where h is bounded (js, sf) its variance stays small. All functions take r (b,) > 0 and return (b,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Divergence = Literal["rkl", "sf", "js", "sh", "kl", "jf", "neyman"]
"""Reverse KL (DMD2), softened reverse KL, Jensen-Shannon, squared Hellinger, forward KL, Jeffreys, Neyman chi^2."""

SMALLEST = 1e-8
"""What a ratio counts as at least, where it is divided by (the released code)."""


@dataclass(frozen=True)
class Formulas:
    """A divergence: convex f with f(1) = 0, h(r) = r^2 f''(r), and the `weight` of the update.

    The weight is h without its constant factor, which the normalisation over the batch takes away (`ratio.over_batch`).
    """

    f: Callable[[Tensor], Tensor]
    h: Callable[[Tensor], Tensor]
    weight: Callable[[Tensor], Tensor]


def rkl(r: Tensor) -> Tensor:
    """-log r."""
    return -r.log()


def rkl_h(r: Tensor) -> Tensor:
    """1, once for every sample."""
    return torch.ones_like(r)


def sf(r: Tensor) -> Tensor:
    """(r + 1) log(1/2 + 1 / (2 r))."""
    return (r + 1) * (0.5 + 0.5 / r).log()


def sf_h(r: Tensor) -> Tensor:
    """1 / (r + 1); with `js_h` it adds up to 1."""
    return 1 / (r + 1)


def js(r: Tensor) -> Tensor:
    """r log r - (r + 1) log((r + 1) / 2)."""
    return r * r.log() - (r + 1) * ((r + 1) / 2).log()


def js_h(r: Tensor) -> Tensor:
    """r / (r + 1)."""
    return r / (r + 1)


def sh(r: Tensor) -> Tensor:
    """1 - sqrt(r)."""
    return 1 - r.sqrt()


def sh_h(r: Tensor) -> Tensor:
    """sqrt(r) / 4."""
    return r.sqrt() / 4


def kl(r: Tensor) -> Tensor:
    """r log r."""
    return r * r.log()


def kl_h(r: Tensor) -> Tensor:
    """r itself, whose mean under the student is 1."""
    return r


def jf(r: Tensor) -> Tensor:
    """(r - 1) log r, the sum of both KLs."""
    return (r - 1) * r.log()


def jf_h(r: Tensor) -> Tensor:
    """r + 1."""
    return r + 1


def neyman(r: Tensor) -> Tensor:
    """(1 - r)^2 / r; in the released code, not in the paper."""
    return (1 - r).square() / r


def neyman_h(r: Tensor) -> Tensor:
    """2 / r."""
    return 2 / r


def neyman_weight(r: Tensor) -> Tensor:
    """1 / max(r, 1e-8)."""
    return 1 / r.clamp(min=SMALLEST)


DIVERGENCES: Mapping[Divergence, Formulas] = {
    "rkl": Formulas(rkl, rkl_h, rkl_h),
    "sf": Formulas(sf, sf_h, sf_h),
    "js": Formulas(js, js_h, js_h),
    "sh": Formulas(sh, sh_h, torch.sqrt),
    "kl": Formulas(kl, kl_h, kl_h),
    "jf": Formulas(jf, jf_h, jf_h),
    "neyman": Formulas(neyman, neyman_h, neyman_weight),
}
"""Table 1 of arXiv:2502.15681, and neyman of its released code."""
