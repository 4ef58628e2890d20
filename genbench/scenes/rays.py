"""Volume rendering (NeRF, arXiv:2003.08934) by nerfacc (arXiv:2305.04966): samples along rays where a grid says there
is something.

On a GPU nerfacc walks its grid; without one a ray has evenly spaced samples, and those in empty cells are left out.
"""

# pyright: basic
# nerfacc is not typed; the signatures of this module are.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from genbench.errors import MissingDependency
from genbench.scenes.cameras import Cameras

Medium = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Places (m, 3) -> density per world unit (m,), colour (m, 3) in [0, 1]."""


@dataclass(frozen=True)
class Rays:
    """One ray per pixel of all cameras, (m, ...): where from, where to (unit length), its share along the axis."""

    origins: Tensor
    directions: Tensor
    cosines: Tensor


def rays_of(cameras: Cameras, device: torch.device | str) -> Rays:
    """Through the middle of every pixel, camera by camera, row by row."""
    y, x = torch.meshgrid(torch.arange(cameras.height) + 0.5, torch.arange(cameras.width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3)
    seen = pixels @ torch.linalg.inv(cameras.Ks).transpose(1, 2)
    cosines = 1 / seen.norm(dim=-1)
    directions = normalize(seen, dim=-1) @ cameras.viewmats[:, :3, :3]
    origins = cameras.centres[:, None].expand_as(directions)
    return Rays(*(part.flatten(0, 1).contiguous().to(device) for part in (origins, directions, cosines)))


def nerfacc() -> Any:
    """The package. Raises MissingDependency without it."""
    try:
        import nerfacc as package
    except ImportError:
        raise MissingDependency("radiance fields need nerfacc; install it: pip install 'genbench[3d]'") from None
    return package


Seen = tuple[Tensor, Tensor, Tensor]
"""Colour over black (m, 3), opacity (m, 1) and expected distance (m, 1), 0 where nothing is."""


def march(rays: Rays, medium: Medium, grid: Any, samples: int, generator: torch.Generator) -> Seen:
    """What rays see of a medium within the grid's box, at `samples` steps or more through it."""
    return (_on_grid if rays.origins.is_cuda else _evenly)(rays, medium, grid, samples, generator)


def _evenly(rays: Rays, medium: Medium, grid: Any, samples: int, generator: torch.Generator) -> Seen:
    near, far = (edge[:, None] for edge in _box(rays, grid.aabbs[0]))
    shift = torch.rand(len(near), 1, generator=generator).to(near)
    inner = near + (far - near) * (torch.arange(1, samples + 1).to(near) - shift) / samples
    starts, ends = torch.cat([near, inner], 1), torch.cat([inner, far], 1)
    places = rays.origins[:, None] + ((starts + ends) / 2)[..., None] * rays.directions[:, None]
    there = (ends > starts) & occupied(places, grid)

    def dense(*_: Any) -> tuple[Tensor, Tensor]:
        density, colour = medium(places[there])
        zeros = torch.zeros_like(starts)
        of_colour = zeros[..., None].repeat(1, 1, 3)
        return of_colour.index_put((there,), colour), zeros.index_put((there,), density)

    return nerfacc().rendering(starts, ends, rgb_sigma_fn=dense)[:3]


def _on_grid(rays: Rays, medium: Medium, grid: Any, samples: int, generator: torch.Generator) -> Seen:
    step = float(grid.aabbs[0, 3] - grid.aabbs[0, 0]) / samples

    def along(starts: Tensor, ends: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
        density, colour = medium(rays.origins[ray] + ((starts + ends) / 2)[:, None] * rays.directions[ray])
        return colour, density

    shift = step * torch.rand(len(rays.origins), generator=generator).to(rays.origins)
    ray, starts, ends = grid.sampling(
        rays.origins,
        rays.directions,
        sigma_fn=lambda *given: along(*given)[1],
        near_plane=0.0,
        t_min=shift,
        render_step_size=step,
    )
    return nerfacc().rendering(starts, ends, ray, len(rays.origins), rgb_sigma_fn=along)[:3]


def _box(rays: Rays, box: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave it, (m,); both 0 for those that pass by."""
    with torch.no_grad():
        crossings = (box.view(2, 1, 3) - rays.origins) / rays.directions
        near, far = crossings.amin(0).amax(-1).clamp(min=0), crossings.amax(0).amin(-1)
        hit = far > near
        return near.where(hit, 0), far.where(hit, 0)


@torch.no_grad()
def occupied(places: Tensor, grid: Any) -> Tensor:
    """Whether the cells of places (..., 3) are marked as holding something; False outside the box."""
    low, high = grid.aabbs[0, :3], grid.aabbs[0, 3:]
    share = (places - low) / (high - low)
    cell = (share * grid.resolution).long().clamp(min=torch.zeros_like(grid.resolution), max=grid.resolution - 1)
    inside = ((share >= 0) & (share < 1)).all(-1)
    return grid.binaries[0][cell[..., 0], cell[..., 1], cell[..., 2]] & inside
