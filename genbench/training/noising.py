"""Noise levels to train at: those of the model's own schedule, another one for every sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genbench.kinds import Level, Model
from genbench.training.optimise import Turn

COUNT = 250
"""Levels that a training draws from, evenly over the schedule's time; of a thousand, some schedulers leave the last."""


def train_levels(model: Model, shape: tuple[int, ...], count: int = COUNT) -> tuple[Level, ...]:
    """Levels from the noisiest to the cleanest, as the model's sampler lays out a walk of `count` steps."""
    schedule = model.sampler.schedule(count, model, shape)
    return tuple(level for level in schedule.levels[:-1] if float(level.alpha) > 0 and float(level.sigma) > 0)


def levels_at(levels: Sequence[Level], rows: Sequence[int], dimensions: int, device: torch.device) -> Level:
    """One level per sample, as one: `t` (b,), alpha and sigma (b, 1, ...) to go with samples of `dimensions` axes."""
    chosen = [levels[row] for row in rows]
    wide = (len(rows),) + (1,) * (dimensions - 1)

    def column(values: Sequence[Tensor | float]) -> Tensor:
        return torch.stack([torch.as_tensor(value).to(device) for value in values]).reshape(wide)

    return Level(
        torch.stack([level.t.to(device) for level in chosen]),
        column([level.alpha for level in chosen]),
        column([level.sigma for level in chosen]),
        column([level.scale for level in chosen]),
    )


def noised(x0: Tensor, noise: Tensor, level: Level) -> Tensor:
    """alpha x0 + sigma noise."""
    return level.alpha * x0 + level.sigma * noise


def drawn(turn: Turn, shape: Sequence[int], count: int, purpose: str = "noise") -> tuple[Tensor, tuple[int, ...]]:
    """Noise (b, *shape) and a level in [0, count) for every sample of a turn, a function of the sample alone."""
    generators = [torch.Generator().manual_seed(seed) for seed in turn.seeds(purpose)]
    rows = tuple(int(torch.randint(count, (1,), generator=generator)) for generator in generators)
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators]), rows


def target_of(model: Model, clean: Tensor, noise: Tensor, level: Level) -> Tensor:
    """What the network should say of alpha x0 + sigma noise, in its own convention."""
    match model.prediction_type:
        case "epsilon":
            return noise
        case "sample":
            return clean
        case "v_prediction":
            return (level.alpha * noise - level.sigma * clean) / (level.alpha**2 + level.sigma**2) ** 0.5
        case "flow_prediction":
            return noise - clean
