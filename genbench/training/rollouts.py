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
    batch: int = 16  # pictures at once, where no gradient is wanted

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
    def latents(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Clean latents (b, ...), without gradients, `batch` at a time."""
        parts = [slice(at, at + self.batch) for at in range(0, len(seeds), self.batch)]
        return torch.cat([self._latents(prompts[part], seeds[part]) for part in parts])

    def _latents(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        ctx = self.context(prompts, seeds)
        step = sampling.trajectory(Chain(), ctx)
        return sampling.sample(self.begin(ctx), step, ctx.denoiser(), ctx.schedule.steps).x

    @torch.no_grad()
    def pictures(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Pictures (b, 3, h, w) in [0, 1], on the CPU."""
        return self.decoded(self.latents(prompts, seeds))

    @torch.no_grad()
    def decoded(self, latents: Tensor) -> Tensor:
        """The pictures of latents, `batch` at a time."""
        parts = [latents[at : at + self.batch] for at in range(0, len(latents), self.batch)]
        return torch.cat([self.model.decode(part).cpu() for part in parts])
