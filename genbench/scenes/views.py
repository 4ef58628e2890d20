"""Views of a scene as pictures: where to stand, one camera after the other, and many on one sheet."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genbench.files import write_whole
from genbench.scenes.cameras import Cameras
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.rendering import Rendered

Draw = Callable[[Cameras], Rendered]
"""A scene that is ready to be looked at: representation, engine and background are chosen."""
Progress = Callable[[int, int], None]
"""Called with how many views are drawn and how many there will be."""


def framing(gaussians: Gaussians, fovy_deg: float) -> tuple[tuple[float, ...], float]:
    """The centre (3,) of a scene and the distance from which it fits the picture; lone far Gaussians do not count."""
    means = gaussians.means.detach().cpu().numpy()
    centre = np.quantile(means, (0.005, 0.995), axis=0).mean(0)
    radius = np.quantile(np.linalg.norm(means - centre, axis=1), 0.99)
    spread = 3 * float(gaussians.scales.detach().median().exp())
    distance = 1.1 * (float(radius) + spread) / math.sin(math.radians(fovy_deg) / 2)
    return tuple(float(number) for number in centre), distance


def pictures(draw: Draw, cameras: Cameras, progress: Progress | None = None) -> Iterator[Tensor]:
    """What each camera sees, (3, h, w) in [0, 1] on the processor, drawn one at a time."""
    for index in range(len(cameras)):
        with torch.no_grad():
            seen = draw(cameras.rows(slice(index, index + 1))).rgb[0]
        yield seen.clamp(0, 1).cpu()
        if progress is not None:
            progress(index + 1, len(cameras))


def image(picture: Tensor) -> Image.Image:
    """A picture (3, h, w) in [0, 1] for PIL."""
    return Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).contiguous().numpy())


def sheet(frames: Sequence[Tensor], columns: int = 4) -> Tensor:
    """Pictures of one size in rows of `columns`, (3, h * rows, w * columns); places left over are white."""
    columns = min(columns, len(frames))
    blank = [torch.ones_like(frames[0])] * (-len(frames) % columns)
    cells = [*frames, *blank]
    return torch.cat([torch.cat(cells[start : start + columns], 2) for start in range(0, len(cells), columns)], 1)


def write_sheet(path: Path, frames: Sequence[Tensor], columns: int = 4) -> None:
    """Write `sheet` as PNG. Raises OutputError."""
    out = io.BytesIO()
    image(sheet(frames, columns)).save(out, "PNG")
    write_whole(path, out.getvalue())
