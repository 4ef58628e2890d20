"""The walk of a distilled student: a few levels of the model's noise schedule, the clean prediction noised in between.

    x_1 = sigma_1 z_1,   x0_k = G(x_k, t_k),   x_{k+1} = alpha_{k+1} x0_k + sigma_{k+1} z_{k+1},   the picture is x0_K

With one step it is the one-step generator of arXiv:2406.01561, with several the consistency walk of arXiv:2303.01469
(algorithm 1) and arXiv:2405.14867. A training walks the same levels, `levels_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genbench import streams
from genbench.backbones.base import PipelineModel
from genbench.errors import UsageError
from genbench.kinds import Context, Denoise, Level, Model, Sampler, Schedule, State
from genbench.schedulers import SchedulerSampler, scheduler_prediction_type

LAYOUT = 1000
"""Levels that are laid out to find those of given times."""


@dataclass(frozen=True)
class FewStep:
    """`kinds.Sampler` of a student. `times` in (0, 1], the first ones of which a walk of fewer steps takes.

    `init_scale` multiplies the first noise; None: sigma of the first level. `as_told`: times are t / 1000, as the
    network is told them, whatever shift a flow's own schedule has. `own` is the model's sampler, needed for models that
    are no diffusers pipelines.
    """

    times: tuple[float, ...]
    own: Sampler | None = None
    init_scale: float | None = None
    as_told: bool = False

    def schedule(self, steps: int, model: Model, shape: tuple[int, ...]) -> Schedule:
        """Return the first `steps` levels. Raises UsageError where there are fewer times than that."""
        check_steps(steps, self.times)
        levels = levels_of(model, shape, self.times[:steps], as_told=self.as_told)
        scale = levels[0].sigma if self.init_scale is None else self.init_scale
        return Schedule((*levels, _clean(levels[0])), tuple((level,) for level in levels), scale)

    def step(self, state: State, denoise: Denoise, ctx: Context) -> State:
        """Predict the picture; noise it to the next level, but for the last. `step_noise` as in `kinds.Start`."""
        here, there = ctx.schedule.levels[state.index : state.index + 2]
        x0 = denoise(state.x, here).x0
        if state.index + 1 == ctx.schedule.steps:
            return state.replace(x=x0, index=state.index + 1)
        noise, rng = _step_noise(state)
        return state.replace(x=there.alpha * x0 + there.sigma * noise, index=state.index + 1, rng=rng)


def check_steps(steps: int, times: Sequence[float]) -> None:
    """Raise UsageError unless a student with these times takes that many steps."""
    if not 1 <= steps <= len(times):
        most = f"1 to {len(times)} steps" if len(times) > 1 else "one step"
        told = ", ".join(f"{time:g}" for time in times)
        raise UsageError(f"steps={steps}: this student was made for {most} (times {told}); give steps={len(times)}")


def levels_of(
    model: Model, shape: tuple[int, ...], times: Sequence[float], *, as_told: bool = False
) -> tuple[Level, ...]:
    """Levels of the model's own noise schedule at `times` in (0, 1], for one latent of `shape`.

    A time is the share of the schedule that lies below: t / 1000 of diffusion models; of flows it is sigma where the
    schedule has no shift, and with one the sigma that the shift makes of it (`as_told`: sigma itself, unshifted).
    Diffusion levels are x = alpha x0 + sigma noise with alpha^2 + sigma^2 = 1, whatever the model's own solver walks.
    """
    scheduler = _scheduler(model)
    if scheduler is None:
        return _shares(_laid_out(model, shape), times, 1)
    if scheduler_prediction_type(scheduler) != "flow_prediction":
        return tuple(_diffusion_level(scheduler, time, model) for time in times)
    if as_told:
        return tuple(_flow_level(time, model.device) for time in times)
    schedule = SchedulerSampler(scheduler).schedule(int(scheduler.config.num_train_timesteps), model, shape)
    return _shares(schedule.levels[:-1], times, 0)


def _scheduler(model: object) -> Any:
    """The scheduler that a diffusers pipeline came with, and was trained by; None for other models."""
    return model.pipeline.scheduler if isinstance(model, PipelineModel) else None


def _diffusion_level(scheduler: Any, time: float, model: Model) -> Level:
    """The level of training timestep t. Read here: solvers with an offset, or sigmas of their own, skip some t."""
    last = len(scheduler.alphas_cumprod) - 1
    if model.prediction_type == "epsilon" and float(scheduler.alphas_cumprod[last]) == 0.0:
        last -= 1  # no picture can be read off noise alone where the network predicts the noise
    t = min(max(round(time * len(scheduler.alphas_cumprod)), 0), last)
    alpha_cumprod = scheduler.alphas_cumprod[t]
    return Level(torch.tensor(t, device=model.device), alpha_cumprod**0.5, (1 - alpha_cumprod) ** 0.5)


def _shares(levels: Sequence[Level], times: Sequence[float], top: int) -> tuple[Level, ...]:
    """The levels at shares of a layout, noisiest first, whose first one lies at share 1 - top / len(levels)."""
    first = len(levels) - top
    return tuple(levels[min(max(first - round(time * len(levels)), 0), len(levels) - 1)] for time in times)


def _laid_out(model: Model, shape: tuple[int, ...]) -> list[Level]:
    """All levels of a schedule from which a picture can be read, of a model that is no pipeline."""
    sampler: Sampler | None = model.sampler
    while isinstance(sampler, FewStep):
        sampler = sampler.own
    if sampler is None:
        raise ValueError("a model that is no diffusers pipeline has its schedule in FewStep(times, own=model.sampler)")
    levels = sampler.schedule(LAYOUT, model, shape).levels
    return [level for level in levels if float(level.sigma) > 0 and float(level.alpha) > 0]


def _flow_level(time: float, device: torch.device) -> Level:
    sigma = torch.tensor(time, device=device)
    return Level(LAYOUT * sigma, 1 - sigma, sigma)


def _clean(level: Level) -> Level:
    """The level of the finished picture."""
    return Level(torch.zeros_like(level.t), torch.ones_like(level.alpha), torch.zeros_like(level.sigma))


def _step_noise(state: State) -> tuple[Tensor, streams.Streams]:
    if "step_noise" in state.memory:
        return state.memory["step_noise"][:, state.index], state.rng
    return streams.normal(state.rng, state.x.shape[1:], state.x.dtype, state.x.device)
