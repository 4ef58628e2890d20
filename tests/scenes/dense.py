"""Every Gaussian against every pixel, in the plainest form: what the tiled renderers are compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from genbench.scenes.cameras import Cameras
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.projection import project
from genbench.scenes.rendering import Rendered


def dense_engine(gaussians: Gaussians, cameras: Cameras, background: Tensor) -> Rendered:
    seen = project(gaussians, cameras)
    rows, columns = torch.meshgrid(torch.arange(cameras.height), torch.arange(cameras.width), indexing="ij")
    pixels = torch.stack([columns, rows], -1).flatten(0, 1).to(gaussians.means) + 0.5
    rgb, alpha, depth = [], [], []
    for view in range(len(cameras)):
        order = seen.depths[view].argsort(stable=True)
        order = order[(seen.radii[view][order] > 0).all(1)]
        dx, dy = (pixels[:, None] - seen.means2d[view][order]).unbind(-1)
        a, b, c = seen.conics[view][order].unbind(-1)
        sigma = 0.5 * (a * dx**2 + c * dy**2) + b * dx * dy
        alphas = (seen.opacities[view][order] * (-sigma).exp()).clamp(max=0.999)
        alphas = alphas * (alphas >= 1 / 255)
        behind = (1 - alphas).cumprod(1)
        before = torch.cat([torch.ones_like(behind[:, :1]), behind[:, :-1]], 1)
        weights = alphas * before * (behind > 1e-4)
        covered = weights.sum(1, keepdim=True)
        over = background.to(weights).expand(len(cameras), 3)[view]
        rgb.append(weights @ seen.colours[view][order] + (1 - covered) * over)
        alpha.append(covered)
        depth.append(weights @ seen.depths[view][order][:, None] / covered.clamp(min=1e-10))
    image, covered, away = (torch.stack(p).transpose(1, 2).unflatten(2, rows.shape) for p in (rgb, alpha, depth))
    return Rendered(image, covered, away, seen.means2d, seen.radii)
