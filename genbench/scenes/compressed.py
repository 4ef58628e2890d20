"""Gaussians as a compressed PLY (PlayCanvas, SuperSplat): 16 bytes each, and one per coefficient of the harmonics.

Element `chunk`: least and greatest position, log scale and colour of 256 Gaussians. Element `vertex`: position and
scale as 11-10-11 bits and colour and opacity as 8-8-8-8 bits between these, rotation as the number of its largest
part (2 bits) and the other three (10 bits each). Element `sh`: bytes f_rest_0.., (v / 8 + 0.5) * 256.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genbench.errors import MissingDependency, SceneError
from genbench.files import write_whole
from genbench.scenes.gaussians import REST, SH_C0, Gaussians
from genbench.scenes.ply import checked, columns
from genbench.scenes.plytables import Tables, read_tables
from genbench.scenes.splat import unit_quats

CHUNK = 256
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
FAINT = 1 / 255
"""Gaussians of this opacity or less are left out, as no renderer shows them."""


def write_compressed(path: Path, gaussians: Gaussians) -> None:
    """Write them with gsplat's exporter, without those that are too faint to see.

    Raises SceneError for what cannot be drawn, MissingDependency without gsplat, OutputError.
    """
    gaussians.check()
    write_whole(path, compressed_bytes(gaussians))


def compressed_bytes(gaussians: Gaussians) -> bytes:
    """The file's content. Raises SceneError where every Gaussian is too faint."""
    try:
        from gsplat.exporter import export_splats  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise MissingDependency("a compressed PLY needs gsplat; install it: pip install 'genbench[3d]'") from error
    shown = gaussians.detach().to("cpu")
    shown = shown.rows(shown.opacities.sigmoid() > FAINT)
    if not len(shown):
        raise SceneError(f"none of {len(gaussians)} Gaussians has an opacity above 1/255")
    data = export_splats(
        means=shown.means,
        scales=shown.scales,
        quats=unit_quats(shown.quats),
        opacities=shown.opacities,
        sh0=shown.sh0,
        shN=shown.sh_rest,
        format="ply_compressed",
    )
    return data if shown.degree else data.replace(f"element sh {len(shown)}\n".encode(), b"", 1)


def is_compressed(tables: Tables) -> bool:
    """Whether these are the tables of a compressed PLY."""
    return "chunk" in tables and "vertex" in tables and "packed_position" in (tables["vertex"].dtype.names or ())


def read_compressed(path: Path) -> Gaussians:
    """The Gaussians of a compressed PLY. Raises SceneError where it is none or is truncated."""
    tables = read_tables(path)
    if not is_compressed(tables):
        raise SceneError(f"{path} is no compressed PLY: it lacks the elements chunk and vertex with packed_position")
    return from_tables(tables, path)


def from_tables(tables: Tables, path: Path) -> Gaussians:
    """The same from tables that are read; `path` is for the errors."""
    chunk, vertex = tables["chunk"], tables["vertex"]
    _check(chunk, vertex, path)
    position, rotation, scale, colour = (torch.as_tensor(vertex[name].astype(np.int64)) for name in PACKED)
    rgba = _fields(colour, (24, 8), (16, 8), (8, 8), (0, 8))
    rgb = rgba[:, :3]
    if "min_r" in (chunk.dtype.names or ()):
        rgb = _between(chunk, ("r", "g", "b"), rgb)
    found = Gaussians(
        means=_between(chunk, ("x", "y", "z"), _fields(position, (21, 11), (11, 10), (0, 11))),
        quats=_quats(rotation),
        scales=_between(chunk, ("scale_x", "scale_y", "scale_z"), _fields(scale, (21, 11), (11, 10), (0, 11))),
        opacities=rgba[:, 3].clamp(0.5 / 255, 254.5 / 255).logit(),
        sh0=((rgb - 0.5) / SH_C0)[:, None],
        sh_rest=_rest(tables, path),
    )
    return checked(found, path)


def _check(chunk: NDArray[Any], vertex: NDArray[Any], path: Path) -> None:
    ends = [f"{end}_{name}" for end in ("min", "max") for name in ("x", "y", "z", "scale_x", "scale_y", "scale_z")]
    missing = [name for name in ends if name not in (chunk.dtype.names or ())]
    missing += [name for name in PACKED if name not in (vertex.dtype.names or ())]
    if missing:
        raise SceneError(f"{path} is a broken compressed PLY: properties are missing: {' '.join(missing)}")
    if len(chunk) * CHUNK < len(vertex):
        raise SceneError(f"{path} is a broken compressed PLY: {len(chunk)} chunks for {len(vertex)} Gaussians")


def _fields(packed: Tensor, *parts: tuple[int, int]) -> Tensor:
    """Bits (shift, width) of packed numbers (n,) as fractions of their range, (n, len(parts))."""
    return torch.stack([((packed >> shift) & (2**width - 1)) / (2**width - 1) for shift, width in parts], 1)


def _between(chunk: NDArray[Any], names: tuple[str, ...], fraction: Tensor) -> Tensor:
    """Numbers (n, 3) at fractions of the way from the least to the greatest of their chunk."""
    own = torch.arange(len(fraction)) // CHUNK
    low, high = (columns(chunk, [f"{end}_{name}" for name in names])[own] for end in ("min", "max"))
    return low + (high - low) * fraction


def _quats(packed: Tensor) -> Tensor:
    """Unit quaternions (n, 4): the largest part follows from the other three."""
    three = (_fields(packed, (20, 10), (10, 10), (0, 10)) - 0.5) * 2**0.5
    largest = (1 - three.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
    orders = torch.tensor([[0, 1, 2, 3], [1, 0, 2, 3], [1, 2, 0, 3], [1, 2, 3, 0]])
    return torch.cat([largest, three], 1).gather(1, orders[packed >> 30])


def _rest(tables: Tables, path: Path) -> Tensor:
    """Coefficients (n, K, 3) out of bytes, each read as the middle of its step; the outermost are -4 and 4."""
    count, table = len(tables["vertex"]), tables.get("sh")
    names = table.dtype.names or () if table is not None else ()
    if table is None or not names:
        return torch.zeros(count, 0, 3)
    if len(names) not in [3 * rest for rest in REST] or len(table) != count:
        raise SceneError(f"{path} is a broken compressed PLY: {len(names)} harmonics for {len(table)} Gaussians")
    raw = columns(table, [f"f_rest_{number}" for number in range(len(names))])
    fraction = torch.where(raw == 0, 0.0, torch.where(raw == 255, 1.0, (raw + 0.5) / 256))
    return ((fraction - 0.5) * 8).reshape(count, 3, len(names) // 3).transpose(1, 2).contiguous()
