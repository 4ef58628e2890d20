"""The five primitives: where a ray meets them and which way their surface faces.

Vectors are (3, n), one column per ray, so that every operation runs along contiguous memory. Each primitive stands on
z = 0 in its own frame, centred on the z axis, with a radius of about 1. A ray that misses has t = inf.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CUBE_HALF = 0.82
CYLINDER_RADIUS, CYLINDER_HEIGHT = 0.84, 1.7
CONE_RADIUS, CONE_HEIGHT = 1.0, 1.9
TORUS_MAJOR, TORUS_MINOR = 0.76, 0.33
NEAR = 1e-4

HEIGHTS = (2.0, 2 * CUBE_HALF, CYLINDER_HEIGHT, CONE_HEIGHT, 2 * TORUS_MINOR)  # in the order of captions.SHAPES
WIDTHS = (1.0, 1.1, CYLINDER_RADIUS, CONE_RADIUS, 1.09)  # half of what each takes up in a row
BOUNDS = ((1.0, 1.0), (0.82, 1.43), (0.85, 1.2), (0.7, 1.23), (TORUS_MINOR, 1.1))  # (centre height, radius) per shape


def _first(*candidates: Tensor) -> Tensor:
    return torch.stack(candidates).amin(0)


def _quadric(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Both roots of a t^2 + 2 b t + c = 0, nearer first; inf where there are none."""
    disc = b * b - a * c
    root = disc.clamp(min=0).sqrt()
    a = torch.where(a.abs() < 1e-9, 1e-9, a)
    t0, t1 = (-b - root) / a, (-b + root) / a
    t0, t1 = torch.minimum(t0, t1), torch.maximum(t0, t1)
    return torch.where(disc > 0, t0, torch.inf), torch.where(disc > 0, t1, torch.inf)


def _on_disc(o: Tensor, d: Tensor, z: float, radius: float) -> Tensor:
    """t at which the ray crosses the horizontal disc at height z."""
    t = (z - o[2]) / torch.where(d[2].abs() < 1e-9, 1e-9, d[2])
    p = o[:2] + t * d[:2]
    return torch.where((p.square().sum(0) < radius * radius) & (t > NEAR), t, torch.inf)


def hit_sphere(o: Tensor, d: Tensor) -> Tensor:
    o = torch.stack((o[0], o[1], o[2] - 1))
    t0, t1 = _quadric((d * d).sum(0), (o * d).sum(0), (o * o).sum(0) - 1)
    return torch.where(t0 > NEAR, t0, torch.where(t1 > NEAR, t1, torch.inf))


def hit_cube(o: Tensor, d: Tensor) -> Tensor:
    o = torch.stack((o[0], o[1], o[2] - CUBE_HALF))
    inverse = 1 / torch.where(d.abs() < 1e-9, 1e-9, d)
    ta, tb = (-CUBE_HALF - o) * inverse, (CUBE_HALF - o) * inverse
    t0, t1 = torch.minimum(ta, tb).amax(0), torch.maximum(ta, tb).amin(0)
    t = torch.where(t0 > NEAR, t0, t1)
    return torch.where((t1 > t0) & (t > NEAR), t, torch.inf)


def hit_cylinder(o: Tensor, d: Tensor) -> Tensor:
    roots = _quadric(d[:2].square().sum(0), (o[:2] * d[:2]).sum(0), o[:2].square().sum(0) - CYLINDER_RADIUS**2)
    side = _within_height(o, d, roots, CYLINDER_HEIGHT)
    return _first(side, *(_on_disc(o, d, z, CYLINDER_RADIUS) for z in (0.0, CYLINDER_HEIGHT)))


def hit_cone(o: Tensor, d: Tensor) -> Tensor:
    slope = (CONE_RADIUS / CONE_HEIGHT) ** 2
    down = CONE_HEIGHT - o[2]
    roots = _quadric(
        d[:2].square().sum(0) - slope * d[2].square(),
        (o[:2] * d[:2]).sum(0) + slope * down * d[2],
        o[:2].square().sum(0) - slope * down.square(),
    )
    return _first(_within_height(o, d, roots, CONE_HEIGHT), _on_disc(o, d, 0.0, CONE_RADIUS))


def _within_height(o: Tensor, d: Tensor, roots: tuple[Tensor, Tensor], height: float) -> Tensor:
    inside = [torch.where((t > NEAR) & ((z := o[2] + t * d[2]) > 0) & (z < height), t, torch.inf) for t in roots]
    return _first(*inside)


def torus_distance(p: Tensor) -> Tensor:
    """Signed distance (n,) of points (3, n) from the torus that lies on z = 0."""
    ring = p[:2].square().sum(0).sqrt() - TORUS_MAJOR
    return (ring.square() + (p[2] - TORUS_MINOR).square()).sqrt() - TORUS_MINOR


def hit_torus(o: Tensor, d: Tensor, steps: int = 28) -> Tensor:
    """Sphere tracing: the signed distance is exact and costs less than a stable quartic."""
    length = d.square().sum(0).sqrt()
    centre = torch.stack((o[0], o[1], o[2] - TORUS_MINOR))
    entry, leave = _quadric(length.square(), (centre * d).sum(0), centre.square().sum(0) - 1.1**2)
    t = torch.where(entry.isfinite(), entry.clamp(min=NEAR), NEAR)
    for _ in range(steps):
        t = t + torus_distance(o + t * d) / length
    return torch.where((torus_distance(o + t * d).abs() < 4e-3) & (t > NEAR) & (t < leave), t, torch.inf)


def normal_sphere(p: Tensor) -> Tensor:
    return torch.stack((p[0], p[1], p[2] - 1))


def normal_cube(p: Tensor) -> Tensor:
    q = torch.stack((p[0], p[1], p[2] - CUBE_HALF))
    return torch.where(q.abs() == q.abs().amax(0), q.sign(), 0.0)


def normal_cylinder(p: Tensor) -> Tensor:
    cap = ((p[2] < 1e-3) | (p[2] > CYLINDER_HEIGHT - 1e-3)).to(p)
    up = (p[2] - CYLINDER_HEIGHT / 2).sign()
    return torch.stack((p[0] * (1 - cap), p[1] * (1 - cap), up * cap))


def normal_cone(p: Tensor) -> Tensor:
    radius = p[:2].square().sum(0).sqrt().clamp(min=1e-6)
    base = (p[2] < 1e-3).to(p)
    slope = CONE_RADIUS / CONE_HEIGHT
    return torch.stack((p[0] / radius * (1 - base), p[1] / radius * (1 - base), slope * (1 - base) - base))


def normal_torus(p: Tensor) -> Tensor:
    radius = p[:2].square().sum(0).sqrt().clamp(min=1e-6)
    ring = 1 - TORUS_MAJOR / radius
    return torch.stack((p[0] * ring, p[1] * ring, p[2] - TORUS_MINOR))


HITS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (hit_sphere, hit_cube, hit_cylinder, hit_cone, hit_torus)
NORMALS: tuple[Callable[[Tensor], Tensor], ...] = (
    normal_sphere,
    normal_cube,
    normal_cylinder,
    normal_cone,
    normal_torus,
)
