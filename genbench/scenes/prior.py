"""A text-to-image model as the prior of a scene: its noise prediction at any level, another one for every row.

x_t = alpha_t z + sigma_t eps over a table of levels that grow noisier with t = 0 .. count - 1: of diffusion models the
1000 training timesteps, of rectified flows as many shares of their schedule. What the network says is read as eps,
whatever its own convention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from genbench.backbones.base import PipelineModel
from genbench.backbones.folders import check_safetensors, read_index
from genbench.errors import ModelError
from genbench.fewstep import levels_of
from genbench.kinds import Conditioning, Denoise, Level, Model

COUNT = 1000
Told = Mapping[str, Tensor]
"""Keyword tensors that tell the network of a prompt, b rows."""
Ask = tuple[Tensor, Tensor, Told]
"""Noisy latents (b, ...), whole timesteps (b,), what the network is told, b rows."""


@dataclass(frozen=True)
class Prior:
    """A model at one size. `times` (count,) are what the network is told, `alphas` and `sigmas` (count,) its levels."""

    model: Model
    times: Tensor
    alphas: Tensor
    sigmas: Tensor
    height: int
    width: int

    @staticmethod
    def of(model: Model, height: int, width: int) -> Prior:
        """The prior that a model is. Raises ModelError where it cannot encode a picture."""
        if isinstance(model, PipelineModel) and getattr(model.pipeline, "vae", None) is None:
            raise ModelError(f"model={model.name} {NO_ENCODER}")
        shape = model.latent_shape(height, width)
        levels = levels_of(model, shape, [t / COUNT for t in range(COUNT)])
        told, alphas, sigmas = (
            torch.stack([torch.as_tensor(getattr(level, name)).to(model.device) for level in levels])
            for name in ("t", "alpha", "sigma")
        )
        return Prior(model, told, alphas.float(), sigmas.float(), height, width)

    @property
    def count(self) -> int:
        """How many levels there are."""
        return len(self.times)

    def alpha(self, t: Tensor) -> Tensor:
        """Of whole timesteps (b,): (b, 1, 1, 1)."""
        return self.alphas[t.to(self.alphas.device)][:, None, None, None]

    def sigma(self, t: Tensor) -> Tensor:
        """Of whole timesteps (b,): (b, 1, 1, 1)."""
        return self.sigmas[t.to(self.sigmas.device)][:, None, None, None]

    def noised(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """alpha_t z + sigma_t noise."""
        return self.alpha(t) * z + self.sigma(t) * noise

    def moved(self, x: Tensor, eps: Tensor, t: Tensor, to: Tensor) -> Tensor:
        """x at timesteps t taken to others by one step of DDIM, down or up (arXiv:2010.02502, eq. 12, eta = 0)."""
        clean = (x - self.sigma(t) * eps) / self.alpha(t)
        return self.noised(clean, eps, to)

    def eps(self, *asked: Ask) -> tuple[Tensor, ...]:
        """The predicted noise (b, ...) of every ask, from one call of the network, rows in the order asked.

        Gradients are left to the caller; score distillation takes none through the network.
        """
        x, t = torch.cat([x for x, _, _ in asked]), torch.cat([t for _, t, _ in asked]).to(self.times.device)
        told = {name: torch.cat([part[name] for _, _, part in asked]) for name in asked[0][2]}
        level = Level(self.times[t], self.alpha(t), self.sigma(t))
        denoise = self._denoiser(told)
        prediction = denoise(x.to(self.model.dtype), level)
        return torch.split(prediction.eps.to(x.dtype), [len(part) for part, _, _ in asked])

    def _denoiser(self, told: Told) -> Denoise:
        """Each row is conditioned by its own keywords, guidance is the caller's; a distilled scale is told as usual."""
        return self.model.denoiser(Conditioning(told), self._distilled_guidance)

    @cached_property
    def _distilled_guidance(self) -> float:
        return float(str(self.model.recommended.get("guidance_scale", 1.0)))

    def encode(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures (b, 3, h, w) in [0, 1] of any size to clean latents, drawn from the VAE's posterior; differentiable.

        In the VAE's own precision, which for models whose VAE overflows in float16 is float32.
        """
        if pictures.shape[-2:] != (self.height, self.width):
            pictures = interpolate(pictures, (self.height, self.width), mode="bilinear", align_corners=False)
        vae = self.model.pipeline.vae if isinstance(self.model, PipelineModel) else None
        if vae is None or not isinstance(self.model, PipelineModel):
            return self.model.encode_image(pictures)
        posterior: Any = vae.encode((2 * pictures - 1).to(self.model.device, vae.dtype)).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        return self.model.scale_latents(posterior.mean + posterior.std * noise).float()

    def prompt(self, texts: Sequence[str]) -> Told:
        """What the network is told of n prompts, n rows."""
        told = self.model.encode_prompt(texts, guidance=False, height=self.height, width=self.width)
        return told.positive


NO_ENCODER = "has no VAE encoder: it cannot see a rendering, so it is no prior for a scene; give another model="


def check_encoder(model: str, family: str) -> None:
    """Refuse a model that cannot see a rendering, before its weights load. Raises ModelError."""
    if family == "unconditional":
        raise ModelError(f"model={model} follows no text, so it is no prior for a scene; give another model=")
    folder = Path(model).expanduser()
    if (folder / "model_index.json").is_file() and not _has_encoder(folder):
        raise ModelError(f"model={model} {NO_ENCODER}")


def _has_encoder(folder: Path) -> bool:
    """Whether a folder's VAE has weights of an encoder, as the headers of its files say."""
    if "vae" not in read_index(folder):
        return False
    headers = [check_safetensors(file) for file in (folder / "vae").glob("*.safetensors")]
    return any(name.startswith("encoder.") for header in headers for name in header)
