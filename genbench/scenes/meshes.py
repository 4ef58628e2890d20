"""A scene as a coloured mesh, `.glb` or `.obj`.

The route: depth and alpha are rendered from 40 directions; every view says of each point of a grid how far it lies
before or behind the surface it sees, cut off at some distance, or that nothing is there; the mean of what they say is
0 on the surface (truncated signed distances, Curless and Levoy, SIGGRAPH 1996). Points no view sees are inside.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, pad

from genbench.errors import MissingDependency, SceneError
from genbench.files import write_whole
from genbench.scenes.cameras import Cameras, orbit
from genbench.scenes.rendering import Rendered
from genbench.scenes.surfaces import CORNERS, corner_of, surface_nets
from genbench.scenes.views import Draw, Progress

if TYPE_CHECKING:
    from types import ModuleType

ELEVATIONS, AZIMUTHS, FOVY_DEG = (-70.0, -35.0, 0.0, 35.0, 70.0), 8, 35.0
TRUNCATION = 1 / 12
"""Where distances are cut off, in radii, and at least 4 steps of the grid: some way beyond the noise of the depth."""
SOLID = 0.5
"""A pixel of less alpha sees nothing."""
ENDINGS = (".glb", ".obj")


@dataclass(frozen=True)
class Mesh:
    """Triangles in the world's frame: `vertices` (v, 3), `faces` (f, 3) outward, `colours` (v, 3) in [0, 1], sRGB."""

    vertices: Tensor
    faces: Tensor
    colours: Tensor


def mesh_of(
    draw: Draw,
    centre: Sequence[float] = (0.0, 0.0, 0.0),
    radius: float = 1.0,
    resolution: int = 128,
    progress: Progress | None = None,
) -> Mesh:
    """The mesh of what lies in the ball of `radius` around `centre`.

    `draw` draws over black; `resolution` points of the grid along each axis, pictures of twice as many pixels.
    Raises SceneError where no view sees anything of alpha 0.5.
    """
    step = 2 * radius / (resolution - 3)
    lines = [middle + step * (torch.arange(resolution) - (resolution - 1) / 2) for middle in centre]
    points = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1)
    cameras, reach = directions(centre, radius, 2 * resolution), max(TRUNCATION * radius, 4 * step)
    distance, colour = _fused(draw, points.reshape(-1, 3), cameras, reach, progress)
    distance = avg_pool3d(distance.reshape(1, *points.shape[:3]), 3, 1, 1)[0]
    beyond = (points - torch.tensor(centre)).square().sum(-1) > (radius + step / 2) ** 2
    vertices, faces = surface_nets(torch.where(beyond, 1.0, distance))
    if not len(faces):
        raise SceneError("the scene has no surface: no view sees anything of alpha 0.5")
    colours = _colours(colour.reshape(*points.shape[:3], 4), vertices)
    return Mesh(points[0, 0, 0] + step * vertices, faces, colours)


def directions(centre: Sequence[float], radius: float, size: int) -> Cameras:
    """Cameras all around that see the whole ball, every other ring turned by half a step."""
    rings = [(up, (around + 0.5 * (ring % 2)) * 360 / AZIMUTHS) for ring, up in enumerate(ELEVATIONS)
             for around in range(AZIMUTHS)]  # fmt: skip
    elevation, azimuth = torch.tensor(rings).T
    distance = 1.02 * radius / math.sin(math.radians(FOVY_DEG) / 2)
    return orbit(elevation, azimuth, distance, FOVY_DEG, size, size, centre)


def _fused(
    draw: Draw, points: Tensor, cameras: Cameras, reach: float, progress: Progress | None
) -> tuple[Tensor, Tensor]:
    """Mean distance (p,) in units of `reach`, -1 where unseen, and colour times weight with the weight, (p, 4)."""
    total, weight, colour = torch.zeros(len(points)), torch.zeros(len(points)), torch.zeros(len(points), 4)
    for index in range(len(cameras)):
        camera = cameras.rows(slice(index, index + 1))
        with torch.no_grad():
            rgb, alpha, depth, facing, along = _at(points, draw(camera), camera)
        solid = alpha >= SOLID
        distance = torch.where(solid, (depth - along) * facing / reach, 1.0).clamp(max=1)
        # What lies behind the surface counts less the deeper it lies: it may be beyond a thin wall.
        trust = (1 + distance.clamp(max=0)).clamp(min=0) * torch.where(solid, facing, 1.0)
        total += trust * distance
        weight += trust
        near = (1 - 3 * distance.abs()).clamp(min=0) * facing * solid
        colour += near[:, None] * torch.cat([rgb / alpha.clamp(min=SOLID)[:, None], torch.ones(len(points), 1)], 1)
        if progress is not None:
            progress(index + 1, len(cameras))
    return torch.where(weight > 0, total / weight.clamp(min=1e-9), -1.0), colour


