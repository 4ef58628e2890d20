"""`genbench view`: what it refuses before anything starts, what it writes, what viser is given."""

from __future__ import annotations

import socket
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genbench import cli, viewing
from genbench.errors import MissingDependency, SceneError, UsageError
from genbench.scenes import meshes, turntables
from genbench.scenes.files import read_gaussians, save_gaussians
from tests.scenes import models


@pytest.fixture
def scene(work: Path) -> Path:
    save_gaussians(Path("scene.ply"), models.scene())
    return Path("scene.ply")


def test_a_bad_file_is_told_in_one_line(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.ply").write_bytes(b"ply\nformat ascii 1.0\nelement vertex 5\nproperty float x\nend_header\n")
    assert cli.main(["view", "bad.ply"]) == SceneError.exit_code
    told = capsys.readouterr().err
    assert told == "genbench: bad.ply is truncated: 0 of 5 rows of 'vertex' are there\n"


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["absent.ply"], SceneError, "absent.ply cannot be read: No such file"),
        (["empty"], SceneError, "empty/scene.ply cannot be read"),
        (["scene.ply", "ports=1"], UsageError, "view has no 'ports='; did you mean 'port'?"),
        (["scene.ply", "port=high"], UsageError, "port"),
        (["scene.ply", "port=70000"], UsageError, "ports are 1 to 65535"),
        (["scene.ply", "scene.ply"], UsageError, "view takes one scene"),
        (["scene.ply", "save=scene.stl"], SceneError, "scenes are written as .compressed.ply .ply .splat .html"),
    ],
)
def test_what_cannot_be_shown_is_refused(scene: Path, words: list[str], error: type[Exception], message: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(error) as told:
        viewing.main(words)
    assert message in str(told.value)


def test_without_viser_the_install_command_is_told_after_the_file_is_read(
    scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(MissingDependency, match=r"pip install 'genbench\[viser\]'; or write a page: save=viewer.html"):
        viewing.main(["scene.ply"])
    with pytest.raises(SceneError, match="cannot be read"):
        viewing.main(["absent.ply"])


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert viewing.main(["--help"]) == 0 and viewing.main([]) == 2
    assert capsys.readouterr().out.count("genbench view SCENE") == 4


@pytest.mark.parametrize("ending", [".ply", ".compressed.ply", ".splat"])
def test_it_writes_other_files_of_gaussians(scene: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert viewing.main(["scene.ply", f"save=out{ending}"]) == 0
    assert len(read_gaussians(Path(f"out{ending}"))) == len(models.scene())
    assert capsys.readouterr().out == f"out{ending}\n"


def test_it_writes_pages_films_sheets_and_meshes(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("av", "trimesh"):
        pytest.importorskip(name)
    monkeypatch.setattr(turntables, "SIZE", 24)
    monkeypatch.setattr(turntables, "FRAMES", 4)
    monkeypatch.setattr(meshes.mesh_of, "__defaults__", ((0.0, 0.0, 0.0), 1.0, 16, None))
    Path("run").mkdir()
    save_gaussians(Path("run/scene.ply"), models.sphere(60))
    for name in ("out.html", "out.mp4", "out.GIF", "out.png", "out.glb"):
        assert viewing.main(["run", f"save={name}"]) == 0 and Path(name).stat().st_size > 300
    with Image.open("out.png") as sheet:
        assert sheet.size == (96, 48)


@pytest.mark.sockets
def test_viser_shows_every_gaussian(scene: Path) -> None:
    pytest.importorskip("viser")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gaussians = models.scene()
    gaussians.quats[0] = 0
    server = viewing.serve(gaussians, port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.get_port()}", timeout=30) as page:
            assert page.status == 200 and b"<html" in page.read().lower()
        begin = server.initial_camera
        assert begin.position[2] < begin.look_at[2] and begin.position[1] < begin.look_at[1]  # in front, a little above
    finally:
        server.stop()


@pytest.mark.sockets
def test_the_address_is_told_and_ctrl_c_ends_it(
    scene: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    viser = pytest.importorskip("viser")

    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(viser.ViserServer, "sleep_forever", interrupted)
    assert viewing.main(["scene.ply", "port=18437"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("http://127.0.0.1:184") and told.endswith(" shows scene.ply: 872 Gaussians; Ctrl-C stops\n")


def test_covariances_are_those_of_the_renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    viser = pytest.importorskip("viser")
    torch_impl = pytest.importorskip("gsplat.cuda._torch_impl")
    given = dict[str, np.ndarray]()

    class Server:
        def __init__(self, **words: object) -> None:
            self.scene = self.gui = self.initial_camera = self

        def configure_theme(self, **words: bool) -> None:
            assert not any(words.values())

        def set_up_direction(self, direction: str) -> None:
            assert direction == "-y"

        def add_gaussian_splats(self, name: str, **parts: np.ndarray) -> None:
            given.update(parts)

    monkeypatch.setattr(viser, "ViserServer", Server)
    gaussians = models.scene()
    rng = torch.Generator().manual_seed(0)
    gaussians.quats[:] = torch.randn(gaussians.quats.shape, generator=rng)
    gaussians.scales[:] = torch.randn(gaussians.scales.shape, generator=rng)
    viewing.serve(gaussians, 1)
    want, _ = torch_impl._quat_scale_to_covar_preci(gaussians.quats, gaussians.scales.exp(), True, False, False)
    assert np.allclose(given["covariances"], want.numpy(), rtol=1e-4, atol=1e-4)
    assert given["rgbs"].shape == (872, 3) and given["opacities"].shape == (872, 1)
