"""`genbench view`: a scene of Gaussians in the browser, by viser, or as another kind of file."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from genbench import options
from genbench.errors import MissingDependency, SceneError, UsageError, did_you_mean
from genbench.scenes import files, meshes, turntables, viewer, views
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.rendering import engine
from genbench.scenes.splat import unit_quats

if TYPE_CHECKING:
    from viser import ViserServer

HELP = """\
genbench view SCENE [port=8080] [host=127.0.0.1]
genbench view SCENE save=FILE

  SCENE   a PLY of Gaussians, plain or compressed, a .splat, or the folder of a run
  port=   of the address that shows it; the next free one if it is taken
  host=   0.0.0.0 shows it to other machines, too
  save=   write it as another kind of file, by its ending, and start nothing:
          .ply .compressed.ply .splat .html .mp4 .gif .png .glb .obj
"""
WORDS = ("port", "host", "save")


def main(args: Sequence[str]) -> int:
    """Run `genbench view`; returns the exit code. Raises SceneError for a bad file before anything starts."""
    flags, rest = options.split_flags(args, ("--help", "-h"))
    names = [word for word in rest if Path(word).exists() or "=" not in word]
    if flags or not names:
        sys.stdout.write(HELP)
        return 0 if flags else 2
    words = options.parse_words([word for word in rest if word not in names])
    unknown = [word for word in words if word not in WORDS]
    if unknown:
        raise UsageError(f"view has no '{unknown[0]}='{did_you_mean(unknown[0], WORDS)}")
    if len(names) > 1:
        raise UsageError(f"view takes one scene; '{names[1]}' is too much")
    return _shown(_file(Path(names[0])), words)


def _file(path: Path) -> Path:
    return path / "scene.ply" if path.is_dir() else path


def _shown(path: Path, words: Mapping[str, str]) -> int:
    if "save" in words:
        target = Path(words["save"])
        save(target, files.read_gaussians(path), path.stem)
        sys.stdout.write(f"{target}\n")
        return 0
    port = options.coerce(words.get("port", "8080"), int, "port")
    if not 0 < port < 65536:
        raise UsageError(f"port={port} is none; ports are 1 to 65535")
    scene = files.read_gaussians(path)
    server = serve(scene, port, words.get("host", "127.0.0.1"))
    address = f"http://{server.get_host()}:{server.get_port()}"
    sys.stdout.write(f"{address} shows {path}: {len(scene):,} Gaussians; Ctrl-C stops\n")
    sys.stdout.flush()
    try:
        server.sleep_forever()
    except KeyboardInterrupt:
        with contextlib.redirect_stdout(io.StringIO()):
            server.stop()
    return 0


def serve(gaussians: Gaussians, port: int, host: str = "127.0.0.1") -> ViserServer:
    """Start a viser server that shows them; colours of degree 0. Raises MissingDependency, UsageError."""
    try:
        from viser import ViserServer, transforms
    except ImportError as error:
        text = "view needs viser; install it: pip install 'genbench[viser]'; or write a page: save=viewer.html"
        raise MissingDependency(text) from error
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its address in a box
            server = ViserServer(host=host, port=port, verbose=False)
    except OSError as error:
        raise UsageError(f"nothing can be served at {host}:{port}: {error.strerror or error}") from error
    shown = gaussians.detach().to("cpu")
    turn: Any = transforms.SO3(unit_quats(shown.quats).numpy().astype(float)).as_matrix()
    spread = turn * shown.scales.exp().numpy()[:, None]
    server.gui.configure_theme(show_logo=False, show_share_button=False)
    server.scene.set_up_direction("-y")
    _stand(server, views.framing(shown))
    server.scene.add_gaussian_splats(
        "/scene",
        centers=shown.means.numpy(),
        covariances=spread @ spread.transpose(0, 2, 1),
        rgbs=shown.colours.clamp(max=1).numpy(),
        opacities=shown.opacities.sigmoid()[:, None].numpy(),
    )
    return server


def _stand(server: ViserServer, stand: views.Stand) -> None:
    """In front of the whole scene."""
    begin = server.initial_camera
    begin.position = stand.around(1, 1).centres[0].double().numpy()
    begin.look_at = stand.centre
    begin.fov = float(torch.deg2rad(torch.tensor(stand.fovy_deg)))


# --- other files ------------------------------------------------------------------------------------------------------


def save(path: Path, gaussians: Gaussians, title: str = "") -> None:
    """Write a scene by the ending of the path. Raises SceneError for one that is not known, OutputError."""
    ending = next((each for each in SAVERS if path.name.lower().endswith(each)), None)
    if ending is None:
        raise SceneError(f"{path.name}: scenes are written as {' '.join(SAVERS)}")
    SAVERS[ending](path, gaussians, title)


def _gaussians(path: Path, gaussians: Gaussians, title: str) -> None:
    files.save_gaussians(path, gaussians)


def _page(path: Path, gaussians: Gaussians, title: str) -> None:
    viewer.write_viewer(path, gaussians, title)


def _mesh(path: Path, gaussians: Gaussians, title: str) -> None:
    centre, radius = views.extent(gaussians)
    meshes.write_mesh(path, meshes.mesh_of(_draw(gaussians, 0.0), centre, radius, progress=_count))


def _turning(write: Callable[[Path, Sequence[torch.Tensor], int], None]) -> Saver:
    def save(path: Path, gaussians: Gaussians, title: str) -> None:
        cameras = views.framing(gaussians).around(turntables.FRAMES, turntables.SIZE)
        write(path, list(views.pictures(_draw(gaussians, 1.0), cameras, _count)), turntables.FPS)

    return save


def _sheet(path: Path, gaussians: Gaussians, title: str) -> None:
    cameras = views.framing(gaussians).around(turntables.VIEWS, turntables.SIZE)
    views.write_sheet(path, list(views.pictures(_draw(gaussians, 1.0), cameras)))


def _draw(gaussians: Gaussians, grey: float) -> views.Draw:
    """Over a background of one grey, on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    render, scene, background = engine("auto", device), gaussians.to(device), torch.full((3,), grey, device=device)
    return lambda cameras: render(scene, cameras, background)


def _count(done: int, of: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done} of {of} views" + ("\r\033[K" if done == of else ""))
        sys.stderr.flush()


Saver = Callable[[Path, Gaussians, str], None]
SAVERS: Mapping[str, Saver] = {
    **dict.fromkeys((".compressed.ply", ".ply", ".splat"), _gaussians),
    ".html": _page,
    ".mp4": _turning(turntables.write_mp4),
    ".gif": _turning(turntables.write_gif),
    ".png": _sheet,
    **dict.fromkeys(meshes.ENDINGS, _mesh),
}
"""By the end of the file's name, the longer first."""