def _at(points: Tensor, seen: Rendered, camera: Cameras) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of the pixel each point falls on colour (p, 3), alpha, depth and `facing`, and the point's own depth, (p,)."""
    placed = points @ camera.viewmats[0, :3, :3].T + camera.viewmats[0, :3, 3]
    along = placed[:, 2]
    pixel = (placed @ camera.Ks[0].T)[:, :2] / along[:, None]
    column = pixel[:, 0].floor().long().clamp(0, camera.width - 1)
    row = pixel[:, 1].floor().long().clamp(0, camera.height - 1)
    depth = seen.depth[0].detach().cpu()
    picture = torch.cat([seen.rgb[0].cpu(), seen.alpha[0].cpu(), depth, facing(depth, float(camera.Ks[0, 0, 0]))])
    values = picture[:, row, column]
    return values[:3].T, values[3], values[4], values[5], along


def facing(depth: Tensor, focal: float) -> Tensor:
    """The cosine between the view and the surface seen, (1, h, w) of depth; 0 at edges. It makes depth distance."""
    right = pad((depth[..., 2:] - depth[..., :-2]) / 2, (1, 1))
    down = pad((depth[:, 2:] - depth[:, :-2]) / 2, (0, 0, 1, 1))
    return (1 + (right.square() + down.square()) * (focal / depth.clamp(min=1e-6)).square()).rsqrt()


def _colours(grid: Tensor, vertices: Tensor) -> Tensor:
    """Each vertex's colour (v, 3) from the corners of its cell in (x, y, z, 4); where none has one, from farther on."""
    x, y, z = vertices.long().T
    out = torch.zeros(len(vertices), 4)
    while True:
        sums = torch.stack([corner_of(grid, corner)[x, y, z] for corner in CORNERS]).sum(0)
        out = torch.where(out[:, 3:] > 0, out, sums)
        if (out[:, 3] > 0).all() or not grid[..., 3].any():
            return (out[:, :3] / out[:, 3:].clamp(min=1e-9)).clamp(0, 1)
        grid = avg_pool3d(grid.permute(3, 0, 1, 2)[None], 3, 1, 1)[0].permute(1, 2, 3, 0)


# --- files ----------------------------------------------------------------------------------------------------------


def write_mesh(path: Path, mesh: Mesh) -> None:
    """Write `.glb` (unlit, colours linear as glTF wants them) or `.obj` (colours sRGB after each vertex), y up.

    Raises SceneError for another ending, MissingDependency without trimesh, OutputError.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise SceneError(f"{path.name}: meshes are written as {', '.join(ENDINGS)}")
    turned = mesh.vertices * torch.tensor([1.0, -1.0, -1.0])
    colours = mesh.colours if ending == ".obj" else linear(mesh.colours)
    rgba = np.concatenate([(colours * 255).round().byte().numpy(), np.full((len(colours), 1), 255, np.uint8)], 1)
    made: Any = _trimesh().Trimesh(turned.numpy(), mesh.faces.numpy(), vertex_colors=rgba, process=False)
    out = io.BytesIO()
    if ending == ".glb":
        made.export(out, file_type="glb", tree_postprocessor=_unlit)
    else:
        made.export(out, file_type="obj", header="x right, y up, z towards the viewer")
    write_whole(path, out.getvalue())


def linear(colours: Tensor) -> Tensor:
    """SRGB in [0, 1] to linear light (IEC 61966-2-1)."""
    return torch.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def _unlit(tree: dict[str, Any]) -> None:
    """The pictures' light is in the colours: no viewer is to add its own (KHR_materials_unlit)."""
    plain = {"baseColorFactor": [1.0, 1.0, 1.0, 1.0], "metallicFactor": 0.0, "roughnessFactor": 1.0}
    tree["materials"] = [{"pbrMetallicRoughness": plain, "extensions": {"KHR_materials_unlit": {}}}]
    tree.setdefault("extensionsUsed", []).append("KHR_materials_unlit")
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0


def _trimesh() -> ModuleType:
    try:
        import trimesh
    except ImportError as error:
        raise MissingDependency("a mesh needs trimesh; install it: pip install 'genbench[3d]'") from error
    return trimesh
