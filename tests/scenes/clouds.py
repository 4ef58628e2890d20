"""Random scenes and what a loss finds in them."""

from __future__ import annotations

import torch
from torch import Tensor

from genbench.scenes.cameras import Cameras, orbit
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.rendering import Engine, Rendered


def cloud(
    count: int, degree: int = 0, size: float = 0.08, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Gaussians:
    """Gaussians of all shapes and opacities in a ball of radius 0.5 around the origin."""
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    means = torch.nn.functional.normalize(normal(count, 3), dim=1)
    means = means * 0.5 * torch.rand(count, 1, generator=draw, dtype=torch.float64) ** (1 / 3)
    scales = torch.log(torch.tensor(size)) + 0.5 * normal(count, 3)
    rest = 0.3 * normal(count, (degree + 1) ** 2 - 1, 3)
    return Gaussians(means, normal(count, 4), scales, 2 * normal(count), normal(count, 1, 3), rest).to("cpu", dtype)


def views(count: int = 2, width: int = 40, height: int = 28) -> Cameras:
    """Cameras around the ball, at several heights."""
    around = torch.arange(count) * 70.0
    return orbit(10.0 + 10 * torch.arange(count), around, 2.2, 30.0, width, height)


def seen(engine: Engine, gaussians: Gaussians, cameras: Cameras, seed: int = 0) -> tuple[Rendered, dict[str, Tensor]]:
    """A rendering, and gradients of a random linear function of rgb, alpha and depth, by parameter and `means2d`."""
    own = {name: value.clone().requires_grad_() for name, value in gaussians.parameters().items()}
    rendered = engine(Gaussians.of(own), cameras, torch.tensor([0.2, 0.5, 0.9]))
    assert rendered.means2d is not None
    rendered.means2d.retain_grad()
    draw = torch.Generator().manual_seed(seed)
    parts = (rendered.rgb, rendered.alpha, rendered.depth)
    sum((torch.randn(part.shape, generator=draw).to(part) * part).mean() for part in parts).backward()  # type: ignore[union-attr]
    gradients = {name: value.grad for name, value in own.items() if value.grad is not None}
    assert rendered.means2d.grad is not None
    return rendered, gradients | {"means2d": rendered.means2d.grad}


def off(gradients: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, float]:
    """How far gradients lie from others, relative to their length."""
    return {
        name: float((gradients[name] - value).norm() / value.norm().clamp(min=1e-12))
        for name, value in reference.items()
    }
