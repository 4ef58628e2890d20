"""On a GPU: gsplat's rasterizer against the renderer in PyTorch, densification there, nerfacc's walk on its grid."""

from __future__ import annotations

from collections.abc import Callable
from math import exp

import pytest
import torch

from genbench.scenes.cameras import orbit, turntable
from genbench.scenes.densification import Densification
from genbench.scenes.field import RadianceField
from genbench.scenes.rays import Rays, march, nerfacc
from genbench.scenes.relocation import Relocation
from genbench.scenes.rendering import Growth, engine
from genbench.scenes.splats import Splats
from genbench.scenes.tiles import torch_engine
from genbench.scenes.timing import ball, seconds
from tests.scenes.clouds import cloud, off, seen, views

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize("count", [60, 2000])
def test_gsplat_agrees(count: int, degree: int) -> None:
    gaussians, cameras = cloud(count, degree), views(3)
    ours, own = seen(engine("gsplat", "cuda"), gaussians.to("cuda"), cameras)
    exact, theirs = seen(torch_engine, gaussians.to("cpu", torch.float64), cameras)
    for name in ("rgb", "alpha", "depth"):
        assert (getattr(ours, name).cpu() - getattr(exact, name)).abs().max() < 5e-3, name
    found = {name: value.cpu().double() for name, value in own.items()}
    assert max(off(found, theirs).values()) < 1e-2


@pytest.mark.parametrize("count", [10_000, 100_000, 1_000_000])
def test_gsplat_agrees_with_torch_at_size(count: int, record_property: Callable[[str, object], None]) -> None:
    """Both on the device; the report has the seconds of forward and backward."""
    gaussians, cameras = ball(count, "cuda"), views(1, 512, 512)
    ours, own = seen(engine("gsplat", "cuda"), gaussians, cameras)
    plain, theirs = seen(engine("torch", "cuda"), gaussians, cameras)
    assert (ours.rgb - plain.rgb).abs().mean() < 1e-3
    assert max(off(own, theirs).values()) < 2e-2
    spent = {name: seconds(engine(name, "cuda"), gaussians, cameras) for name in ("gsplat", "torch")}
    for name, value in spent.items():
        record_property(name, value)
    assert spent["gsplat"] < spent["torch"]


def test_auto_is_gsplat_on_a_gpu() -> None:
    gaussians, cameras = cloud(200).to("cuda"), views(1)
    drawn = [engine(name, "cuda")(gaussians, cameras, torch.ones(3)).rgb for name in ("auto", "gsplat")]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("kind", ["density", "chain"])
def test_gaussians_grow_there(kind: str) -> None:
    growth: Growth = Relocation(start=0, every=3, noise=10.0, min_opacity=0.3)
    if kind == "density":
        growth = Densification(start=0, every=3, stop=100, reset_every=5, grow_grad2d=1e-6)
    scene = Splats(cloud(300).to("cuda"), engine("gsplat", "cuda"), growth)
    optimisers = {n: torch.optim.Adam([p], lr=scene.rates[n], eps=1e-15) for n, p in scene.parameters().items()}
    for step in range(10):
        drawn = scene.render(views(2), torch.ones(3), torch.Generator())
        growth.before_backward(drawn)
        drawn.rgb.square().mean().backward()
        for optimiser in optimisers.values():
            optimiser.step()
        growth.after_step(step, scene.parameters(), dict(optimisers), drawn, torch.Generator().manual_seed(step))
        for optimiser in optimisers.values():
            optimiser.zero_grad()
    assert len(scene.gaussians) > 300
    assert scene.gaussians.means.is_cuda
    scene.gaussians.check()


def test_an_even_slab_on_nerfaccs_grid() -> None:
    grid = nerfacc().OccGridEstimator([-0.5] * 3 + [0.5] * 3, 8).cuda()
    grid.binaries.fill_(True)
    origins = torch.tensor([[0.0, 0.0, -2.0], [0.9, 0.0, -2.0]]).cuda()
    directions = torch.tensor([[0.0, 0.0, 1.0]]).repeat(2, 1).cuda()
    rays = Rays(origins, directions, torch.ones(2).cuda())

    def medium(places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full_like(places[:, 0], 2.0), torch.full_like(places, 0.5)

    colour, alpha, _ = march(rays, medium, grid, 500, torch.Generator().manual_seed(0))
    assert alpha[:, 0].tolist() == pytest.approx([1 - exp(-2), 0], abs=0.01)
    assert torch.allclose(colour[0], 0.5 * alpha[0], atol=1e-5)


def test_the_grids_walk_sees_what_the_dense_one_does() -> None:
    field = RadianceField(torch.Generator().manual_seed(0), samples=256)
    there = RadianceField(torch.Generator().manual_seed(0), "cuda", samples=256)
    there.restore({"parameters": field.state()["parameters"], "growth": field.state()["growth"]})
    cameras = turntable(3, 15.0, 2.5, 40.0, 64, 64)
    images = [each.render(cameras, torch.ones(3), torch.Generator().manual_seed(0)) for each in (field, there)]
    assert (images[0].rgb - images[1].rgb.cpu()).abs().max() < 0.03
    assert (images[0].alpha - images[1].alpha.cpu()).abs().max() < 0.03
    images[1].rgb.mean().backward()
    assert all(value.grad is not None for value in there.parameters().values())


def test_memory_of_a_million() -> None:
    gaussians = ball(1_000_000, "cuda")
    torch.cuda.reset_peak_memory_stats()
    drawn, _ = seen(engine("gsplat", "cuda"), gaussians, orbit(0.0, 0.0, 2.2, 30.0, 512, 512))
    assert drawn.rgb.isfinite().all()
    assert torch.cuda.max_memory_allocated() < 12 * 2**30
