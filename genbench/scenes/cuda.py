"""The renderer on a GPU: gsplat's CUDA rasterizer (arXiv:2409.06765)."""

# pyright: basic
# gsplat is not typed; the signatures of this module are.

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from genbench.errors import MissingDependency, UsageError
from genbench.scenes.cameras import Cameras
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.projection import EPS2D, NEAR
from genbench.scenes.rendering import Engine, Rendered


def gsplat_engine(device: torch.device | str) -> Engine:
    """Its `Engine`. Raises UsageError without a CUDA device, MissingDependency without a gsplat built for it."""
    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        raise UsageError(f"engine=gsplat draws on a CUDA device, not on {device}; engine=torch needs none")
    try:
        import gsplat
        from gsplat.cuda import _backend
    except ImportError:
        raise MissingDependency("engine=gsplat needs gsplat; install it: pip install 'genbench[3d]'") from None
    if _backend._C is None:
        raise MissingDependency(
            "gsplat has no CUDA code here: install CUDA's toolkit, with which it compiles itself, or a wheel for "
            f"torch {torch.__version__} from https://docs.gsplat.studio/whl"
        )
    return _Gsplat(gsplat.rasterization)


class _Gsplat:
    def __init__(self, rasterization: Any) -> None:
        self.rasterization = rasterization

    def __call__(self, gaussians: Gaussians, cameras: Cameras, background: Tensor) -> Rendered:
        image, alpha, info = self.rasterization(
            gaussians.means,
            gaussians.quats,
            gaussians.scales.exp(),
            gaussians.opacities.sigmoid(),
            gaussians.sh,
            cameras.viewmats.to(gaussians.means),
            cameras.Ks.to(gaussians.means),
            cameras.width,
            cameras.height,
            near_plane=NEAR,
            eps2d=EPS2D,
            sh_degree=gaussians.degree,
            packed=False,  # means2d and radii for every Gaussian, as the other engines have them
            render_mode="RGB+ED",
        )
        image, alpha = image.permute(0, 3, 1, 2), alpha.permute(0, 3, 1, 2)
        over = background.to(image).expand(len(image), 3)[..., None, None]
        rgb = image[:, :3] + (1 - alpha) * over
        return Rendered(rgb, alpha, image[:, 3:], cast(Tensor, info["means2d"]), cast(Tensor, info["radii"]))
