"""The toy model: a Gaussian mixture in pixel space with an exact denoiser, for closed-form tests in milliseconds.

Data: p(x0) = sum_k w_k N(m_k, tau^2 I), m_k one of eight colours with a vertical ramp; latents are the picture itself,
(3, h, w) in about [-1, 1]. A prompt's colour words choose the weights w (none: all alike), so the conditional and the
unconditional score, and every guided score, are known exactly. At a level (alpha, sigma), with
s^2 = alpha^2 tau^2 + sigma^2,

    p(x) = sum_k w_k N(alpha m_k, s^2 I),   r_k(x) = softmax_k( log w_k - |x - alpha m_k|^2 / (2 s^2) )
    E[x0 | x] = sum_k r_k ( m_k + alpha tau^2 / s^2 (x - alpha m_k) )
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genbench import solvers, streams
from genbench.errors import ModelError, UsageError
from genbench.kinds import (
    About,
    Conditioning,
    Context,
    Denoise,
    Ledger,
    Level,
    Model,
    Prediction,
    PredictionType,
    Sampler,
    Schedule,
    State,
)

COLOURS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.8, -0.8, -0.8),
    "green": (-0.8, 0.6, -0.8),
    "blue": (-0.8, -0.6, 0.8),
    "yellow": (0.8, 0.8, -0.8),
    "purple": (0.3, -0.8, 0.6),
    "orange": (0.9, 0.2, -0.8),
    "white": (0.8, 0.8, 0.8),
    "grey": (0.0, 0.0, 0.0),
}
WORDS = tuple(COLOURS)


class Mixture(nn.Module):
    """The exact network: noisy x, level and component weights to eps."""

    means: Tensor

    def __init__(self, tau: float = 0.15) -> None:
        super().__init__()
        self.tau = tau
        self.register_buffer("means", torch.tensor(list(COLOURS.values())))

    def components(self, height: int, width: int) -> Tensor:
        """Return the component means as pictures, (k, 3, height, width): the colour, 0.2 brighter towards the top."""
        ramp = torch.linspace(0.1, -0.1, height, dtype=self.means.dtype, device=self.means.device)
        return self.means[:, :, None, None] + ramp[None, None, :, None].expand(1, 1, height, width)

    def forward(self, x: Tensor, alpha: Tensor, sigma: Tensor, weights: Tensor) -> Tensor:
        """x (b, 3, h, w), weights (b, k) summing to 1; returns eps = (x - alpha E[x0|x]) / sigma."""
        return solvers.x0_to_eps(self.posterior_mean(x, alpha, sigma, weights), x, alpha, sigma)

    def posterior_mean(self, x: Tensor, alpha: Tensor, sigma: Tensor, weights: Tensor) -> Tensor:
        """E[x0 | x], (b, 3, h, w); one level for all rows, or alpha and sigma (b, 1, 1, 1)."""
        m = self.components(*x.shape[-2:])
        alpha, sigma = alpha[..., None], sigma[..., None]
        variance = alpha**2 * self.tau**2 + sigma**2
        offset = x[:, None] - alpha * m
        logits = weights.log() - offset.square().sum((2, 3, 4)) / (2 * variance.reshape(-1, 1))
        r = logits.softmax(1)[:, :, None, None, None]
        return (r * (m + alpha * self.tau**2 / variance * offset)).sum(1)


@dataclass(frozen=True)
class Ancestral:
    """DDIM on a variance-preserving cosine path (arXiv:2010.02502 eq. 12); `eta` in [0, 1], 1 draws DDPM's noise."""

    eta: float = 0.0

    @property
    def scheduler(self) -> Any:
        """A diffusers noise schedule for `sampler=`: the denoiser is exact at the levels of any solver."""
        from diffusers import DDIMScheduler

        return DDIMScheduler(clip_sample=False, timestep_spacing="trailing", steps_offset=1)

    def schedule(self, steps: int, model: Model, shape: tuple[int, ...]) -> Schedule:
        if steps < 1:
            raise UsageError(f"steps={steps}: at least 1 is needed")
        angles = torch.linspace(0.99, 0.0, steps + 1, dtype=torch.float64) * (math.pi / 2)
        levels = tuple(
            Level((a / (math.pi / 2) * 999).float(), a.cos().to(model.dtype), a.sin().to(model.dtype)) for a in angles
        )
        return Schedule(levels, tuple((level,) for level in levels[:-1]))

    def step(self, state: State, denoise: Denoise, ctx: Context) -> State:
        here, there = ctx.schedule.levels[state.index], ctx.schedule.levels[state.index + 1]
        prediction = denoise(state.x, here)
        std = self.eta * _posterior_std(here, there)
        direction = (there.sigma**2 - std**2).clamp(min=0) ** 0.5
        x = there.alpha * prediction.x0 + direction * prediction.eps
        if float(std) == 0.0:
            return state.replace(x=x, index=state.index + 1)
        noise, rng = _step_noise(state)
        return state.replace(x=x + std * noise.to(x), index=state.index + 1, rng=rng)


def _posterior_std(here: Level, there: Level) -> Tensor:
    ratio = here.alpha / there.alpha
    return there.sigma / here.sigma * (1 - ratio**2).clamp(min=0) ** 0.5


def _step_noise(state: State) -> tuple[Tensor, streams.Streams]:
    if "step_noise" in state.memory:
        return state.memory["step_noise"][:, state.index], state.rng
    return streams.normal(state.rng, state.x.shape[1:])


