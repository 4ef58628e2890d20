"""The renderer in numba: the sums of the one in plain PyTorch, a tile at a time, with analytic gradients.

Both kernels walk a tile's Gaussians from front to back. Their loops over a tile's pixels are functions of their own:
so short, each compiles to vector instructions. As many threads as torch has share the tiles: Python's own, since the
pools of numba spin or forbid a second caller.
"""

# pyright: basic
# numba is not typed; the signatures of this module's own functions are.

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from genbench.scenes.cameras import Cameras
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.projection import project
from genbench.scenes.rendering import Rendered
from genbench.scenes.tiles import ALPHA_MAX, ALPHA_MIN, STOP, TILE, Pairs, finish, table_of, tile_pairs, untile

Array = NDArray[np.float32]
PIXELS = TILE * TILE
X = np.tile(np.arange(TILE, dtype=np.float32) + np.float32(0.5), TILE)
Y = np.repeat(np.arange(TILE, dtype=np.float32) + np.float32(0.5), TILE)
# A Python number would make the arithmetic around it double.
MOST, LEAST, END = np.float32(ALPHA_MAX), np.float32(ALPHA_MIN), np.float32(STOP)
ZERO, HALF, ONE, LOWEST = np.float32(0), np.float32(0.5), np.float32(1), np.float32(-8)
EIGHTH, SIXTH = np.float32(1 / 8), np.float32(1 / 6)
OVER_24, OVER_120 = np.float32(1 / 24), np.float32(1 / 120)
OVER_720, OVER_5040 = np.float32(1 / 720), np.float32(1 / 5040)
ROOT_OF_E = np.float32(np.exp(-0.5))

compiled = njit(fastmath=True, error_model="numpy", nogil=True, cache=True)


def numba_engine(gaussians: Gaussians, cameras: Cameras, background: Tensor) -> Rendered:
    """What the cameras see, in single precision on the processor; an `Engine`."""
    projected = project(gaussians, cameras)
    pairs = tile_pairs(projected, cameras.width, cameras.height)
    sums = cast(Tensor, _Composite.apply(table_of(projected).float(), pairs))
    return finish(untile(sums, pairs, cameras.width, cameras.height), background, projected)


class _Composite(torch.autograd.Function):
    """Sums (t, 5, 64) of weighted colour, weighted depth and weights, from the table (c n, 10) of Gaussians."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, pairs: Pairs) -> Tensor:
        corners = pairs.corners().float().numpy()
        given = table.detach().contiguous().numpy(), pairs.rows.numpy(), pairs.starts.numpy(), corners
        sums = np.zeros((len(corners), 5, PIXELS), np.float32)
        _shared(_forward, *given, sums)
        ctx.given = *given, sums
        return torch.from_numpy(sums)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        table, rows = ctx.given[:2]
        each, total = np.zeros((len(rows), table.shape[1]), np.float32), np.zeros_like(table)
        _shared(_backward, *ctx.given, grad.contiguous().numpy(), each)
        _add_rows(total, rows, each)
        return torch.from_numpy(total), None


def _shared(kernel: Callable[..., None], *given: NDArray[Any]) -> None:
    """Call it for every so many-th tile in each of torch's threads."""
    threads = torch.get_num_threads()
    if threads == 1:
        return kernel(0, 1, *given)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda first: kernel(first, threads, *given), range(threads)))


# --- pixels of one tile -----------------------------------------------------------------------------------------------
# `row` is a Gaussian's: centre 0-1, inverse covariance 2-4, logarithm of opacity 5, colour 6-8, depth 9.


@compiled
def _exp(x: Any) -> Any:
    """e^x for x in [-8, 0] to 3e-6 of itself: (e^(x/8))^8, with a polynomial around the middle."""
    t = x * EIGHTH + HALF
    p = (((OVER_5040 * t + OVER_720) * t + OVER_120) * t + OVER_24) * t + SIXTH
    p = (((p * t + HALF) * t + ONE) * t + ONE) * ROOT_OF_E
    p *= p
    p *= p
    return p * p


@compiled
def _alphas(alpha: Array, row: Array, x: Any, y: Any) -> None:
    a, b, c = row[2], row[3], row[4]
    mx, my, log_opacity = row[0] - x, row[1] - y, row[5]
    for p in range(PIXELS):
        dx, dy = X[p] - mx, Y[p] - my
        log_alpha = log_opacity - (HALF * (a * dx * dx + c * dy * dy) + b * dx * dy)
        value = min(MOST, _exp(max(LOWEST, min(ZERO, log_alpha))))
        alpha[p] = value if value >= LEAST else ZERO


