"""Gaussians as the cameras see them: centres, inverse covariances and colours on the picture (arXiv:2312.02121).

The mathematics is gsplat's own, by those of its functions that need no CUDA.
"""

# pyright: basic
# gsplat is not typed; the signatures of this module are.

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from genbench.errors import MissingDependency
from genbench.scenes.cameras import Cameras
from genbench.scenes.gaussians import SH_C0, Gaussians

EPS2D = 0.3
"""Variance in pixels^2 that every projected Gaussian gains, so that none is thinner than a pixel."""
NEAR = 0.01
"""Depth below which nothing is drawn."""


@dataclass(frozen=True)
class Projected:
    """c cameras, n Gaussians, all (c, n, ...): `means2d` (2) in pixels, `conics` (3) the inverse covariance's xx, xy
    and yy, `colours` (3) at least 0, `opacities` in (0, 1), `depths` along the camera's axis, `radii` (2) in whole
    pixels, 0 for what is not seen.
    """

    means2d: Tensor
    conics: Tensor
    colours: Tensor
    opacities: Tensor
    depths: Tensor
    radii: Tensor


def project(gaussians: Gaussians, cameras: Cameras) -> Projected:
    """Project onto every camera; differentiable. Raises MissingDependency without gsplat."""
    own = gsplat_functions()
    views, Ks = (table.to(gaussians.means) for table in (cameras.viewmats, cameras.Ks))
    covars, _ = own._quat_scale_to_covar_preci(gaussians.quats, gaussians.scales.exp(), compute_preci=False)
    radii, means2d, depths, conics, _ = own._fully_fused_projection(
        gaussians.means, covars, views, Ks, cameras.width, cameras.height, EPS2D, NEAR
    )
    opacities = gaussians.opacities.sigmoid().expand(len(cameras), -1)
    return Projected(means2d, conics, colours(gaussians, cameras), opacities, depths, radii)


def colours(gaussians: Gaussians, cameras: Cameras) -> Tensor:
    """Colours towards each camera, (c, n, 3), at least 0."""
    if gaussians.degree == 0:
        return (0.5 + SH_C0 * gaussians.sh0[:, 0]).clamp(min=0).expand(len(cameras), -1, -1)
    away = gaussians.means - cameras.centres.to(gaussians.means)[:, None]
    coefficients = gaussians.sh.expand(len(cameras), -1, -1, -1)
    return (gsplat_functions()._spherical_harmonics(gaussians.degree, away, coefficients) + 0.5).clamp(min=0)


def gsplat_functions() -> ModuleType:
    """gsplat's functions that need no CUDA. Raises MissingDependency without gsplat."""
    try:
        from gsplat.cuda import _torch_impl
    except ImportError:
        raise MissingDependency("scenes need gsplat; install it: pip install 'genbench[3d]'") from None
    return _torch_impl


def extents(projected: Projected, smallest: float) -> Tensor:
    """Half the sides (c, n, 2), in pixels, of the box outside which a Gaussian's alpha is below `smallest`."""
    with torch.no_grad():
        a, b, c = projected.conics.double().unbind(-1)  # what is left of ac - bb in a thin one
        wide = torch.stack([c, a], -1) / (a * c - b * b).clamp(min=0)[..., None]
        bound = 2 * torch.log(projected.opacities / smallest).clamp(min=0)
        sides = (bound[..., None] * wide).sqrt().to(projected.conics)
        return torch.minimum(sides, projected.radii.to(sides)) * (projected.opacities >= smallest)[..., None]
