"""Where the cameras of an iteration stand and what lies behind the scene: laws a training draws from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genbench.errors import UsageError
from genbench.scenes.cameras import CameraLaw, Cameras, orbit

Backdrop = Literal["random", "white", "black", "grey"]
GREYS, TINT = (0.74, 0.84), 0.04
"""The lightness of grey backdrops, and how far each colour may lie from it."""


@dataclass(frozen=True)
class Stops:
    """Cameras at given azimuths, each somewhere within `jitter_deg`; otherwise as the law says."""

    law: CameraLaw
    azimuths: tuple[float, ...]
    jitter_deg: float

    def draw(self, count: int, width: int, height: int, generator: torch.Generator) -> Cameras:
        """`count` cameras, one stop after the other from a random one on, so that a batch looks around."""
        drawn = self.law.draw(count, width, height, generator)
        first = int(torch.randint(len(self.azimuths), (1,), generator=generator))
        stops = torch.tensor([self.azimuths[(first + i) % len(self.azimuths)] for i in range(count)])
        jitter = self.jitter_deg * (2 * torch.rand(count, generator=generator) - 1)
        return orbit(drawn.elevation_deg, stops + jitter, drawn.camera_distance, drawn.fovy_deg, width, height)


def law_of(
    elevation_deg: Sequence[float],
    azimuth_deg: Sequence[float],
    camera_distance: Sequence[float],
    fovy_deg: Sequence[float],
    stops: Sequence[float] = (),
    jitter_deg: float = 0.0,
) -> CameraLaw | Stops:
    """The law of a training. Raises UsageError where a range is none."""
    ranges = {
        "elevation_deg": elevation_deg,
        "azimuth_deg": azimuth_deg,
        "camera_distance": camera_distance,
        "fovy_deg": fovy_deg,
    }
    for name, span in ranges.items():
        if span[0] > span[1]:
            raise UsageError(f"{name}={span[0]:g},{span[1]:g} is no range; give the smaller number first")
    if camera_distance[0] <= 0 or not 0 < fovy_deg[0] <= fovy_deg[1] < 180 or max(map(abs, elevation_deg)) >= 90:
        raise UsageError("camera_distance is above 0, fovy_deg between 0 and 180, elevation_deg between -90 and 90")
    law = CameraLaw(*((float(span[0]), float(span[1])) for span in ranges.values()))
    return Stops(law, tuple(stops), jitter_deg) if stops else law


def backdrops(kind: Backdrop, count: int, generator: torch.Generator) -> Tensor:
    """A colour in [0, 1] behind each of `count` pictures, (count, 3). `grey` is a light one, hardly tinted."""
    if kind in ("white", "black"):
        return torch.full((count, 3), float(kind == "white"))
    if kind == "random":
        return torch.rand(count, 3, generator=generator)
    light = GREYS[0] + (GREYS[1] - GREYS[0]) * torch.rand(count, 1, generator=generator)
    return light + TINT * (2 * torch.rand(count, 3, generator=generator) - 1)


def backdrop(kind: Backdrop) -> Tensor:
    """The colour behind finished pictures, (3,): the middle of what is drawn; white where any colour may be."""
    level = {"random": 1.0, "white": 1.0, "black": 0.0, "grey": sum(GREYS) / 2}[kind]
    return torch.full((3,), level)
