"""The renderer in plain PyTorch: the default without a GPU, and what the other engines are compared with.

gsplat's semantics (arXiv:2409.06765): Gaussians by depth within tiles, alpha at most 0.999, none below 1/255, and a
pixel ends where its transmittance would fall to 1e-4. A tile's Gaussians are composited a slice at a time, many tiles
at once; their logarithm of alpha is a polynomial in the pixel's place, hence one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import threshold

from genbench.scenes.cameras import Cameras
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.projection import Projected, extents, project
from genbench.scenes.rendering import Rendered

TILE = 8
"""Pixels along a tile's side."""
SLICE = 32
"""Gaussians of a tile that are composited at once."""
BLOCK = 64
"""Tiles that are composited at once, more on a GPU: what a slice of them takes stays in the processor's cache."""
ALPHA_MAX, ALPHA_MIN, STOP = 0.999, 1 / 255, 1e-4
SLACK = 1e-3
"""Pixels by which a Gaussian's box is widened, so that rounding leaves none out."""


def torch_engine(gaussians: Gaussians, cameras: Cameras, background: Tensor) -> Rendered:
    """What the cameras see; an `Engine`. Raises SceneError for no Gaussians, MissingDependency without gsplat."""
    projected = project(gaussians, cameras)
    pairs = tile_pairs(projected, cameras.width, cameras.height)
    coefficients, values = _pair_terms(table_of(projected), pairs)
    sums = cast(Tensor, _Composite.apply(coefficients, values, pairs.starts))  # pyright: ignore[reportUnknownMemberType]
    return finish(untile(sums, pairs, cameras.width, cameras.height), background, projected)


def finish(sums: Tensor, background: Tensor, projected: Projected) -> Rendered:
    """From sums (c, 5, h, w) of weighted colour, weighted depth and weights."""
    rgb, depth, alpha = sums[:, :3], sums[:, 3:4], sums[:, 4:]
    over = background.to(rgb).expand(len(rgb), 3)[..., None, None]
    return Rendered(rgb + (1 - alpha) * over, alpha, depth / alpha.clamp(min=1e-10), projected.means2d, projected.radii)


# --- which Gaussians lie in which tiles -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """p pairs of a Gaussian and a tile it may touch, by tile, then by depth.

    `rows` (p,) into the (c, n) Gaussians laid flat, `tiles` (p,), `starts` (t + 1,) where each tile's pairs begin;
    tiles are numbered by camera, row and column, `across` in a row, `down` in a column.
    """

    rows: Tensor
    tiles: Tensor
    starts: Tensor
    across: int
    down: int

    def corners(self) -> Tensor:
        """The first pixel (t, 2), x and y, of every tile."""
        tiles = torch.arange(len(self.starts) - 1, device=self.starts.device)
        return torch.stack([tiles % self.across, tiles // self.across % self.down], 1) * TILE


@torch.no_grad()
def tile_pairs(projected: Projected, width: int, height: int) -> Pairs:
    """Every pair in which some pixel may see the Gaussian."""
    across, down = -(-width // TILE), -(-height // TILE)
    first, last = _tile_boxes(projected, width, height)
    size = (last - first + 1).clamp(min=0)
    counts = size.prod(-1).flatten()
    seen = counts.nonzero()[:, 0]
    seen = seen[projected.depths.flatten()[seen].argsort(stable=True)]
    counts = counts[seen]
    rows = seen.repeat_interleave(counts)
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    columns, corner = size.flatten(0, 1)[rows, 0], first.flatten(0, 1)[rows]
    camera = rows // projected.depths.shape[1]
    tiles = (camera * down + corner[:, 1] + place // columns) * across + corner[:, 0] + place % columns
    order = tiles.argsort(stable=True)
    ends = torch.bincount(tiles, minlength=len(projected.depths) * across * down).cumsum(0)
    return Pairs(rows[order], tiles[order], torch.cat([ends.new_zeros(1), ends]), across, down)


def _tile_boxes(projected: Projected, width: int, height: int) -> tuple[Tensor, Tensor]:
    """First and last tile (c, n, 2) along x and y that holds the centre of a pixel in a Gaussian's box."""
    sides = extents(projected, ALPHA_MIN)
    limit = torch.tensor([width, height], device=sides.device) - 1.0
    low = (projected.means2d - sides - SLACK - 0.5).ceil().clamp(min=0)
    high = torch.minimum((projected.means2d + sides + SLACK - 0.5).floor(), limit)
    empty = ~((high >= low) & (sides > 0) & (projected.radii > 0)).all(-1, keepdim=True)  # also where one is no number
    first, last = (low / TILE).floor(), (high / TILE).floor()
    return first.masked_fill(empty, 0).long(), last.masked_fill(empty, -1).long()


def untile(sums: Tensor, pairs: Pairs, width: int, height: int) -> Tensor:
    """From (t, channels, 64) to (c, channels, h, w)."""
    grid = sums.reshape(-1, pairs.down, pairs.across, sums.shape[1], TILE, TILE)
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)[..., :height, :width]


# --- compositing ------------------------------------------------------------------------------------------------------


def table_of(projected: Projected) -> Tensor:
    """Of each Gaussian on each camera: centre, inverse covariance, logarithm of opacity, colour, depth; (c n, 10)."""
    own = [projected.means2d, projected.conics, projected.opacities[..., None].log(), projected.colours]
    return torch.cat([*own, projected.depths[..., None]], -1).flatten(0, 1)


