"""Meshes: closed surfaces of known size out of grids, a ball out of its Gaussians, files as others read them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from genbench.errors import SceneError
from genbench.scenes.cameras import Cameras
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.meshes import Mesh, facing, linear, mesh_of, write_mesh
from genbench.scenes.rendering import Rendered, engine
from genbench.scenes.surfaces import surface_nets
from genbench.scenes.views import Draw, extent
from tests.scenes import models


def drawing(scene: Gaussians) -> Draw:
    def draw(cameras: Cameras) -> Rendered:
        return engine("torch")(scene, cameras, torch.zeros(3))

    return draw


def grid(size: int) -> torch.Tensor:
    line = torch.linspace(-1, 1, size)
    return torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)


def volume(vertices: torch.Tensor, faces: torch.Tensor) -> float:
    """What the triangles enclose; above 0 where they turn counter-clockwise seen from outside."""
    a, b, c = vertices[faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def is_closed(faces: torch.Tensor) -> bool:
    """Whether every edge is walked as often one way as the other."""
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    ways = {tuple(edge): 0 for edge in edges.tolist()}
    for edge in edges.tolist():
        ways[tuple(edge)] += 1
    return all(ways.get((b, a), 0) == count for (a, b), count in ways.items())


def test_a_ball_of_numbers_becomes_a_ball() -> None:
    vertices, faces = surface_nets(grid(32).norm(dim=-1) - 0.7)
    vertices = vertices * 2 / 31 - 1
    assert is_closed(faces)
    assert (vertices.norm(dim=1) - 0.7).abs().max() < 0.01
    assert volume(vertices, faces) == pytest.approx(4 / 3 * torch.pi * 0.7**3, rel=0.01)


def test_two_boxes_and_a_hole_are_closed() -> None:
    points = grid(24)
    boxes = torch.minimum((points - 0.45).abs().amax(-1) - 0.3, (points + 0.45).abs().amax(-1) - 0.3)
    hollow = torch.maximum(boxes, 0.15 - (points - 0.45).abs().amax(-1))
    vertices, faces = surface_nets(hollow)
    assert is_closed(faces)
    assert volume(vertices * 2 / 23 - 1, faces) == pytest.approx(2 * 0.6**3 - 0.3**3, rel=0.1)


def test_nothing_inside_gives_no_triangles() -> None:
    vertices, faces = surface_nets(torch.ones(4, 4, 4))
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)


@pytest.fixture(scope="module")
def ball() -> Mesh:
    scene = models.sphere(1500, radius=0.5)
    scene.means[:] += torch.tensor([0.3, -0.2, 0.1])
    centre, radius = extent(scene)
    return mesh_of(drawing(scene), centre, radius, resolution=40)


def test_a_ball_of_gaussians_becomes_a_closed_ball_of_its_size_and_place(ball: Mesh) -> None:
    far = (ball.vertices - torch.tensor([0.3, -0.2, 0.1])).norm(dim=1)
    assert is_closed(ball.faces)
    # Its outermost Gaussians reach a deviation, 0.03, beyond their centres.
    assert 0.49 < far.mean() < 0.53 and far.std() < 0.005
    assert volume(ball.vertices, ball.faces) == pytest.approx(4 / 3 * torch.pi * float(far.mean()) ** 3, rel=0.02)


def test_it_is_smooth(ball: Mesh) -> None:
    a, b, c = (ball.vertices - torch.tensor([0.3, -0.2, 0.1]))[ball.faces].unbind(1)
    off = torch.cosine_similarity(torch.linalg.cross(b - a, c - a), a + b + c).clamp(-1, 1).acos()
    assert torch.rad2deg(off).mean() < 5


def test_a_surface_faces_the_view_by_the_cosine_of_its_tilt() -> None:
    # A plane z = 2 + x: the ray of pixel column u meets it at depth 2 / (1 - u / f).
    focal = 100.0
    depth = (2 / (1 - torch.arange(-20, 21) / focal)).expand(1, 5, 41)
    assert facing(depth, focal)[0, 2, 20] == pytest.approx(0.5**0.5, abs=1e-3)
    assert torch.allclose(facing(torch.full((1, 5, 5), 3.0), focal), torch.ones(1))


def test_its_upper_half_is_dark(ball: Mesh) -> None:
    up, down = ball.vertices[:, 1] < -0.3, ball.vertices[:, 1] > -0.1
    yellow = torch.tensor(models.YELLOW)
    assert (ball.colours[down].mean(0) - yellow).abs().max() < 0.05
    assert (ball.colours[up].mean(0) - 0.55 * yellow).abs().max() < 0.05
    assert ball.colours.min() >= 0 and ball.colours.max() <= 1


def test_progress_is_told() -> None:
    told = list[int]()
    mesh_of(drawing(models.sphere(100)), radius=0.6, resolution=12, progress=lambda done, of: told.append(of - done))
    assert told == list(range(39, -1, -1))


def test_a_scene_too_thin_to_see_has_no_mesh() -> None:
    fog = models.of(torch.randn(50, 3) * 0.1, torch.ones(50, 3), 0.02, opacity=0.01)
    with pytest.raises(SceneError, match="no surface: no view sees anything of alpha 0.5"):
        mesh_of(drawing(fog), resolution=12)


# --- files --------------------------------------------------------------------------------------------------------

WEDGE = Mesh(
    vertices=torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]]),
    faces=torch.tensor([[0, 1, 3], [0, 3, 2], [0, 2, 1], [1, 2, 3]]),
    colours=torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]),
)
TURNED = [[0, 1, 0], [1, 0, 0], [0, 0, -2], [0, 0, 0]]
"""Its vertices with y up."""


def test_a_glb_is_unlit_upright_and_of_linear_colours(work: Path) -> None:
    pytest.importorskip("trimesh")
    write_mesh(Path("wedge.glb"), WEDGE)
    data = Path("wedge.glb").read_bytes()
    magic, version, length, size, kind = struct.unpack("<4sIIII", data[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), 0x4E4F534A)
    tree = json.loads(data[20 : 20 + size])
    primitive = tree["meshes"][0]["primitives"][0]
    assert tree["extensionsUsed"] == ["KHR_materials_unlit"]
    assert "KHR_materials_unlit" in tree["materials"][primitive["material"]]["extensions"]
    position = tree["accessors"][primitive["attributes"]["POSITION"]]
    assert (position["min"], position["max"]) == ([0, 0, -2], [1, 1, 0])
    view = tree["bufferViews"][tree["accessors"][primitive["attributes"]["COLOR_0"]]["bufferView"]]
    start = 28 + size + view.get("byteOffset", 0)
    assert list(data[start : start + 8]) == [255, 0, 0, 255, 55, 55, 55, 255]


@pytest.mark.parametrize("ending", ["glb", "obj"])
def test_another_program_reads_the_mesh(work: Path, ending: str) -> None:
    trimesh = pytest.importorskip("trimesh")
    write_mesh(Path(f"wedge.{ending}"), WEDGE)
    read = trimesh.load(f"wedge.{ending}", force="mesh", process=False)
    order = np.abs(read.vertices[None] - np.array(TURNED)[:, None]).sum(-1).argmin(1)
    assert np.allclose(read.vertices[order], TURNED) and len(read.faces) == 4
    assert read.is_watertight and read.volume == pytest.approx(volume(WEDGE.vertices, WEDGE.faces))
    if ending == "obj":
        assert read.visual.vertex_colors[order][1].tolist() == [128, 128, 128, 255]


def test_other_endings_are_refused(work: Path) -> None:
    with pytest.raises(SceneError, match="written as .glb, .obj"):
        write_mesh(Path("wedge.stl"), WEDGE)


def test_linear_light_is_that_of_srgb() -> None:
    assert linear(torch.tensor([0.0, 0.04, 0.5, 1.0])).tolist() == pytest.approx([0, 0.003096, 0.214041, 1], abs=1e-6)
