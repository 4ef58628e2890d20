"""The surface where numbers on a grid change sign, as triangles: surface nets (Gibson, MICCAI 1998).

One vertex in each cell the surface runs through, at the mean of the points where it cuts the cell's edges; four
neighbouring cells make a face. Unlike marching cubes it needs no table of cases and makes no sliver triangles.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

CORNERS = tuple(itertools.product((0, 1), repeat=3))
"""The corners of a cell, in steps of the grid."""
EDGES = tuple((a, a | bit) for a in range(8) for bit in (1, 2, 4) if not a & bit)
"""The pairs of CORNERS that differ in one axis."""


def surface_nets(values: Tensor) -> tuple[Tensor, Tensor]:
    """Vertices (v, 3) in steps of the grid and triangles (f, 3) that turn counter-clockwise seen from outside.

    `values` (x, y, z) are below 0 inside; the outermost layer must be outside, so that the surface is closed.
    """
    corners = torch.stack([corner_of(values, corner) for corner in CORNERS], -1)
    inside = corners < 0
    cut = inside.any(-1) & ~inside.all(-1)
    number = torch.full(cut.shape, -1)
    number[cut] = torch.arange(int(cut.sum()))
    faces = torch.cat([_faces(values, number, axis) for axis in range(3)])
    return cut.nonzero() + _places(corners[cut]), faces


def corner_of(values: Tensor, corner: tuple[int, ...]) -> Tensor:
    """The numbers at one corner of every cell; `values` (x, y, z, ...)."""
    x, y, z = (slice(step, size - 1 + step) for step, size in zip(corner, values.shape, strict=False))
    return values[x, y, z]


def _places(corners: Tensor) -> Tensor:
    """Where in its cell each vertex lies, (v, 3) in [0, 1], from the numbers at its corners (v, 8)."""
    place = torch.tensor(CORNERS, dtype=corners.dtype)
    total, count = corners.new_zeros(len(corners), 3), corners.new_zeros(len(corners), 1)
    for a, b in EDGES:
        low, high = corners[:, a, None], corners[:, b, None]
        cuts = (low < 0) != (high < 0)
        share = torch.where(cuts, low / (low - high), 0.0)
        total += torch.where(cuts, place[a] + share * (place[b] - place[a]), 0.0)
        count += cuts
    return total / count


def _faces(values: Tensor, number: Tensor, axis: int) -> Tensor:
    """Two triangles for every edge of the grid along `axis` that the surface cuts, (f, 3)."""
    size = values.shape[axis]
    inside = values < 0
    first, second = inside.narrow(axis, 0, size - 1), inside.narrow(axis, 1, size - 1)
    edges = (first != second).nonzero()
    outward = first[tuple(edges.T)]
    b, c = torch.eye(3, dtype=torch.long)[[(axis + 1) % 3, (axis + 2) % 3]]
    around = torch.stack([number[tuple((edges - step).T)] for step in (0 * b, b, b + c, c)], 1)
    around = torch.where(outward[:, None], around, around.flip(1))
    return torch.cat([around[:, [0, 1, 2]], around[:, [0, 2, 3]]])
