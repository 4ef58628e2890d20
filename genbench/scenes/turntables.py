"""A scene that turns once around: `turntable.mp4`, `turntable.gif` and `views.png`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import pad

from genbench.errors import MissingDependency
from genbench.files import write_whole
from genbench.scenes.views import Draw, Progress, Stand, image, pictures, write_sheet

if TYPE_CHECKING:
    from types import ModuleType

SIZE, FRAMES, FPS = 256, 80, 20
"""Pixels a side, pictures once around, pictures a second: four seconds."""
VIEWS = 8
"""Azimuths on `views.png`, 45 degrees apart, in two rows from the front."""


def write_turntable(
    folder: Path,
    draw: Draw,
    stand: Stand | None = None,
    size: int = SIZE,
    frames: int = FRAMES,
    fps: int = FPS,
    progress: Progress | None = None,
) -> list[Path]:
    """Draw `frames` (a multiple of 8) views around the scene and write the three files; their paths.

    Raises MissingDependency without PyAV, before anything is drawn, and OutputError where a file cannot be written.
    """
    if frames < VIEWS or frames % VIEWS:
        raise ValueError(f"frames must be a multiple of {VIEWS}, not {frames}")
    _av()
    seen = list(pictures(draw, (stand or Stand()).around(frames, size), progress))
    paths = [folder / name for name in ("turntable.mp4", "turntable.gif", "views.png")]
    write_mp4(paths[0], seen, fps)
    write_gif(paths[1], seen, fps)
    write_sheet(paths[2], seen[:: frames // VIEWS])
    return paths


def write_mp4(path: Path, frames: Sequence[Tensor], fps: int) -> None:
    """Write pictures (3, h, w) in [0, 1] as H.264 that every player shows: yuv420p, even sides (the last row repeated).

    Raises MissingDependency without PyAV, OutputError.
    """
    av, out = _av(), io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=Fraction(fps), options={"crf": "18"})
        _, height, width = frames[0].shape
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        stream.thread_count = 1  # the same bytes on every machine
        for frame in frames:
            even = pad(frame[None], (0, width % 2, 0, height % 2), mode="replicate")[0]
            file.mux(stream.encode(av.VideoFrame.from_image(image(even))))
        file.mux(stream.encode())
    write_whole(path, out.getvalue())


def write_gif(path: Path, frames: Sequence[Tensor], fps: int) -> None:
    """Write pictures (3, h, w) in [0, 1] as a GIF that repeats for ever. Raises OutputError."""
    first, *more = (image(frame) for frame in frames)
    out = io.BytesIO()
    first.save(out, "GIF", save_all=True, append_images=more, duration=round(1000 / fps), loop=0)
    write_whole(path, out.getvalue())


def _av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise MissingDependency("turntable.mp4 needs PyAV; install it: pip install 'genbench[3d]'") from error
    return av
