"""Products of the diffusion Hessian with vectors, through the run's own denoiser: one counted call each."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from genbench.errors import UsageError
from genbench.kinds import Denoise, Prediction
from genbench_lml.transform import norm

REACH = {torch.float64: 1e-6, torch.float32: 1e-2}
"""Length of a difference, relative to x: rounding and curvature of the network err about alike. Half precision: 0.1."""


def hessian_product(denoise: Denoise, told: Prediction, how: Literal["difference", "forward"], v: Tensor) -> Tensor:
    """A v = alpha (dD/dx) v at the point of `told`, for rows v (b, ...) of unit length; with guidance, D is guided.

    Raises UsageError where the network has no forward-mode derivative.
    """
    product = _difference(denoise, told, v) if how == "difference" else _forward(denoise, told, v)
    return told.level.alpha * product


def _difference(denoise: Denoise, told: Prediction, v: Tensor) -> Tensor:
    x = told.x.to(v.dtype)
    reach = REACH.get(told.x.dtype, 0.1) * norm(x)
    moved = (x + reach * v).to(told.x.dtype)
    there = denoise(moved, told.level)
    return (there.x0.to(v.dtype) - told.x0.to(v.dtype)) / reach


def _forward(denoise: Denoise, told: Prediction, v: Tensor) -> Tensor:
    def x0(x: Tensor) -> Tensor:
        return denoise(x, told.level).x0

    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no forward mode
        try:
            tangent: Tensor = torch.func.jvp(x0, (told.x.contiguous(),), (v.to(told.x.dtype).contiguous(),))[1]
        except (NotImplementedError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:120]
            raise UsageError(f"lml.products=forward fails on this model ({reason}); use difference") from error
    return tangent.to(v.dtype)
