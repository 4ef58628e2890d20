"""Gaussians as a PLY file, the way 3D Gaussian Splatting (arXiv:2308.04079) writes them.

One element `vertex` of float32: x y z, nx ny nz (zeros), f_dc_0..2, f_rest_0.. (all of red, then green, then blue),
opacity (logit), scale_0..2 (logarithm), rot_0..3 (w x y z). Readers go by name: other writers leave the normals out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genbench.errors import SceneError
from genbench.files import write_whole
from genbench.scenes.gaussians import REST, Gaussians
from genbench.scenes.plytables import Tables, read_tables

MEANS, NORMALS = ("x", "y", "z"), ("nx", "ny", "nz")
SH0 = ("f_dc_0", "f_dc_1", "f_dc_2")
SCALES = ("scale_0", "scale_1", "scale_2")
QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
NEEDED = (*MEANS, *SH0, "opacity", *SCALES, *QUATS)


def read_ply(path: Path) -> Gaussians:
    """The Gaussians of a PLY: properties in any order and of any type, degree 0 to 3, with or without normals.

    Raises SceneError in one line: no PLY, truncated, a mesh, properties missing, no Gaussian, numbers that are none.
    """
    return from_tables(read_tables(path), path)


def from_tables(tables: Tables, path: Path) -> Gaussians:
    """The same from tables that are read; `path` is for the errors."""
    table = tables.get("vertex")
    names = table.dtype.names or () if table is not None else ()
    missing = [name for name in NEEDED if name not in names]
    if table is None or missing:
        raise SceneError(f"{path} holds no Gaussians: {_lacking(missing, len(NEEDED))}")
    rest = _rest_names(names, path)
    found = Gaussians(
        means=columns(table, MEANS),
        quats=columns(table, QUATS),
        scales=columns(table, SCALES),
        opacities=columns(table, ("opacity",))[:, 0],
        sh0=columns(table, SH0)[:, None],
        sh_rest=columns(table, rest).reshape(len(table), 3, len(rest) // 3).transpose(1, 2).contiguous(),
    )
    return checked(found, path)


def checked(gaussians: Gaussians, path: Path) -> Gaussians:
    """What was read, if it can be drawn; SceneError names the file."""
    try:
        gaussians.check()
    except SceneError as error:
        raise SceneError(f"{path}: {error}") from error
    return gaussians


def columns(table: NDArray[Any], names: Sequence[str]) -> Tensor:
    """Some properties as float32, (n, len(names))."""
    out = np.empty((len(table), len(names)), np.float32)
    for index, name in enumerate(names):
        out[:, index] = table[name]
    return torch.as_tensor(out)


def _lacking(missing: Sequence[str], needed: int) -> str:
    if len(missing) == needed or (set(MEANS).isdisjoint(missing) and len(missing) == needed - len(MEANS)):
        return "it is a mesh or a cloud of points; Gaussians also have f_dc_*, opacity, scale_* and rot_*"
    return f"properties are missing: {' '.join(missing)}"


def _rest_names(names: Sequence[str], path: Path) -> list[str]:
    """f_rest_0.. in the order of their numbers."""
    have = [name for name in names if name.startswith("f_rest_")]
    rest = [f"f_rest_{number}" for number in range(len(have))]
    if len(have) not in [3 * count for count in REST] or set(have) != set(rest):
        counts = ", ".join(str(3 * count) for count in REST)
        raise SceneError(f"{path} has {len(have)} properties f_rest_*; degrees 0 to 3 have {counts}")
    return rest


def write_ply(path: Path, gaussians: Gaussians, normals: bool = True) -> None:
    """Write them, at once or not at all; `normals=False` leaves nx ny nz out.

    Raises SceneError for what cannot be drawn (`Gaussians.check`), OutputError where the file cannot be written.
    """
    gaussians.check()
    write_whole(path, ply_bytes(gaussians, normals))


def ply_bytes(gaussians: Gaussians, normals: bool = True) -> bytes:
    """The file's content."""
    parts = {name: value.detach().float().cpu() for name, value in gaussians.parameters().items()}
    count, rest = len(gaussians), parts["sh_rest"].transpose(1, 2).flatten(1)
    names = [*MEANS, *(NORMALS if normals else ()), *SH0, *(f"f_rest_{n}" for n in range(rest.shape[1]))]
    blank = torch.zeros(count, 3 if normals else 0)
    opacity = parts["opacities"][:, None]
    rows = torch.cat([parts["means"], blank, parts["sh0"][:, 0], rest, opacity, parts["scales"], parts["quats"]], 1)
    lines = [f"property float {name}" for name in (*names, "opacity", *SCALES, *QUATS)]
    header = "\n".join(["ply", "format binary_little_endian 1.0", f"element vertex {count}", *lines, "end_header\n"])
    return header.encode("ascii") + rows.numpy().astype("<f4").tobytes()
