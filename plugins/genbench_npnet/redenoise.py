"""Re-denoise sampling (arXiv:2411.09502, section 3.2): one step down with high guidance, the same step back with low.

    x_1  = DDIM(x_0 -> level 1) with guidance w_l          level 0 is the noisiest of the walk
    x_0' = DDIM(x_1 -> level 0) with guidance w_w < w_l

To first order in the step, x_0' - x_0 = C (w_l - w_w) (eps_c - eps_u): the noise moves towards what the prompt, and
not the empty prompt, predicts. These noises are what NPNet learns to give in one pass; `redenoise` gives them at the
price of their network evaluations, on any model with guidance and without any training.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from genbench.errors import UsageError
from genbench.kinds import About, Context, Denoise, Level, Model, Schedule, Start
from genbench.sampling import move

PAPER = "Zhou et al., Golden Noise for Diffusion Models: A Learning Framework, ICCV 2025"
URL = "https://arxiv.org/abs/2411.09502"


def golden_target(noise: Tensor, schedule: Schedule, strong: Denoise, weak: Denoise, rounds: int = 1) -> Tensor:
    """Return x_0' of unit-variance `noise` (b, ...), again unit-variance in scale; `rounds` is the paper's T_max.

    Float32 or better, whatever the dtype of the noise, which the network is asked in.

    The way back asks the network at x_1 about level 1, where x_1 lies, and ends exactly on level 0. The official code
    asks about level 0; the two differ by O(step^2), and with a current diffusers its inversion ends one level off.
    """
    first, second = schedule.levels[:2]
    x = noise.to(torch.promote_types(noise.dtype, torch.float32)) * schedule.init_scale
    for _ in range(rounds):
        x = move(move(x, strong, first, second, noise.dtype), weak, second, first, noise.dtype)
    return x / schedule.init_scale


def check_guided(x: Tensor, level: Level, strong: Denoise, weak: Denoise, model: Model) -> None:
    """A distilled model takes its guidance as an input or has none; then both scales predict the same: UsageError."""
    if torch.equal(strong(x, level).raw, weak(x, level).raw):
        raise UsageError(
            f"redenoise follows guidance, and model={model.name or model.family} predicts the same at any "
            "guidance_scale; choose a model with guidance"
        )


@dataclass(frozen=True)
class Redenoise:
    """Golden noise by its definition, without a network: what NPNet is trained to give (arXiv:2411.09502)."""

    strength: float = field(default=1.0, metadata={"range": (0, None)})  # share of the way to the target; 0 is neutral
    high: float = 5.5  # guidance scale w_l of the step down
    low: float = 1.0  # guidance scale w_w of the way back
    steps: int = field(default=10, metadata={"range": (2, None)})  # the step's length: the first of a walk in so many
    rounds: int = field(default=1, metadata={"range": (1, None)})  # T_max: how often

    about: ClassVar[About] = About(
        "Golden noise by re-denoise sampling: down with high guidance, back with low.",
        paper=PAPER,
        url=URL,
        cost="plain + 3 per round (2 down, 1 back; 4 where low is neither 0 nor 1)",
        neutral={"strength": 0.0},
        cache_safe=True,
    )

    def transform_noise(self, start: Start, ctx: Context) -> Start:
        """Move the noise (b, ...) towards its target. Raises UsageError where the model has no text to follow."""
        if self.strength == 0:
            return start
        target = self.target(start.noise, ctx)
        moved = self.strength * (target - start.noise)
        return replace(start, noise=(start.noise + moved).to(start.noise.dtype))

    def target(self, noise: Tensor, ctx: Context) -> Tensor:
        """The re-denoise target of every row of `noise` (b, ...), float32 or better.

        Raises UsageError where the model has no guidance.
        """
        conditioning = ctx.conditioning
        if conditioning.negative is None:
            conditioning = ctx.encode_prompt(ctx.prompts)
        strong = ctx.denoiser(guidance_scale=self.high, conditioning=conditioning)
        weak = ctx.denoiser(guidance_scale=self.low, conditioning=conditioning)
        schedule = ctx.sampler.schedule(self.steps, ctx.model, tuple(noise.shape[1:]))
        if schedule.steps < 2:
            raise UsageError(f"redenoise.steps={self.steps} gives a walk of one step; write 2 or more")
        if conditioning.negative is None and self.high != self.low:
            check_guided(noise * schedule.init_scale, schedule.levels[0], strong, weak, ctx.model)
        return golden_target(noise, schedule, strong, weak, self.rounds)

    def evaluations(self, plain: int, ctx: Context) -> int:
        """Network evaluations of one picture, where a plain one takes `plain`: two for a guided call, one at 0 and 1.

        One call fewer each where the model takes guidance as an input.
        """
        extra = self.rounds * sum(1 if scale in (0, 1) else 2 for scale in (self.high, self.low))
        return plain if self.strength == 0 else plain + extra
