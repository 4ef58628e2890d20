"""Gaussians fitted to pictures whose formula is known, while they split, double and vanish."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genbench.scenes.cameras import Cameras, turntable
from genbench.scenes.densification import Densification
from genbench.scenes.field import RadianceField
from genbench.scenes.rays import rays_of
from genbench.scenes.relocation import Relocation
from genbench.scenes.rendering import Growth, Representation, engine
from genbench.scenes.splats import Splats
from genbench.scenes.starts import sphere

pytestmark = pytest.mark.slow
RADIUS, WHITE = 0.4, torch.ones(3)


def pictures(cameras: Cameras) -> Tensor:
    """A ball whose colour is its normal, over white, with soft edges; (c, 3, h, w)."""
    total = torch.zeros(len(cameras), cameras.height, cameras.width, 3)
    for dx in (-0.25, 0.25):
        for dy in (-0.25, 0.25):
            total += _sharp(cameras, dx, dy) / 4
    return total.permute(0, 3, 1, 2)


def _sharp(cameras: Cameras, dx: float, dy: float) -> Tensor:
    shift = torch.tensor([[0.0, 0, dx], [0, 0, dy], [0, 0, 0]])
    moved = Cameras(**{**vars(cameras), "Ks": cameras.Ks + shift})
    rays = rays_of(moved, "cpu")
    along = (rays.origins * rays.directions).sum(1)
    inside = along**2 - (rays.origins**2).sum(1) + RADIUS**2
    normal = (rays.origins + (-along - inside.clamp(min=0).sqrt())[:, None] * rays.directions) / RADIUS
    colour = torch.where(inside[:, None] > 0, 0.5 + 0.5 * normal, 1.0)
    return colour.view(len(cameras), cameras.height, cameras.width, 3)


def psnr(scene: Representation, cameras: Cameras) -> float:
    with torch.no_grad():
        drawn = scene.render(cameras, WHITE, torch.Generator().manual_seed(0)).rgb
    return -10 * math.log10(float((drawn - pictures(cameras)).square().mean()))


def fit(scene: Representation, steps: int, size: int = 64) -> None:
    cameras = turntable(8, 15.0, 3.0, 30.0, size, size)
    targets = pictures(cameras)
    optimisers = {n: torch.optim.Adam([p], lr=scene.rates[n], eps=1e-15) for n, p in scene.parameters().items()}
    for step in range(steps):
        draw = torch.Generator().manual_seed(step)
        views = torch.randperm(8, generator=draw)[:2]
        drawn = scene.render(cameras.rows(views), WHITE, draw)
        assert scene.growth is not None
        scene.growth.before_backward(drawn)
        (drawn.rgb - targets[views]).square().mean().backward()
        for optimiser in optimisers.values():
            optimiser.step()
        scene.growth.after_step(step, scene.parameters(), dict(optimisers), drawn, draw)
        for optimiser in optimisers.values():
            optimiser.zero_grad()


@pytest.mark.parametrize("kind", ["density", "chain"])
@pytest.mark.parametrize("name", ["torch", "numba"])
def test_500_gaussians(name: str, kind: str) -> None:
    if name == "numba":
        pytest.importorskip("numba", reason="numba is an extra")
    growth: Growth = Relocation(start=50, every=50, stop=250, noise=1e3, most=700)
    if kind == "density":
        growth = Densification(start=50, every=50, stop=250, reset_every=0, grow_grad2d=1e-4, prune_scale3d=1.0)
    scene = Splats(sphere(500, RADIUS, torch.Generator().manual_seed(0)), engine(name), growth)
    fit(scene, 300)
    assert len(scene.gaussians) != 500
    seen, unseen = (turntable(count, 15.0, 3.0, 30.0, 64, 64) for count in (8, 5))
    assert psnr(scene, seen) > 25
    assert psnr(scene, unseen) > 25


def test_a_field() -> None:
    scene = RadianceField(torch.Generator().manual_seed(0), radius=0.6)
    fit(scene, 200, 48)
    assert psnr(scene, turntable(5, 15.0, 3.0, 30.0, 48, 48)) > 25
