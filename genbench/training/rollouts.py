"""Pictures drawn while a model is trained: the same walk as `genbench run`, from prompts and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genbench import sampling
from genbench.chain import Chain
from genbench.kinds import Context, Model, Resources, State


@dataclass(frozen=True)
class Rollout:
    """How a model is asked for pictures; None means as the model recommends."""

    resources: Resources
    model: Model
    steps: int | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None

    def of(self, model: Model) -> Rollout:
        """The same walk of another model."""
        return replace(self, model=model)

    def _setting(self, name: str) -> float:
        own = getattr(self, name)
        return float(str(self.model.recommended[name] if own is None else own))

    @torch.no_grad()
    def context(self, prompts: Sequence[str], seeds: Sequence[int]) -> Context:
        """Encode b prompts and lay out the schedule; no gradient goes into the text."""
        return sampling.context(
            self.resources,
            self.model,
            self.model.sampler,
            prompts=prompts,
            seeds=seeds,
            steps=int(self._setting("steps")),
            guidance_scale=self._setting("guidance_scale"),
            height=int(self._setting("height")),
            width=int(self._setting("width")),
        )

    def begin(self, ctx: Context) -> State:
        """The first state of each picture, from its own stream."""
        shape = ctx.model.latent_shape(ctx.height, ctx.width)
        return sampling.launch(Chain(), ctx, *sampling.fresh_noise(ctx, shape))

    @torch.no_grad()
    def latents(self, prompts: Sequence[str], seeds: Sequence[int], batch: int = 16) -> Tensor:
        """Clean latents (b, ...), without gradients, `batch` at a time."""
        walks = [self._latents(prompts[at : at + batch], seeds[at : at + batch]) for at in range(0, len(seeds), batch)]
        return torch.cat(walks)

    def _latents(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        ctx = self.context(prompts, seeds)
        step = sampling.trajectory(Chain(), ctx)
        return sampling.sample(self.begin(ctx), step, ctx.denoiser(), ctx.schedule.steps).x

    @torch.no_grad()
    def pictures(self, prompts: Sequence[str], seeds: Sequence[int], batch: int = 16) -> Tensor:
        """Pictures (b, 3, h, w) in [0, 1]."""
        latents = self.latents(prompts, seeds, batch)
        return torch.cat([self.model.decode(latents[at : at + batch]).cpu() for at in range(0, len(latents), batch)])
