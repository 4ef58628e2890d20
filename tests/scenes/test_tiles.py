"""The tiled renderer in PyTorch: against every pixel of every Gaussian, finite differences and closed forms."""

from __future__ import annotations

from dataclasses import replace
from math import exp, pi, sqrt

import pytest
import torch

from genbench.scenes.cameras import orbit
from genbench.scenes.gaussians import SH_C0, Gaussians
from genbench.scenes.tiles import torch_engine
from tests.scenes.clouds import cloud, off, seen, views
from tests.scenes.dense import dense_engine

BLACK = torch.zeros(3)


def single(opacity: float, colour: tuple[float, float, float], z: float = 0.0, deviation: float = 0.05) -> Gaussians:
    return Gaussians(
        torch.tensor([[0.0, 0.0, z]]),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        torch.full((1, 3), deviation).log(),
        torch.tensor([opacity]).logit(),
        (torch.tensor([[colour]]) - 0.5) / SH_C0,
        torch.zeros(1, 0, 3),
    )


def joined(*clouds: Gaussians) -> Gaussians:
    return Gaussians.of({name: torch.cat([c.parameters()[name] for c in clouds]) for name in clouds[0].parameters()})


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("count", [1, 40, 700])
def test_it_is_the_dense_sum(count: int, degree: int) -> None:
    gaussians, cameras = cloud(count, degree, dtype=torch.float64), views(3)
    ours, own = seen(torch_engine, gaussians, cameras)
    plain, theirs = seen(dense_engine, gaussians, cameras)
    for name in ("rgb", "alpha", "depth"):
        assert torch.allclose(getattr(ours, name), getattr(plain, name), atol=1e-9, rtol=1e-9), name
    assert max(off(own, theirs).values()) < 1e-9


def test_single_precision_is_enough() -> None:
    gaussians, cameras = cloud(700, 3), views(2)
    ours, own = seen(torch_engine, gaussians, cameras)
    exact, theirs = seen(torch_engine, gaussians.to("cpu", torch.float64), cameras)
    assert (ours.rgb - exact.rgb).abs().max() < 1e-4
    assert max(off({name: value.double() for name, value in own.items()}, theirs).values()) < 1e-3


def test_gradients_are_finite_differences() -> None:
    gaussians, cameras = cloud(6, size=0.3, dtype=torch.float64), views(1, 8, 8)
    names = list(gaussians.parameters())

    def drawn(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = torch_engine(Gaussians.of(dict(zip(names, values, strict=True))), cameras, torch.ones(3))
        return out.rgb, out.alpha, out.depth

    inputs = tuple(value.requires_grad_() for value in gaussians.parameters().values())
    assert torch.autograd.gradcheck(drawn, inputs, eps=1e-7, atol=1e-6)


def test_a_round_gaussian_on_the_axis() -> None:
    cameras = orbit(0.0, 0.0, 2.0, 40.0, 65, 65)
    alpha = torch_engine(single(0.8, (1, 1, 1)), cameras, BLACK).alpha[0, 0]
    variance = (0.05 * float(cameras.Ks[0, 0, 0]) / 2.0) ** 2 + 0.3
    assert alpha[32, 32] == pytest.approx(0.8, abs=1e-5)
    assert alpha[32, 35] == pytest.approx(0.8 * exp(-9 / (2 * variance)), abs=1e-4)
    half = (alpha[32] >= 0.4).sum()
    assert float(half) == pytest.approx(2.355 * sqrt(variance), abs=1.0)
    # What lies below 1/255 is not drawn: of a Gaussian's volume, 1/(255 o).
    assert float(alpha.sum()) == pytest.approx(2 * pi * variance * (0.8 - 1 / 255), rel=0.01)


@pytest.mark.parametrize("front", ["red", "blue"])
def test_two_gaussians_one_behind_the_other(front: str) -> None:
    near, far = (-0.2, 0.2) if front == "red" else (0.2, -0.2)
    both = joined(single(0.6, (1, 0, 0), near), single(0.7, (0, 0, 1), far))
    cameras = orbit(0.0, 0.0, 2.0, 40.0, 33, 33)
    drawn = torch_engine(both, cameras, torch.tensor([0.0, 1.0, 0.0]))
    red, blue = (0.6, 0.4 * 0.7) if front == "red" else (0.3 * 0.6, 0.7)
    assert drawn.rgb[0, :, 16, 16].tolist() == pytest.approx([red, 0.4 * 0.3, blue], abs=1e-5)
    depth = (red * (2 + near) + blue * (2 + far)) / (red + blue)
    assert float(drawn.depth[0, 0, 16, 16]) == pytest.approx(depth, abs=1e-4)


def test_a_pixel_ends_when_nothing_more_shines_through() -> None:
    walls = [single(0.95, (1, 0, 0), 0.01 * i, 0.3) for i in range(4)]
    cameras = orbit(0.0, 0.0, 2.0, 40.0, 9, 9)
    alpha = torch_engine(joined(*walls), cameras, BLACK).alpha[0, 0, 4, 4]
    assert float(alpha) == pytest.approx(1 - 0.05**3, abs=1e-5)  # the fourth would leave 6e-6


def test_each_camera_has_its_background() -> None:
    drawn = torch_engine(single(0.5, (1, 0, 0)), views(2, 20, 12), torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]))
    assert drawn.rgb[:, :, 0, 0].tolist() == [[0, 0, 1], [1, 1, 0]]
    assert drawn.rgb.shape == (2, 3, 12, 20)


def test_nothing_in_view() -> None:
    behind = replace(single(0.5, (1, 0, 0)), means=torch.tensor([[0.0, 0.0, -50.0]]))
    drawn, gradients = seen(torch_engine, behind, orbit(0.0, 0.0, 2.0, 40.0, 16, 16))
    assert not drawn.alpha.any() and not drawn.depth.any()
    assert drawn.radii is not None and not drawn.radii.any()
    assert all(not value.any() for value in gradients.values())
