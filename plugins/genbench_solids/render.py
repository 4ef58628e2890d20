"""A batched ray tracer for solids on a plain floor: one light fixed in the world, cast shadows, 2x2 supersampling.

Rays are kept as (3, b, p): coordinate, scene, pixel. The world has z up, the camera of azimuth 0 looks along +y.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genbench_solids.scenes import FIELD_OF_VIEW, Scenes
from genbench_solids.shapes import BOUNDS, HITS, NORMALS

SIZE = 64
LIGHT = (-0.42, -0.55, 1.00)  # towards the light: in front, to the left and above; three faces get three tones
LIFT = 2e-3  # shadow rays start this far off the surface


@dataclass(frozen=True)
class Rendering:
    """Pictures and what is seen of each solid."""

    images: Tensor  # (b, 3, h, w) in [0, 1]
    visible: Tensor  # (b, 3) share of a solid's own outline that nothing hides, in [0, 1]; 1 for an empty slot
    cropped: Tensor  # (b,) bool, a solid touches the picture's border


def camera(scenes: Scenes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eye, right, up and forward, each (3, b)."""
    ce, se = scenes.elevation.cos(), scenes.elevation.sin()
    ca, sa = scenes.azimuth.cos(), scenes.azimuth.sin()
    forward = torch.stack((-sa * ce, ca * ce, -se))
    right = torch.stack((ca, sa, torch.zeros_like(ca)))
    up = torch.stack((-sa * se, ca * se, ce))
    distance = scenes.half_frame / torch.tan(torch.tensor(FIELD_OF_VIEW / 2))
    return scenes.target.T - distance * forward, right, up, forward


def project(scenes: Scenes, points: Tensor, size: int = SIZE) -> Tensor:
    """Pixel coordinates (b, 2), x to the right and y down, of one world point (b, 3) per scene."""
    eye, right, up, forward = camera(scenes)
    v = points.T - eye
    depth = (v * forward).sum(0) * torch.tan(torch.tensor(FIELD_OF_VIEW / 2))
    x, y = (v * right).sum(0) / depth, (v * up).sum(0) / depth
    return torch.stack(((1 + x) * size / 2, (1 - y) * size / 2), -1)


def trace(scenes: Scenes, o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Distance t (3, b, p), one plane per slot and inf where missed, and normals (3 slots, 3, b, p)."""
    b, p = d.shape[1:]
    o, d = o.expand(3, b, p), d.expand(3, b, p)
    t_all = torch.full((3, b * p), torch.inf, device=d.device)
    n_all = torch.zeros(3, 3, b * p, device=d.device)
    bounds = torch.tensor(BOUNDS, device=d.device)
    for k in range(3):
        scale, shape = scenes.scale[:, k], scenes.shape[:, k]
        centre = scenes.base[:, k].T.clone()
        centre[2] += scale * bounds[shape, 0]
        oc = o - centre[:, :, None]
        along = (oc * d).sum(0)
        near = along.square() - (oc.square().sum(0) - (scale * bounds[shape, 1]).square()[:, None])
        candidates = ((near > 0) & (scale > 0)[:, None]).flatten().nonzero().squeeze(1)
        kind = shape[candidates // p]
        for s in kind.unique().tolist():
            index = candidates[kind == s]
            owner = index // p
            t, n = _meet(s, scenes, k, owner, o.reshape(3, -1)[:, index], d.reshape(3, -1)[:, index])
            t_all[k, index], n_all[k][:, index] = t, n
    return t_all.view(3, b, p), n_all.view(3, 3, b, p)


def _meet(s: int, scenes: Scenes, k: int, owner: Tensor, o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Meet solid k of each ray's own scene, in that solid's frame."""
    cos, sin = scenes.yaw[:, k].cos()[owner], scenes.yaw[:, k].sin()[owner]
    scale = scenes.scale[:, k][owner]
    v = o - scenes.base[:, k].T[:, owner]

    def local(a: Tensor) -> Tensor:
        return torch.stack((cos * a[0] + sin * a[1], cos * a[1] - sin * a[0], a[2])) / scale

    lo, ld = local(v), local(d)
    t = HITS[s](lo, ld)
    n = NORMALS[s](lo + t.nan_to_num(posinf=0.0) * ld)
    return t, F.normalize(torch.stack((cos * n[0] - sin * n[1], sin * n[0] + cos * n[1], n[2])), dim=0)


def render(scenes: Scenes, size: int = SIZE, supersample: int = 2) -> Rendering:
    """Trace `scenes`; the same scenes give the same picture on the same device."""
    wide, b = size * supersample, len(scenes)
    device = scenes.scale.device
    eye, right, up, forward = camera(scenes)
    ticks = ((torch.arange(wide, device=device) + 0.5) / wide * 2 - 1) * torch.tan(torch.tensor(FIELD_OF_VIEW / 2))
    x, y = ticks.repeat(wide), (-ticks).repeat_interleave(wide)
    d = F.normalize(forward[:, :, None] + right[:, :, None] * x + up[:, :, None] * y, dim=0)
    o = eye[:, :, None]

    t_solids, n_solids = trace(scenes, o, d)
    t, slot = t_solids.min(0)
    on_solid = t.isfinite()
    floor = torch.where(d[2] < -1e-4, -o[2] / d[2].clamp(max=-1e-4), torch.inf)
    t = torch.where(on_solid, t, floor)
    n = n_solids.gather(0, slot[None, None].expand(1, 3, -1, -1))[0]
    n = torch.where(on_solid, n, torch.tensor((0.0, 0.0, 1.0), device=device)[:, None, None])

    light = F.normalize(torch.tensor(LIGHT, device=device), dim=0)[:, None, None]
    point = o + t.nan_to_num(posinf=0.0).clamp(max=1e3) * d + LIFT * n
    blocked = trace(scenes, point, light.expand_as(d))[0].isfinite().any(0)
    diffuse = (n * light).sum(0).clamp(min=0) * (~blocked)
    half = F.normalize(light - d, dim=0)
    gloss = (n * half).sum(0).clamp(min=0).pow(40) * (~blocked) * on_solid

    albedo = scenes.colour.permute(2, 0, 1).gather(2, slot[None].expand(3, -1, -1))
    solid = albedo * (0.30 + 0.10 * n[2] + 0.66 * diffuse) + 0.16 * gloss
    backdrop = scenes.backdrop.T[:, :, None]
    fade = torch.exp(-0.5 * (point[:2].square().sum(0) / (3.2 * scenes.half_frame[:, None]).square()))
    ground = backdrop * (1 + 0.12 * (1 - fade) - fade * (0.36 - 0.36 * (diffuse / light[2, 0, 0]).clamp(max=1)))
    sky = backdrop * 1.12
    picture = torch.where(on_solid, solid, torch.where(t.isfinite(), ground, sky)).clamp(0, 1)

    images = picture.view(3, b, wide, wide).transpose(0, 1)
    outline = t_solids.isfinite().view(3, b, wide, wide)
    seen = ((slot.view(1, b, wide, wide) == torch.arange(3, device=device).view(3, 1, 1, 1)) & outline).sum((2, 3))
    whole = outline.sum((2, 3))
    edge = outline[..., 0].any(-1) | outline[..., -1].any(-1) | outline[..., 0, :].any(-1) | outline[..., -1, :].any(-1)
    visible = torch.where(whole > 0, seen / whole.clamp(min=1), (scenes.scale.T == 0).float())
    return Rendering(F.avg_pool2d(images, supersample), visible.T, edge.any(0))
