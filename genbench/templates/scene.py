"""The scene optimiser `newname`: a flat picture distilled from the 2D prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from safetensors.torch import save_file

from genbench.kinds import About, SceneJob
from genbench.options import Range

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Plane:
    """A scene that looks the same from everywhere: one picture (3, h, w)."""

    picture: Tensor

    def render(self, cameras: Sequence[Any]) -> Tensor:
        """Return one picture per camera, (n, 3, h, w) in [0, 1]."""
        return self.picture.expand(len(cameras), *self.picture.shape)

    def save(self, folder: Path) -> Sequence[Path]:
        """Write the scene and return its files."""
        save_file({"picture": self.picture.contiguous()}, folder / "newname.safetensors")
        return [folder / "newname.safetensors"]


@dataclass(frozen=True)
class Newname:
    """Score distillation (DreamFusion, arXiv:2209.14988, eq. 3) of latents that stand for a scene."""

    updates: Annotated[int, Range(1)] = 30  # optimiser steps
    rate: Annotated[float, Range(0)] = 0.1  # learning rate

    about: ClassVar[About] = About(
        "One line: how this makes a scene.",
        contract=1,
        paper="Author et al., Title",
        url="",
        license="",
        cost="updates",
    )

    def optimize(self, job: SceneJob) -> Plane:
        """Return the scene; randomness comes from `job.seed`."""
        ctx, draws = job.ctx, torch.Generator().manual_seed(job.seed)
        levels, denoise = ctx.schedule.levels[:-1], ctx.denoiser()
        x = torch.zeros(1, *ctx.model.latent_shape(ctx.height, ctx.width), device=ctx.model.device)
        with torch.no_grad():
            for _ in range(self.updates):
                level = levels[int(torch.randint(len(levels), (1,), generator=draws))]
                noise = torch.randn(x.shape, generator=draws).to(x)
                residual = denoise(level.alpha * x + level.sigma * noise, level).eps - noise
                x = x - self.rate * residual
            return Plane(ctx.model.decode(x)[0].cpu())
