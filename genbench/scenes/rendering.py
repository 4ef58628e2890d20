"""One interface for every renderer: `render(gaussians, cameras) -> Rendered`, and which engine answers it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from genbench.scenes.cameras import Cameras
from genbench.scenes.gaussians import Gaussians


@dataclass(frozen=True)
class Rendered:
    """What cameras see. c cameras, n Gaussians.

    `rgb` (c, 3, h, w) over the background, `alpha` (c, 1, h, w) in [0, 1), `depth` (c, 1, h, w) the expected distance
    along the camera's axis, 0 where nothing is. `means2d` (c, n, 2) in pixels keeps its gradient for densification,
    `radii` (c, n, 2) in pixels per axis is 0 for what is not seen; both None for what has no Gaussians.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    means2d: Tensor | None = None
    radii: Tensor | None = None


Engine = Callable[[Gaussians, Cameras, Tensor], Rendered]
"""(gaussians, cameras, background (3,) or (c, 3) in [0, 1]) -> Rendered; differentiable in Gaussians and background."""