@compiled
def _weights(weight: Array, alpha: Array, through: Array) -> bool:
    """Weights of one Gaussian, and what shines through it, 0 where a pixel ends; whether any goes on."""
    most = ZERO
    for p in range(PIXELS):
        after = through[p] * (ONE - alpha[p])
        weight[p] = alpha[p] * through[p] if after > END else ZERO
        through[p] = after if after > END else ZERO
        most = max(most, through[p])
    return most > ZERO  # pyright: ignore[reportReturnType]


@compiled
def _add(sums: Array, weight: Array, row: Array) -> None:
    red, green, blue, depth, covered = sums[0], sums[1], sums[2], sums[3], sums[4]
    r, g, b, d = row[6], row[7], row[8], row[9]
    for p in range(PIXELS):
        red[p] += weight[p] * r
        green[p] += weight[p] * g
        blue[p] += weight[p] * b
        depth[p] += weight[p] * d
        covered[p] += weight[p]


@compiled
def _of_log_alpha(out: Array, alpha: Array, weight: Array, behind: Array, grad: Array, row: Array) -> None:
    """dL/dlog(alpha) = w v - alpha / (1 - alpha) sum_{behind} w v, where v is dL/dw; `behind` is that sum, kept."""
    of_r, of_g, of_b, of_d, of_w = grad[0], grad[1], grad[2], grad[3], grad[4]
    r, g, b, d = row[6], row[7], row[8], row[9]
    for p in range(PIXELS):
        own = weight[p] * (of_r[p] * r + of_g[p] * g + of_b[p] * b + of_d[p] * d + of_w[p])
        behind[p] -= own
        slope = own - alpha[p] * behind[p] / (ONE - alpha[p])
        out[p] = slope if (weight[p] > ZERO) & (alpha[p] < MOST) else ZERO


@compiled
def _of_shape(out: Array, of_log: Array, row: Array, x: Any, y: Any) -> None:
    a, b, c = row[2], row[3], row[4]
    mx, my = row[0] - x, row[1] - y
    s = sx = sy = sxx = sxy = syy = ZERO
    for p in range(PIXELS):
        dx, dy, q = X[p] - mx, Y[p] - my, of_log[p]
        s += q
        sx += q * dx
        sy += q * dy
        sxx += q * dx * dx
        sxy += q * dx * dy
        syy += q * dy * dy
    out[0], out[1] = a * sx + b * sy, b * sx + c * sy
    out[2], out[3], out[4] = -HALF * sxx, -sxy, -HALF * syy
    out[5] = s


@compiled
def _of_values(out: Array, weight: Array, grad: Array) -> None:
    of_r, of_g, of_b, of_d = grad[0], grad[1], grad[2], grad[3]
    r = g = b = d = ZERO
    for p in range(PIXELS):
        r += weight[p] * of_r[p]
        g += weight[p] * of_g[p]
        b += weight[p] * of_b[p]
        d += weight[p] * of_d[p]
    out[6], out[7], out[8], out[9] = r, g, b, d


# --- all tiles --------------------------------------------------------------------------------------------------------


@compiled
def _forward(first: int, step: int, table: Array, rows: Array, starts: Array, corners: Array, sums: Array) -> None:
    for tile in range(first, len(corners), step):
        alpha, weight, through = np.empty_like(X), np.empty_like(X), np.ones_like(X)
        for k in range(starts[tile], starts[tile + 1]):
            row = table[rows[k]]
            _alphas(alpha, row, corners[tile, 0], corners[tile, 1])
            more = _weights(weight, alpha, through)
            _add(sums[tile], weight, row)
            if not more:
                break


@compiled
def _backward(
    first: int,
    step: int,
    table: Array,
    rows: Array,
    starts: Array,
    corners: Array,
    sums: Array,
    grad: Array,
    each: Array,
) -> None:
    """Gradients of every pair, (p, 10); what lies behind a Gaussian is what a pixel has less what lies before."""
    for tile in range(first, len(corners), step):
        alpha, weight, through, of_log = np.empty_like(X), np.empty_like(X), np.ones_like(X), np.empty_like(X)
        behind = (sums[tile] * grad[tile]).sum(0)
        x, y = corners[tile, 0], corners[tile, 1]
        for k in range(starts[tile], starts[tile + 1]):
            row = table[rows[k]]
            _alphas(alpha, row, x, y)
            more = _weights(weight, alpha, through)
            _of_log_alpha(of_log, alpha, weight, behind, grad[tile], row)
            _of_shape(each[k], of_log, row, x, y)
            _of_values(each[k], weight, grad[tile])
            if not more:
                break


@compiled
def _add_rows(total: Array, rows: Array, each: Array) -> None:
    for k in range(len(rows)):
        total[rows[k]] += each[k]
