"""What keeps a scene plain where the prior says nothing: penalties on renderings, each a mean."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from genbench.scenes.rendering import Rendered


def disparity(rendered: Rendered) -> Tensor:
    """Nearness (c, 1, h, w) in [0, 1]: 1 at what is nearest to its camera, 0 at what is farthest and where nothing is.

    The inverse of the depth, stretched over what is seen.
    """
    seen = rendered.alpha.detach() > 0.1
    near = 1 / rendered.depth.clamp(min=1e-3)
    inside = near.detach()
    low = inside.where(seen, inside.new_tensor(float("inf"))).amin((1, 2, 3), keepdim=True)
    high = inside.where(seen, inside.new_zeros(())).amax((1, 2, 3), keepdim=True)
    return ((near - low) / (high - low).clamp(min=1e-6)).clamp(0, 1) * seen


def total_variation(pictures: Tensor) -> Tensor:
    """Mean squared difference to the right and down of (c, k, h, w)."""
    right, down = pictures.diff(dim=-1), pictures.diff(dim=-2)
    return right.square().mean() + down.square().mean()


def sparsity(alpha: Tensor) -> Tensor:
    """mean sqrt(alpha^2 + 0.01): less of the picture covered (threestudio)."""
    return (alpha.square() + 0.01).sqrt().mean()


def opaqueness(alpha: Tensor) -> Tensor:
    """Binary entropy of alpha, kept inside [1e-3, 1 - 1e-3]: covered or not, nothing between (threestudio)."""
    inside = alpha.clamp(1e-3, 1 - 1e-3)
    return binary_cross_entropy(inside, inside)
