"""Toy mixtures, exact scores: `python -m genbench_lml.measure` prints how near each sampler comes to the exact law.

Two mixtures of Gaussians on the noise schedule of the released code (linear betas, 1000 levels): 3072 dimensions, as a
picture of CIFAR-10 has, with four components of standard deviation 0.25, and 2 dimensions with eight on a ring. Rows
are the base (DPM-Solver of order 1, which is DDIM), the released formula in float32 at its published lambda, the base
with explicit multiplicative noise of the size of that formula's rounding, the tilt, and the curvature; columns are
network calls. A cell holds the sliced Wasserstein distance to a fresh sample of the exact law, mean and standard error
over repeats, and the standard deviation around the nearest component.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from genbench import solvers
from genbench.kinds import Conditioning, Context, Denoise, Ledger, Level, Model, Prediction, Sampler, Schedule, State
from genbench.options import parse_words
from genbench.schedulers import SchedulerSampler
from genbench_lml import LML
from genbench_lml.transform import literal, norm

CALLS = (5, 8, 10, 15, 20)
PUBLISHED = {5: 8e-4, 8: 1e-3, 10: 8e-4, 15: 1e-3, 20: 5e-4}
"""The released readme's lambda by number of steps."""
PROJECTIONS = 256


@dataclass(frozen=True)
class Mixture:
    """p(x0) = mean of N(m_k, s^2 I), means (k, d); as much of a model as a sampler asks for."""

    means: Tensor
    s: float
    name: str = "mixture"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    @cached_property
    def sampler(self) -> SchedulerSampler:
        return SchedulerSampler(DDIMScheduler(clip_sample=False, timestep_spacing="trailing", steps_offset=1))

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n points of the exact law, (n, d)."""
        of = torch.randint(len(self.means), (n,), generator=generator)
        return self.means[of] + self.s * torch.randn(n, self.means.shape[1], generator=generator)

    def denoise(self, x: Tensor, level: Level) -> Prediction:
        """The exact posterior mean, told as eps."""
        a, variance = level.alpha, level.alpha**2 * self.s**2 + level.sigma**2
        distance = x.square().sum(1, keepdim=True) - 2 * a * x @ self.means.T + (a * self.means).square().sum(1)
        mean = (-distance / (2 * variance)).softmax(1) @ self.means
        x0 = mean + a * self.s**2 / variance * (x - a * mean)
        return Prediction(solvers.x0_to_eps(x0, x, a, level.sigma), x, level, "epsilon")

    def residual(self, x: Tensor) -> float:
        """Standard deviation of points (n, d) around the nearest component; s for the exact law."""
        nearest = self.means[torch.cdist(x, self.means).argmin(1)]
        return float((x - nearest).square().mean().sqrt())


def pictures() -> Mixture:
    """3072 dimensions, four components."""
    return Mixture(0.5 * torch.randn(4, 3072, generator=torch.Generator().manual_seed(0)), 0.25)


def ring() -> Mixture:
    """2 dimensions, eight components at radius 1."""
    angles = torch.arange(8) * math.pi / 4
    return Mixture(torch.stack([angles.cos(), angles.sin()], 1), 0.1)


@dataclass(frozen=True)
class Noisy:
    """A base whose increment is multiplied by 1 + size * z, z white, `size` the literal formula's own deviation."""

    base: LML
    lamb: float

    def schedule(self, steps: int, model: Model, shape: tuple[int, ...]) -> Schedule:
        return self.base.schedule(steps, model, shape)

    def step(self, state: State, denoise: Denoise, ctx: Context) -> State:
        following = self.base.step(state, denoise, ctx)
        here, there = ctx.schedule.levels[state.index : state.index + 2]
        drift = there.alpha / here.alpha * state.x
        v = following.x - drift
        size = (norm(literal(v, None, self.lamb, 0.0) - v) / norm(v)).nan_to_num(1.0).clamp(max=1.5)
        z = torch.randn(v.shape, generator=torch.Generator().manual_seed(state.index))
        noisy = v * (1 + size * z)
        return following.replace(x=drift + noisy * norm(v) / norm(noisy))