def _pair_terms(table: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """The polynomial (p, 6) of log alpha in a pixel's offset from its tile's middle, and colour and depth (p, 4)."""
    terms = table.index_select(0, pairs.rows)
    x, y = (terms[:, :2] - pairs.corners()[pairs.tiles] - TILE / 2).unbind(1)
    a, b, c, log_opacity = terms[:, 2:6].unbind(1)
    along_x, along_y = a * x + b * y, b * x + c * y
    constant = log_opacity - 0.5 * (along_x * x + along_y * y)
    return torch.stack([constant, along_x, along_y, -0.5 * a, -0.5 * c, -b], 1), terms[:, 6:]


def _powers(like: Tensor) -> Tensor:
    """1, x, y, x^2, y^2 and xy of the pixels' offsets from their tile's middle, (6, TILE * TILE)."""
    offsets = torch.arange(TILE).to(like) + 0.5 - TILE / 2
    x, y = offsets.repeat(TILE), offsets.repeat_interleave(TILE)
    return torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y])


@dataclass(frozen=True)
class _Slice:
    """The pairs (b, k) of b tiles, and the transmittance (b, 64) in front of them; padding is the last row."""

    tiles: Tensor
    rows: Tensor
    before: Tensor


class _Composite(torch.autograd.Function):
    """Sums (t, 5, 64) of weighted values and of weights: w_k = alpha_k prod_{j<k} (1 - alpha_j)."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, values: Tensor, starts: Tensor) -> Tensor:
        coefficients, values = _padded(coefficients, values)
        powers = _powers(coefficients)
        sums = values.new_zeros(len(starts) - 1, 5, TILE * TILE)
        walks = [_walk(block, starts, coefficients, values, powers, sums) for block in _blocks(starts)]
        ctx.slices = [part for walk in walks for part in walk]
        ctx.save_for_backward(coefficients, values, powers)
        return sums

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore
        coefficients, values, powers = cast(tuple[Tensor, Tensor, Tensor], ctx.saved_tensors)
        of_coefficients, of_values = torch.zeros_like(coefficients), torch.zeros_like(values)
        behind = grad.new_zeros(len(grad), TILE * TILE)  # sum of w dL/dw over what lies behind a slice
        later = torch.ones(SLICE, SLICE, dtype=grad.dtype, device=grad.device).triu(1)
        for part in reversed(cast(list[_Slice], ctx.slices)):
            own, rest = _rows(grad, part.tiles), _rows(behind, part.tiles)
            alpha, through = _alphas(_rows(coefficients, part.rows), powers, part.before)
            before = through[:, :-1]
            weights, slope = alpha * before, _rows(values, part.rows) @ own
            each = weights * slope
            behind[part.tiles] = rest + each.sum(1)
            free = torch.lt(alpha, ALPHA_MAX, out=torch.empty_like(alpha))
            of_log = (before * slope - (later @ each + rest[:, None]) / (1 - alpha)) * alpha * free
            of_coefficients[part.rows] = of_log @ powers.T
            of_values[part.rows] = weights @ own.transpose(1, 2)
        return of_coefficients[:-1], of_values[:-1, :4], None


def _blocks(starts: Tensor) -> tuple[Tensor, ...]:
    """Tiles by the number of their pairs, so that those of a block end at about the same slice."""
    size = BLOCK * (64 if starts.is_cuda else 1)
    return torch.split(torch.argsort(starts[1:] - starts[:-1], descending=True), size)


def _walk(
    block: Tensor, starts: Tensor, coefficients: Tensor, values: Tensor, powers: Tensor, sums: Tensor
) -> Iterator[_Slice]:
    """Composite a block of tiles from front to back into `sums`."""
    first, ends, before = starts[block], starts[block + 1], values.new_ones(len(block), TILE * TILE)
    while True:
        active = (first < ends) & (before.amax(1) > STOP)
        if not active.any():
            return
        block, first, ends, before = block[active], first[active], ends[active], before[active]
        rows = first[:, None] + torch.arange(SLICE, device=first.device)
        rows = torch.where(rows < ends[:, None], rows, len(values) - 1)
        yield _Slice(block, rows, before)
        alpha, through = _alphas(_rows(coefficients, rows), powers, before)
        sums[block] += _rows(values, rows).transpose(1, 2) @ (alpha * through[:, :-1])
        first, before = first + SLICE, through[:, -1]


def _padded(coefficients: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """With a last row that no pixel sees, and a value 1, whose sum is the sum of the weights."""
    nothing = coefficients.new_tensor([[-100.0, 0, 0, 0, 0, 0]])
    values = torch.cat([values, torch.ones_like(values[:, :1])], 1)
    return torch.cat([coefficients, nothing]), torch.cat([values, values.new_zeros(1, 5)])


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]`, in half its time."""
    return table.index_select(0, index.flatten()).view(*index.shape, *table.shape[1:])


def _alphas(coefficients: Tensor, powers: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Alphas (b, k, 64), 0 from where a pixel ends, and transmittances (b, k + 1, 64) before and behind each.

    Powers of 2 take a quarter of the time of powers of e, and masks of numbers half that of masks of truths.
    """
    raw = (coefficients @ (powers / log(2))).exp2_()
    alpha = threshold(raw.clamp_(max=ALPHA_MAX), ALPHA_MIN, 0.0)
    through = torch.cat([before[:, None], 1 - alpha], 1).cumprod(1)
    alive = torch.gt(through[:, 1:], STOP, out=torch.empty_like(alpha))
    return alpha.mul_(alive), through
