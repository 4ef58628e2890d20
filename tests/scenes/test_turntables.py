"""Turntables and sheets of views: what is written plays, in order, at the right size."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from genbench.errors import MissingDependency
from genbench.scenes.cameras import Cameras
from genbench.scenes.rendering import Rendered, engine
from genbench.scenes.turntables import write_gif, write_mp4, write_turntable
from genbench.scenes.views import Stand, image, pictures, sheet
from tests.scenes import models


def draw(cameras: Cameras) -> Rendered:
    return engine("torch")(models.scene(), cameras, torch.ones(3))


def ramp(count: int, height: int = 6, width: int = 10) -> list[torch.Tensor]:
    """Grey pictures, each a little lighter than the last."""
    return [torch.full((3, height, width), index / count) for index in range(count)]


def frames_of(path: Path) -> list[np.ndarray]:
    with Image.open(path) as gif:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]


def test_a_scene_becomes_a_film_a_gif_and_a_sheet(work: Path) -> None:
    av = pytest.importorskip("av")
    told = list[tuple[int, int]]()
    paths = write_turntable(Path(), draw, size=48, frames=16, progress=lambda done, of: told.append((done, of)))
    assert [path.name for path in paths] == ["turntable.mp4", "turntable.gif", "views.png"]
    assert told == [(index, 16) for index in range(1, 17)]
    assert sorted(path.name for path in Path().iterdir()) == sorted(path.name for path in paths)

    with av.open("turntable.mp4") as film:
        stream = film.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
        assert (stream.width, stream.height, stream.pix_fmt, stream.codec.name) == (48, 48, "yuv420p", "h264")
    gif = frames_of(Path("turntable.gif"))
    assert len(frames) == len(gif) == 16
    sheet_of_views = np.asarray(Image.open("views.png")).astype(float) / 255
    assert sheet_of_views.shape == (96, 192, 3)
    want = list(pictures(draw, Stand().around(16, 48)))
    for index in (0, 2, 6):  # in front, from the right, from the left
        picture = want[index].permute(1, 2, 0).numpy()
        row, column = divmod(index // 2, 4)
        assert np.abs(frames[index] / 255 - picture).mean() < 0.02
        assert np.abs(gif[index] / 255 - picture).mean() < 0.02
        cell = sheet_of_views[48 * row : 48 * row + 48, 48 * column : 48 * column + 48]
        assert np.abs(cell - picture).max() < 0.003


def test_red_is_on_the_right_in_front_and_on_the_left_behind() -> None:
    front, back = pictures(draw, Stand().around(2, 48))
    for picture, side in ((front, slice(24, 48)), (back, slice(0, 24))):
        red = (picture[0] > 0.7) & (picture[1:].amax(0) < 0.4)
        assert red[:, side].sum() == red.sum() > 10


def test_odd_sides_are_made_even(work: Path) -> None:
    av = pytest.importorskip("av")
    write_mp4(Path("odd.mp4"), ramp(3, 7, 11), 10)
    with av.open("odd.mp4") as film:
        assert (film.streams.video[0].width, film.streams.video[0].height) == (12, 8)
        assert film.streams.video[0].average_rate == 10
        greys = [frame.to_ndarray(format="gray").mean() for frame in film.decode(video=0)]
    assert greys == sorted(greys)


def test_the_same_film_has_the_same_bytes(work: Path) -> None:
    pytest.importorskip("av")
    for name in ("a.mp4", "b.mp4"):
        write_mp4(Path(name), ramp(5), 10)
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()


def test_a_gif_takes_its_time(work: Path) -> None:
    write_gif(Path("a.gif"), ramp(4), 20)
    with Image.open("a.gif") as gif:
        assert (gif.info["duration"], gif.info["loop"]) == (50, 0)


def test_a_sheet_is_filled_up_with_white() -> None:
    out = sheet([torch.zeros(3, 2, 2)] * 3, 2)
    assert out.shape == (3, 4, 4) and out[:, 2:, 2:].min() == 1 and out[:, :2].max() == 0
    assert sheet([torch.zeros(3, 2, 2)], 4).shape == (3, 2, 2)
    assert image(torch.full((3, 1, 2), 0.5)).getpixel((1, 0)) == (128, 128, 128)


def test_without_pyav_nothing_is_drawn(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependency, match="PyAV; install it: pip install 'genbench\\[3d\\]'"):
        write_turntable(Path(), lambda cameras: pytest.fail("drawn"))
    assert not list(Path().iterdir())


def test_the_views_on_the_sheet_are_among_the_frames() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        write_turntable(Path(), draw, frames=20)