def walk(mixture: Mixture, sampler: Sampler, steps: int, noise: Tensor) -> Tensor:
    """Take noise (n, d) to the end of the schedule."""
    model = cast(Any, mixture)
    schedule = sampler.schedule(steps, model, tuple(noise.shape[1:]))
    nothing = Conditioning({})
    unused: Any = None
    ctx = Context(Ledger(), unused, unused, model, sampler, schedule, nothing, (), (), 1.0)
    state = State(noise * schedule.init_scale)
    while state.index < schedule.steps:
        state = sampler.step(state, mixture.denoise, ctx)
    return state.x


def sliced(x: Tensor, y: Tensor, generator: torch.Generator) -> float:
    """Sliced 2-Wasserstein distance of two samples of equal size (n, d), over random directions."""
    directions = torch.randn(x.shape[1], PROJECTIONS, generator=generator)
    directions = directions / directions.norm(dim=0)
    one, other = ((points @ directions).sort(0).values for points in (x, y))
    return float((one - other).square().mean().sqrt())


Row = Callable[[int], tuple[Sampler, int]]
"""Network calls -> sampler and steps."""


def rows() -> Mapping[str, Row]:
    first: dict[str, Any] = {"base": "dpm", "order": 1}
    base = LML(strength=0.0, **first)
    return {
        "base": lambda n: (base, n),
        "published": lambda n: (LML(mode="published", lamb=PUBLISHED[n], **first), n),
        "published, lambda x 100": lambda n: (LML(mode="published", lamb=100 * PUBLISHED[n], **first), n),
        "explicit noise": lambda n: (Noisy(base, PUBLISHED[n]), n),
        "stable 0.1": lambda n: (LML(mode="stable", strength=0.1, **first), n),
        "stable 0.5": lambda n: (LML(mode="stable", strength=0.5, **first), n),
        "curvature": lambda n: (LML(**first), n),
        "curvature, ritz=spectrum": lambda n: (LML(ritz="spectrum", **first), n),
        "curvature, rank=1": lambda n: (LML(rank=1, **first), n // 2),
        "dpmpp_2m": lambda n: (LML(base="dpmpp", strength=0.0), n),
        "curvature, base=dpmpp, ritz=spectrum": lambda n: (LML(base="dpmpp", ritz="spectrum"), n),
    }


def table(mixture: Mixture, n: int, repeats: int) -> list[str]:
    """Lines of markdown."""
    lines = [f"| exact {mixture.s:g} | " + " | ".join(f"{calls} calls" for calls in CALLS) + " |"]
    lines += ["|---" * (len(CALLS) + 1) + "|"]
    for name, row in {"another exact sample": None, **rows()}.items():
        cells = [_cell(mixture, row, calls, n, repeats) for calls in CALLS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _cell(mixture: Mixture, row: Row | None, calls: int, n: int, repeats: int) -> str:
    found: list[tuple[float, float]] = []
    for repeat in range(repeats):
        draws = torch.Generator().manual_seed(repeat)
        noise, true = torch.randn(n, mixture.means.shape[1], generator=draws), mixture.draw(n, draws)
        made = mixture.draw(n, draws) if row is None else walk(mixture, *row(calls), noise)
        found.append((sliced(made, true, torch.Generator().manual_seed(repeat)), mixture.residual(made)))
    distances = torch.tensor([distance for distance, _ in found])
    error = float(distances.std()) / repeats**0.5 if repeats > 1 else 0.0
    spread = sum(each for _, each in found) / repeats
    return f"{float(distances.mean()):.4f} ± {error:.4f}, {spread:.3f}"


def main(words: Sequence[str]) -> None:
    """Words: n=1024 points, repeats=5."""
    asked = parse_words(words)
    n, repeats = int(str(asked.get("n", 1024))), int(str(asked.get("repeats", 5)))
    with torch.no_grad():
        for title, mixture in (("3072 dimensions", pictures()), ("2 dimensions", ring())):
            print(f"{title}, n = {n}, repeats = {repeats}\n")  # noqa: T201  # its purpose
            print("\n".join(table(mixture, n, repeats)) + "\n")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
