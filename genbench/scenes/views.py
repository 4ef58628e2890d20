"""Views of a scene as pictures: where to stand, one camera after the other, and many on one sheet."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genbench.files import write_whole
from genbench.scenes.cameras import Cameras, orbit
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.rendering import Rendered

Draw = Callable[[Cameras], Rendered]
"""A scene that is ready to be looked at: representation, engine and background are chosen."""
COLUMNS = 4
"""Of a sheet."""
Point = tuple[float, float, float]
Progress = Callable[[int, int], None]
"""Called with how many views are drawn and how many there will be."""


@dataclass(frozen=True)
class Stand:
    """Where the looking begins, in degrees and world units, and what it looks at."""

    elevation_deg: float = 15.0
    azimuth_deg: float = 0.0
    camera_distance: float = 3.5
    fovy_deg: float = 35.0
    centre: Point = (0.0, 0.0, 0.0)

    def around(self, count: int, size: int) -> Cameras:
        """`count` cameras once around from here, pictures of `size` pixels a side."""
        azimuth = self.azimuth_deg + torch.arange(count) * 360.0 / count
        return orbit(self.elevation_deg, azimuth, self.camera_distance, self.fovy_deg, size, size, self.centre)


def extent(gaussians: Gaussians) -> tuple[Point, float]:
    """The centre (3,) and the radius of the ball that holds a scene; lone far Gaussians do not count."""
    means = gaussians.means.detach().cpu().numpy()
    centre = np.quantile(means, (0.005, 0.995), axis=0).mean(0)
    reach = 3 * float(gaussians.scales.detach().median().exp())
    radius = float(np.quantile(np.linalg.norm(means - centre, axis=1), 0.99)) + reach
    return (float(centre[0]), float(centre[1]), float(centre[2])), 1.1 * radius


def framing(gaussians: Gaussians, elevation_deg: float = 15.0, fovy_deg: float = 35.0) -> Stand:
    """Where the whole scene is in the picture, `extent`."""
    centre, radius = extent(gaussians)
    return Stand(elevation_deg, 0.0, radius / math.sin(math.radians(fovy_deg) / 2), fovy_deg, centre)


def pictures(draw: Draw, cameras: Cameras, progress: Progress | None = None) -> Iterator[Tensor]:
    """What each camera sees, (3, h, w) in [0, 1] on the processor, drawn one at a time."""
    for index in range(len(cameras)):
        with torch.no_grad():
            seen = draw(cameras.rows(slice(index, index + 1))).rgb[0]
        yield seen.clamp(0, 1).cpu()
        if progress is not None:
            progress(index + 1, len(cameras))


def between(stand: Stand, count: int) -> Stand:
    """The same stand, half a step of `count` further round: its views lie between those that start in front."""
    return replace(stand, azimuth_deg=stand.azimuth_deg + 180.0 / count)


def image(picture: Tensor) -> Image.Image:
    """A picture (3, h, w) in [0, 1] for PIL."""
    return Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).contiguous().numpy())


def sheet(frames: Sequence[Tensor], columns: int = COLUMNS) -> Tensor:
    """Pictures of one size in rows of `columns`, (3, h * rows, w * columns); places left over are white."""
    columns = min(columns, len(frames))
    blank = [torch.ones_like(frames[0])] * (-len(frames) % columns)
    cells = [*frames, *blank]
    return torch.cat([torch.cat(cells[start : start + columns], 2) for start in range(0, len(cells), columns)], 1)


def cells(sheet: Tensor, columns: int, rows: int) -> Tensor:
    """The pictures of a full sheet (3, h * rows, w * columns) again, (rows * columns, 3, h, w)."""
    lines = sheet.unflatten(2, (columns, -1)).unflatten(1, (rows, -1))  # (3, rows, h, columns, w)
    return lines.permute(1, 3, 0, 2, 4).flatten(0, 1)


def write_sheet(path: Path, frames: Sequence[Tensor], columns: int = COLUMNS) -> None:
    """Write `sheet` as PNG. Raises OutputError."""
    out = io.BytesIO()
    image(sheet(frames, columns)).save(out, "PNG")
    write_whole(path, out.getvalue())
