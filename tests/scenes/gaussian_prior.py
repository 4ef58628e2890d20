"""An exact prior in float64: data N(m_y, s^2 I) for each prompt, so that eps(x_t; t, y) is known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genbench.kinds import Conditioning, Level, Prediction
from genbench.scenes.prior import Prior
from genbench.scenes.prompting import Texts
from genbench.scenes.scores import Sight

COUNT, SHAPE = 1000, (4, 8, 8)


@dataclass(frozen=True)
class GaussianModel:
    """Told `mean` (b, 1, 1, 1); `rows` remembers the calls: (t, mean) of every row."""

    deviation: float = 0.5
    name: str = "gaussian"
    dtype: torch.dtype = torch.float64
    recommended: dict[str, object] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rows: list[Tensor] = field(default_factory=list)

    def denoiser(self, conditioning: Conditioning, guidance_scale: float) -> Callable[[Tensor, Level], Prediction]:
        mean = conditioning.positive["mean"]

        def denoise(x: Tensor, level: Level) -> Prediction:
            self.rows.append(torch.stack([level.t.double(), mean.flatten()], 1))
            variance = (level.alpha * self.deviation) ** 2 + level.sigma**2
            eps = level.sigma * (x - level.alpha * mean) / variance
            return Prediction(eps, x, level, "epsilon")

        return denoise

    def encode_image(self, images: Tensor) -> Tensor:
        return images


def prior(**changes: Any) -> Prior:
    """Stable Diffusion's levels over the exact model."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, COUNT, dtype=torch.float64) ** 2
    alpha_bar = (1 - betas).cumprod(0)
    model: Any = GaussianModel(**changes)
    return Prior(model, torch.arange(COUNT), alpha_bar**0.5, (1 - alpha_bar) ** 0.5, *SHAPE[1:])


def sight(
    z: Tensor,
    over: Prior,
    progress: float = 0.0,
    scale: float = 7.5,
    seed: int = 0,
    prompt: float = 1.0,
    negative: float = 0.0,
    empty: float = 0.0,
) -> Sight:
    """What a direction is asked; each text is its mean."""
    means = [{"mean": torch.full((len(z), 1, 1, 1), mean, dtype=z.dtype)} for mean in (prompt, negative, empty)]
    return Sight(over, z, Texts(*means), scale, progress, torch.Generator().manual_seed(seed))


def latents(rows: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
