"""The sampling chain with gradients: the last steps from the picture back to the weights (arXiv:2310.03739).

Steps before the first kept one run without a graph. That is exactly the gradient of keeping the graph and cutting
only the network's outputs: before the first kept step the latent does not depend on the weights. So memory grows with
the kept part of the chain, and each kept step is computed again in the backward pass instead of stored.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from genbench import streams
from genbench.kinds import Context, Denoise, Level, Prediction, PredictionType, State


@dataclass
class Divergence:
    """KL of the kept steps between the trained and the base model, up to a factor: sum of |eps - eps_base|^2 / d (b,).

    DRaFT+ (NeMo-Aligner): the two steps are Gaussians of one variance. `base` is asked at the points of the chain.
    """

    base: Denoise
    total: list[Tensor] = field(default_factory=list[Tensor])

    def add(self, prediction: Prediction) -> None:
        """Note one kept prediction."""
        with torch.no_grad():
            base = self.base(prediction.x, prediction.level).eps
        at = Prediction(prediction.raw, prediction.x.detach(), prediction.level, prediction.type)
        self.total.append((at.eps - base).square().flatten(1).mean(1))

    def sum(self) -> Tensor:
        """The sum over the steps noted, (b,)."""
        return torch.stack(self.total).sum(0)


def walk(ctx: Context, state: State, kept: Sequence[bool], divergence: Divergence | None = None) -> State:
    """Sample from `state` to the end; only the steps in `kept` (one per outer step) pass gradients to the weights."""
    own = ctx.denoiser()
    first = next((index for index, keep in enumerate(kept) if keep), len(kept))
    with without_graph():
        while state.index < first:
            state = ctx.sampler.step(state, own, ctx)
    learning = checkpointed(own, divergence)
    while state.index < len(kept):
        state = ctx.sampler.step(state, learning if kept[state.index] else constant(own), ctx)
    return state


@contextmanager
def without_graph() -> Generator[None]:
    """No graph, and nothing kept of it: autocast would hand the weights that it cast here to steps that learn."""
    with torch.no_grad():
        yield
    torch.clear_autocast_cache()


def constant(denoise: Denoise) -> Denoise:
    """A denoiser whose network output is a number: the latent's own path through the solver keeps its gradient."""

    def told(x: Tensor, level: Level) -> Prediction:
        with without_graph():
            prediction = denoise(x, level)
        return Prediction(prediction.raw, x, level, prediction.type)

    return told


def checkpointed(denoise: Denoise, divergence: Divergence | None = None) -> Denoise:
    """A denoiser that keeps its input alone and computes again in the backward pass (arXiv:1604.06174)."""
    kinds: list[PredictionType] = []

    def raw(x: Tensor, level: Level) -> Tensor:
        prediction = denoise(x, level)
        kinds.append(prediction.type)
        return prediction.raw

    def told(x: Tensor, level: Level) -> Prediction:
        again: Any = checkpoint(raw, x, level, use_reentrant=False)
        prediction = Prediction(cast(Tensor, again), x, level, kinds[-1])
        if divergence is not None:
            divergence.add(prediction)
        return prediction

    return told


def last_steps(ctx: Context, finished: State, draws: int) -> State:
    """DRaFT-LV: noise the finished latents (b, ...) back to the last step `draws` times and take it with gradients.

    Returns draws x b rows, all of draw 0 first: the gradient of their mean is that of DRaFT-1 with `draws` times the
    samples for one walk. The noise goes on from each row's own stream.
    """
    index = ctx.schedule.steps - 1
    level = ctx.schedule.levels[index]
    x0, rng, rows = finished.x.detach(), finished.rng, list(range(len(finished.x)))
    noisy: list[Tensor] = []
    for _ in range(draws):
        noise, rng = streams.normal(rng, x0.shape[1:], x0.dtype, x0.device)
        noisy.append(level.alpha * x0 + level.sigma * noise)
    repeated = ctx.rows(rows * draws)
    state = State(torch.cat(noisy), index, {}, streams.fork(rng, rows * draws))
    return repeated.sampler.step(state, checkpointed(repeated.denoiser()), repeated)
