"""Recognisable scenes for tests: a ball and three coloured axes, from which up, left and far can be told apart."""

from __future__ import annotations

import torch
from torch import Tensor

from genbench.scenes.gaussians import REST, SH_C0, Gaussians

RED, GREEN, BLUE, YELLOW = (0.9, 0.1, 0.1), (0.1, 0.7, 0.1), (0.1, 0.2, 0.9), (0.95, 0.9, 0.2)


def of(means: Tensor, colours: Tensor, size: float, opacity: float = 0.95, degree: int = 0) -> Gaussians:
    """Round Gaussians of one size (its deviation) and opacity; `colours` (n, 3) in [0, 1]."""
    count = len(means)
    return Gaussians(
        means=means,
        quats=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        scales=torch.full((count, 3), size).log(),
        opacities=torch.full((count,), opacity).logit(),
        sh0=((colours - 0.5) / SH_C0)[:, None],
        sh_rest=torch.zeros(count, REST[degree], 3),
    )


def join(*parts: Gaussians) -> Gaussians:
    return Gaussians.of(
        {name: torch.cat([part.parameters()[name] for part in parts]) for name in parts[0].parameters()}
    )


def sphere(count: int = 800, radius: float = 0.4, degree: int = 0) -> Gaussians:
    """A yellow ball, its upper half (y < 0) darker, on a Fibonacci lattice."""
    step = torch.arange(count) + 0.5
    height, turn = 1 - 2 * step / count, step * torch.pi * (1 + 5**0.5)
    flat = (1 - height**2).sqrt()
    points = radius * torch.stack([flat * turn.cos(), height, flat * turn.sin()], 1)
    colours = torch.tensor(YELLOW) * torch.where(points[:, 1:2] < 0, 0.55, 1.0)
    return of(points, colours, 1.2 * radius * (torch.pi / count) ** 0.5, degree=degree)


def axes(length: float = 1.0, degree: int = 0) -> Gaussians:
    """From the centre red to the right (+x), green down (+y), blue away (+z)."""
    along = torch.linspace(0.45, length, 24)[:, None]
    ends = [of(along * torch.eye(3)[k], torch.tensor([colour]).repeat(24, 1), 0.035, degree=degree)
            for k, colour in enumerate((RED, GREEN, BLUE))]  # fmt: skip
    return join(*ends)


def scene(degree: int = 0) -> Gaussians:
    """The ball and the axes; of degree 1 to 3 also random dependence on the direction."""
    out = join(sphere(degree=degree), axes(degree=degree))
    out.sh_rest[:] = 0.3 * torch.randn(out.sh_rest.shape, generator=torch.Generator().manual_seed(0))
    return out
