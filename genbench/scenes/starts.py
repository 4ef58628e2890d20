"""Where Gaussians begin: a ball, a cloud of points, or a scene that exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from genbench.errors import SceneError
from genbench.scenes.files import read_gaussians
from genbench.scenes.gaussians import REST, SH_C0, Gaussians
from genbench.scenes.ply import MEANS, SH0, columns
from genbench.scenes.plytables import read_tables

OPACITY = 0.1
"""Of every Gaussian that begins as a point (arXiv:2308.04079)."""
COLOURS = ("red", "green", "blue")
CHUNK = 2048


def start_of(init: str, count: int, radius: float, generator: torch.Generator, degree: int = 0) -> Gaussians:
    """What `init=` names: `sphere` (count, radius and generator are its), or the path of a file of Gaussians or points.

    Raises SceneError for a file that is missing, broken, or holds neither.
    """
    if init == "sphere":
        return sphere(count, radius, generator, degree)
    path = Path(init)
    if not path.exists():
        raise SceneError(f"init={init}: there is no such file; give sphere, or a .ply or .splat")
    with path.open("rb") as file:
        table = read_tables(path).get("vertex") if file.read(3) == b"ply" else None
    if table is None or not is_cloud(table):
        return read_gaussians(path)
    return of_table(table, path, degree)


def sphere(count: int, radius: float, generator: torch.Generator, degree: int = 0) -> Gaussians:
    """`count` grey Gaussians, evenly drawn from the ball of that radius around the origin."""
    away = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    return points(radius * away * torch.rand(count, 1, generator=generator) ** (1 / 3), degree=degree)


def points(places: Tensor, colours: Tensor | None = None, opacity: float = OPACITY, degree: int = 0) -> Gaussians:
    """Round Gaussians at `places` (n, 3), as wide as their nearest neighbours are far; `colours` (n, 3) in [0, 1]."""
    count = len(places)
    colours = torch.full_like(places, 0.5) if colours is None else colours.to(places)
    return Gaussians(
        means=places,
        quats=torch.tensor([1.0, 0, 0, 0]).to(places).repeat(count, 1),
        scales=spacing(places).log()[:, None].repeat(1, 3),
        opacities=torch.full_like(places[:, 0], opacity).logit(),
        sh0=(colours[:, None] - 0.5) / SH_C0,
        sh_rest=places.new_zeros(count, REST[degree], 3),
    )


def spacing(places: Tensor) -> Tensor:
    """Root of the mean squared distance (n,) to the three nearest others, at least 1e-4 of the cloud's extent."""
    extent = max(1e-3, float((places - places.mean(0)).square().sum(1).max().sqrt())) if len(places) else 1.0
    others = min(3, len(places) - 1)
    if others < 1:
        return places.new_full((len(places),), 0.1 * extent)
    near = [_nearest(part, places, others + 1) for part in torch.split(places, CHUNK)]
    return torch.cat(near)[:, 1:].square().mean(1).sqrt().clamp(min=1e-4 * extent)


def _nearest(some: Tensor, places: Tensor, count: int) -> Tensor:
    """The smallest distances, the point's own among them."""
    return torch.cdist(some, places).topk(count, largest=False).values


def is_cloud(table: NDArray[Any]) -> bool:
    """Whether a PLY's vertices are points, with or without colours, and no Gaussians."""
    names = table.dtype.names or ()
    return set(MEANS) <= set(names) and not set(SH0) & set(names)


def of_table(table: NDArray[Any], path: Path, degree: int) -> Gaussians:
    """Gaussians at a PLY's vertices, `red green blue` their colours: bytes, or numbers in [0, 1]."""
    places = columns(table, MEANS)
    if not len(places) or not bool(places.isfinite().all()):
        raise SceneError(f"{path} holds no points, or some that are no numbers")
    if not set(COLOURS) <= set(table.dtype.names or ()):
        return points(places, degree=degree)
    whole = table.dtype["red"].kind in "ui"
    return points(places, columns(table, COLOURS) / (255.0 if whole else 1.0), degree=degree)
