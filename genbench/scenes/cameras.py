"""Pinhole cameras that look at a scene: poses, turntables, and the law by which a training draws them.

OpenCV frames: x to the right, y down, z forward; a `viewmat` takes the world into the camera. The world's up is -y.
Azimuth 0 stands in front of the scene and looks along +z; growing azimuths move the camera to its own right, growing
elevations up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True)
class Cameras:
    """c cameras of one size. `viewmats` (c, 4, 4), `Ks` (c, 3, 3) in pixels; where they stand, each (c,)."""

    viewmats: Tensor
    Ks: Tensor
    elevation_deg: Tensor
    azimuth_deg: Tensor
    camera_distance: Tensor
    fovy_deg: Tensor
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.viewmats)

    def rows(self, index: Sequence[int] | slice | Tensor) -> Cameras:
        """Some of them."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("width", "height")}
        return replace(self, **{name: value[index] for name, value in own.items()})

    @property
    def centres(self) -> Tensor:
        """Where the cameras stand in the world, (c, 3)."""
        turn, shift = self.viewmats[:, :3, :3], self.viewmats[:, :3, 3:]
        return -(turn.transpose(1, 2) @ shift)[..., 0]


def orbit(
    elevation_deg: Tensor | float,
    azimuth_deg: Tensor | float,
    camera_distance: Tensor | float,
    fovy_deg: Tensor | float,
    width: int,
    height: int,
    centre: Sequence[float] = (0.0, 0.0, 0.0),
) -> Cameras:
    """Cameras around `centre`, looking at it; numbers or tensors (c,), degrees and world units."""
    numbers = (elevation_deg, azimuth_deg, camera_distance, fovy_deg)
    each = (torch.as_tensor(number, dtype=torch.float32).reshape(-1) for number in numbers)
    elevation, azimuth, distance, fovy = torch.broadcast_tensors(*each)
    up, around = torch.deg2rad(elevation), torch.deg2rad(azimuth)
    away = torch.stack([around.sin() * up.cos(), -up.sin(), -around.cos() * up.cos()], 1)
    eye = torch.tensor(centre) + distance[:, None] * away
    return Cameras(_viewmats(eye, -away), _Ks(fovy, width, height), elevation, azimuth, distance, fovy, width, height)


def _viewmats(eye: Tensor, forward: Tensor) -> Tensor:
    """World to camera (c, 4, 4), the picture's y along the world's; straight up or down has no such y."""
    down = torch.tensor([0.0, 1.0, 0.0]).expand_as(forward)
    right = normalize(torch.linalg.cross(down, forward), dim=1)
    turn = torch.stack([right, torch.linalg.cross(forward, right), forward], 1)
    out = torch.eye(4).repeat(len(eye), 1, 1)
    out[:, :3, :3] = turn
    out[:, :3, 3] = -(turn @ eye[..., None])[..., 0]
    return out


def _Ks(fovy_deg: Tensor, width: int, height: int) -> Tensor:
    focal = height / (2 * torch.tan(torch.deg2rad(fovy_deg) / 2))
    out = torch.zeros(len(fovy_deg), 3, 3)
    out[:, 0, 0] = out[:, 1, 1] = focal
    out[:, 0, 2], out[:, 1, 2], out[:, 2, 2] = width / 2, height / 2, 1.0
    return out


def turntable(
    count: int, elevation_deg: float, camera_distance: float, fovy_deg: float, width: int, height: int
) -> Cameras:
    """`count` cameras once around, the first in front."""
    return orbit(elevation_deg, torch.arange(count) * 360.0 / count, camera_distance, fovy_deg, width, height)


@dataclass(frozen=True)
class CameraLaw:
    """Where a training's cameras stand: each number uniform in its range, degrees and world units."""

    elevation_deg: tuple[float, float] = (0.0, 30.0)
    azimuth_deg: tuple[float, float] = (-180.0, 180.0)
    camera_distance: tuple[float, float] = (3.5, 3.5)
    fovy_deg: tuple[float, float] = (35.0, 35.0)

    def draw(self, count: int, width: int, height: int, generator: torch.Generator) -> Cameras:
        """`count` cameras; azimuths one in each of `count` equal parts of the range, so that a batch looks around."""
        azimuth = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        low, high = self.azimuth_deg
        own = [_uniform(span, count, generator) for span in (self.elevation_deg, self.camera_distance, self.fovy_deg)]
        return orbit(own[0], low + (high - low) * azimuth, own[1], own[2], width, height)


def _uniform(span: tuple[float, float], count: int, generator: torch.Generator) -> Tensor:
    return span[0] + (span[1] - span[0]) * torch.rand(count, generator=generator)


def front_side_back(azimuth_deg: float) -> tuple[float, float, float]:
    """How much of the words for front, side and back a view takes, summing to 1 (arXiv:2311.11284's blend)."""
    turned = abs((azimuth_deg + 180) % 360 - 180)
    if turned <= 90:
        return 1 - turned / 90, turned / 90, 0.0
    return 0.0, 2 - turned / 90, turned / 90 - 1


def radius_of(camera_distance: float, fovy_deg: float) -> float:
    """The radius of the ball around the centre that just fills the picture."""
    return camera_distance * math.sin(math.radians(fovy_deg) / 2)
