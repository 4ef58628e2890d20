"""Cameras: where they stand, what they look at, and the law they are drawn by."""

from __future__ import annotations

from math import sin

import pytest
import torch

from genbench.scenes.cameras import CameraLaw, Cameras, front_side_back, orbit, radius_of, turntable


def pixels(cameras: Cameras, place: tuple[float, float, float]) -> torch.Tensor:
    """Where a place of the world lies on each picture, and its depth, (c, 3)."""
    seen = cameras.viewmats @ torch.tensor([*place, 1.0])
    flat = (cameras.Ks @ seen[:, :3, None])[..., 0]
    return torch.cat([flat[:, :2] / flat[:, 2:], seen[:, 2:3]], 1)


def test_they_look_at_the_centre() -> None:
    cameras = orbit(torch.tensor([-20.0, 0.0, 50.0]), torch.tensor([0.0, 130.0, -70.0]), 3.0, 40.0, 20, 12)
    assert torch.allclose(pixels(cameras, (0, 0, 0)), torch.tensor([10.0, 6.0, 3.0]), atol=1e-4)
    turn = cameras.viewmats[:, :3, :3]
    assert torch.allclose(turn @ turn.transpose(1, 2), torch.eye(3).expand(3, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(turn), torch.ones(3), atol=1e-5)
    moved = orbit(0.0, 0.0, 3.0, 40.0, 20, 12, centre=(1.0, 2.0, 3.0))
    assert torch.allclose(pixels(moved, (1, 2, 3)), torch.tensor([10.0, 6.0, 3.0]), atol=1e-4)


def test_front_right_and_above() -> None:
    front, right, above = (orbit(e, a, 2.0, 40.0, 10, 10).centres[0] for e, a in ((0, 0), (0, 90), (90 - 1e-3, 0)))
    assert torch.allclose(front, torch.tensor([0.0, 0.0, -2.0]), atol=1e-5)
    assert torch.allclose(right, torch.tensor([2.0, 0.0, 0.0]), atol=1e-5)
    assert torch.allclose(above, torch.tensor([0.0, -2.0, 0.0]), atol=1e-3)
    seen = pixels(orbit(0.0, 0.0, 2.0, 40.0, 10, 10), (0.1, -0.2, 0.0))[0]
    assert seen[0] > 5 and seen[1] < 5  # x to the right, up is -y


def test_the_field_of_view() -> None:
    cameras = orbit(0.0, 0.0, 3.0, 40.0, 30, 20)
    radius = radius_of(3.0, 40.0)
    assert radius == pytest.approx(3 * sin(0.3490658))
    edge = 3 * torch.tan(torch.deg2rad(torch.tensor(20.0)))
    assert float(pixels(cameras, (0, -float(edge), 0))[0, 1]) == pytest.approx(0, abs=1e-4)


def test_a_turntable() -> None:
    cameras = turntable(8, 15.0, 3.0, 40.0, 16, 16)
    assert cameras.azimuth_deg.tolist() == [45.0 * i for i in range(8)]
    some = cameras.rows([1, 5])
    assert len(some) == 2 and some.width == 16
    assert torch.equal(some.viewmats, cameras.viewmats[[1, 5]])


def test_the_law() -> None:
    law = CameraLaw((-10, 45), (-180, 180), (3.5, 5), (18, 35))
    cameras = law.draw(4, 16, 16, torch.Generator().manual_seed(0))
    for name, (low, high) in vars(law).items():
        value = getattr(cameras, name)
        assert bool((value >= low).all() and (value <= high).all()), name
    quarters = ((cameras.azimuth_deg + 180) // 90).tolist()
    assert quarters == [0, 1, 2, 3]
    again = law.draw(4, 16, 16, torch.Generator().manual_seed(0))
    assert torch.equal(cameras.viewmats, again.viewmats)


@pytest.mark.parametrize(
    ("azimuth", "expected"),
    [
        (0, (1, 0, 0)),
        (45, (0.5, 0.5, 0)),
        (-90, (0, 1, 0)),
        (135, (0, 0.5, 0.5)),
        (180, (0, 0, 1)),
        (315, (0.5, 0.5, 0)),
    ],
)
def test_words_for_views(azimuth: float, expected: tuple[float, float, float]) -> None:
    assert front_side_back(azimuth) == pytest.approx(expected)
