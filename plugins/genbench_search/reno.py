"""ReNO (arXiv:2406.04312): gradient ascent of the reward in the initial noise, through sampler and decoder.

Loss per iteration: -reward + 0.01 (|n|^2 / 2 - (d - 1) log |n|), the last the negative log-density of a Gaussian's
norm; SGD with Nesterov momentum 0.9, gradient norm clipped to 0.1, learning rate 5; the iterate with the best reward
is kept. Made for one-step models; with checkpointing (each step is computed again for its gradient) it goes through
any number of steps.

From the second iterate on the picture is drawn from the noise rounded to half precision, so that a record of two
bytes per value remakes it exactly.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from genbench.errors import GenbenchError, UsageError
from genbench.kinds import Context, Space, State
from genbench_search.budget import Allowance
from genbench_search.running import Pool, held

T = TypeVar("T")
MOMENTUM = 0.9
WHOLE_STEPS = 4  # steps that are kept in memory for the gradient; longer walks are checkpointed


@dataclass(frozen=True)
class ReNO:
    """`iterations` walks; `rate` (learning rate), `clip` of the gradient's norm, `regulariser` of the noise's norm."""

    iterations: int = 50
    rate: float = 5.0
    clip: float = 0.1
    regulariser: float = 0.01

    scale: ClassVar[str] = "iterations"
    least: ClassVar[int] = 1
    stepwise: ClassVar[bool] = True
    reward: ClassVar[bool] = True

    def evaluations(self, walk: int, ctx: Context) -> int:
        """I k; with checkpointing (2 I - 1) k, for the last needs no gradient. Backward passes are not counted."""
        return self.iterations * walk + (self.iterations - 1) * (walk if checkpointed(ctx) else 0)

    def search(self, space: Space, pool: Pool, allowance: Allowance) -> Pool:
        """Climb for as many iterations as are wanted and allowed."""
        noise, seeds = space.propose(1)
        with torch.enable_grad():  # a verifier without gradient is known before the first walk
            _reward(space, noise.new_full((1, 3, space.ctx.height, space.ctx.width), 0.5).requires_grad_())
        velocity = torch.zeros_like(noise, dtype=torch.float32)
        drawn, made = noise, {"seed": seeds[0]}
        noise = noise.float()
        for i in range(self.iterations):
            with torch.enable_grad():
                leaf = drawn.detach().requires_grad_()
                state = walk(space, leaf, seeds)
                images = space.decode(state)
                try:
                    reward = _reward(space, images)
                except GenbenchError as error:
                    if pool.leader is None:
                        raise
                    return replace(pool, stopped=str(error))
                watched = held(space, images.detach())
                pool = pool.add(state, [made], [(float(reward.detach()),)], watched)
                if i + 1 == self.iterations or allowance.left(space) < 2 * space.price():
                    return pool
                (slope,) = torch.autograd.grad(-reward, leaf)
            noise, velocity = self.stepped(noise, slope.float(), velocity)
            if not torch.isfinite(noise).all():
                return replace(pool, stopped="the gradient of the verifier is not finite")
            half = noise.half()
            drawn, made = half.to(drawn), {"seed": seeds[0], "iteration": i + 1, "noise": coded(half)}
        return pool

    def stepped(self, n: Tensor, slope: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """Return noise (1, ...) and velocity after a step along `slope`, the gradient of -reward."""
        r = n.norm()
        gradient = slope + self.regulariser * (n - (n.numel() - 1) * n / r.square())
        gradient = gradient * (self.clip / gradient.norm().clamp(min=1e-12)).clamp(max=1.0)
        velocity = MOMENTUM * velocity + gradient
        return n - self.rate * (gradient + MOMENTUM * velocity), velocity

    def noise(self, space: Space, trace: Sequence[Mapping[str, Any]], row: int) -> tuple[Tensor, int]:
        """Return the noise of the winner (1, ...) and the seed of its step noise."""
        made, own = trace[row], space.ctx.seeds[0]
        first = space.redraw([own])
        return (decoded(made["noise"], first) if "noise" in made else first), own

    def remake(self, space: Space, trace: Sequence[Mapping[str, Any]], row: int) -> State:
        """Return the finished state of the winner: one walk."""
        noise, seed = self.noise(space, trace, row)
        with torch.enable_grad():  # kernels may differ without
            state = walk(space, noise.requires_grad_(), [seed])
        return state.replace(x=state.x.detach())


def checkpointed(ctx: Context) -> bool:
    """Whether the walk is too long to be kept in memory whole."""
    return ctx.schedule.steps > WHOLE_STEPS


def walk(space: Space, leaf: Tensor, seeds: Sequence[int]) -> State:
    """Walk one noise to the end with gradients."""
    if not checkpointed(space.ctx):
        return space.run(space.start(leaf, seeds))
    state = _recomputed(lambda noise: space.run(space.start(noise, seeds), 1), leaf)
    while state.index < space.ctx.schedule.steps:
        state = _recomputed(partial(space.run, until=state.index + 1), state)
    return state


def _recomputed(part: Callable[[T], State], given: T) -> State:
    """Take part of a walk again for its gradient, whole, so that what it costs does not vary."""
    with set_checkpoint_early_stop(False):
        return cast(State, checkpoint(part, given, use_reentrant=False, preserve_rng_state=False))


def _reward(space: Space, images: Tensor) -> Tensor:
    reward = space.score(images)[0]
    if not reward.requires_grad:
        raise UsageError(
            f"algorithm=reno climbs a gradient and verifier={','.join(space.verifiers)} has none; choose another "
            "verifier, or algorithm=zero-order"
        )
    return reward


def coded(half: Tensor) -> str:
    """Return half-precision values as text, 2.7 characters each."""
    return base64.b64encode(half.cpu().numpy().astype("<f2").tobytes()).decode()


def decoded(text: str, like: Tensor) -> Tensor:
    """Return coded values in the shape, dtype and device of `like`."""
    values = np.frombuffer(base64.b64decode(text), "<f2").astype(np.float16)
    return torch.from_numpy(values).reshape(like.shape).to(like)