@dataclass(frozen=True)
class ToyModel:
    """The mixture as a genbench model; see `genbench.kinds.Model`."""

    modules: Mapping[str, nn.Module] = field(default_factory=lambda: {"network": Mixture()})
    sampler: Sampler = field(default_factory=Ancestral)
    recommended: Mapping[str, object] = field(default_factory=lambda: dict(Toy.recommended))
    ledger: Ledger = field(default_factory=Ledger)
    prediction_type: PredictionType = "epsilon"
    family: str = "toy"
    name: str = "toy"
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def replace(
        self,
        *,
        modules: Mapping[str, nn.Module] | None = None,
        sampler: Sampler | None = None,
        recommended: Mapping[str, object] | None = None,
        ledger: Ledger | None = None,
        name: str | None = None,
    ) -> ToyModel:
        changes = {"sampler": sampler, "recommended": recommended, "ledger": ledger, "name": name}
        if modules is not None:
            changes["modules"] = {**self.modules, **modules}
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})

    def view(
        self,
        *,
        lora: str | None = None,
        lora_scale: float = 1.0,
        controlnet: str | None = None,
        ip_adapter: str | None = None,
        image: Tensor | None = None,
    ) -> ToyModel:
        """Add an adapter: a safetensors file with `means` (8, 3), a shift of the component means; it needs no image."""
        if ip_adapter is not None:
            raise ModelError("the toy model has no image adapter; use lora= or controlnet=")
        shifted = Mixture()
        shifted.load_state_dict(self.modules["network"].state_dict())
        for path, scale in ((lora, lora_scale), (controlnet, 1.0)):
            if path is not None:
                shifted.means = shifted.means + scale * _adapter(Path(path))
        return self.replace(modules={"network": shifted})

    def encode_prompt(
        self,
        prompts: Sequence[str],
        negative: Sequence[str] | None = None,
        *,
        guidance: bool = True,
        height: int = 0,
        width: int = 0,
    ) -> Conditioning:
        positive = {"weights": torch.stack([weights_of(prompt) for prompt in prompts]).to(self.dtype)}
        if not guidance:
            return Conditioning(positive)
        without = [""] * len(prompts) if negative is None else negative
        return Conditioning(positive, {"weights": torch.stack([weights_of(text) for text in without]).to(self.dtype)})

    def encode_image(self, images: Tensor) -> Tensor:
        return images * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        return (latents / 2 + 0.5).clamp(0, 1)

    def guidance_weight(self, guidance_scale: float) -> float:
        return guidance_scale

    def denoiser(self, conditioning: Conditioning, guidance_scale: float) -> Denoise:
        network = self.modules["network"]

        def predict(x: Tensor, level: Level, part: Mapping[str, Tensor]) -> Prediction:
            eps = network(x, level.alpha, level.sigma, part["weights"].expand(len(x), -1))
            return Prediction(eps, x, level, "epsilon")

        def denoise(x: Tensor, level: Level) -> Prediction:
            parts = [predict(x, level, part) for part in reversed(conditioning.halves(guidance_scale))]
            self.ledger.count(len(x) * len(parts))
            if len(parts) == 1:
                return self._typed(parts[0])
            cond, uncond = parts
            eps = uncond.raw + guidance_scale * (cond.raw - uncond.raw)
            return self._typed(Prediction(eps, x, level, "epsilon", cond, uncond))

        return denoise

    def _typed(self, prediction: Prediction) -> Prediction:
        kind = self.prediction_type
        return dataclasses.replace(prediction, raw=prediction.to(kind), type=kind)

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        if height % 8 or width % 8:
            raise UsageError(f"height={height} width={width}: the toy model needs multiples of 8")
        return (3, height, width)


def weights_of(prompt: str) -> Tensor:
    """Return the component weights (k,) of a prompt: the colours it names, all of them where it names none."""
    words = prompt.lower().replace(",", " ").split()
    named = torch.tensor([float(word in words) for word in WORDS])
    chosen = named if named.any() else torch.ones(len(WORDS))
    return chosen / chosen.sum()


def _adapter(path: Path) -> Tensor:
    from safetensors.torch import load_file

    if not path.is_file():
        raise ModelError(f"adapter '{path}' does not exist; give a safetensors file with a tensor `means` (8, 3)")
    return load_file(path)["means"]


@dataclass(frozen=True)
class Toy:
    """The source `toy`: `genbench run model=toy prompt="red"`."""

    recommended: ClassVar[Mapping[str, object]] = {
        "steps": 10,
        "guidance_scale": 2.0,
        "height": 16,
        "width": 16,
        "verifier": "toy",
    }
    about: ClassVar[About] = About("A Gaussian mixture of colours with an exact denoiser; for tests and learning.")

    def open(self) -> ToyModel:
        return ToyModel()


@dataclass(frozen=True)
class ToyScorer:
    """The verifier `toy`: minus the mean squared distance to the nearest colour that the prompt names, (b,) <= 0."""

    about: ClassVar[About] = About("How near a picture is to the colours its prompt names; for the toy model.")

    def score(
        self, *, images: Tensor, prompts: Sequence[str], rows: Sequence[Mapping[str, object]] | None = None
    ) -> Tensor:
        means = Mixture().components(*images.shape[-2:]).to(images)
        distance = (images[:, None] * 2 - 1 - means).square().mean((2, 3, 4))
        weights = torch.stack([weights_of(prompt) for prompt in prompts]).to(images)
        return -distance.masked_fill(weights == 0, math.inf).amin(1)
