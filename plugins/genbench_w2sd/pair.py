"""The two sides of a reflection: each a model (a view that shares weights where it can), a conditioning and a guidance
scale, so nothing is switched from one evaluation to the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from genbench.kinds import Conditioning, Context, Denoise, Model

Kind = Literal["guidance", "checkpoint", "lora", "prompt", "controlnet", "ip_adapter"]
SCALES: Mapping[Kind, tuple[float | None, float]] = {
    "guidance": (None, 0.0),
    "checkpoint": (1.0, 1.0),
    "lora": (1.0, 1.0),
    "prompt": (1.0, 1.0),
    "controlnet": (0.5, 0.5),
    "ip_adapter": (1.0, 1.0),
}
"""The paper's guidance scales of the strong and the weak side (B.1); None is the run's own."""

FAMILIES: Mapping[Kind, tuple[str, ...]] = {
    "lora": ("sd", "sdxl", "sd3", "flux", "toy"),
    "controlnet": ("sd", "sdxl", "sd3", "flux", "toy"),
    "ip_adapter": ("sd", "sdxl"),
}
"""Where an adapter can be added; the other pairs ask for none."""


@dataclass(frozen=True)
class Side:
    """One denoiser of a pair."""

    model: Model
    conditioning: Conditioning
    guidance_scale: float

    def denoiser(self) -> Denoise:
        """The denoiser of one trajectory."""
        return self.model.denoiser(self.conditioning, self.guidance_scale)


@dataclass(frozen=True)
class Pair:
    """The two sides, and the one that draws.

    `strong` None: the drawing one. `main` None: the run's own denoiser draws. `conditional`: the strong side is the
    conditional half of the one that draws, where that is guided.
    """

    strong: Side | None
    weak: Side
    main: Side | None = None
    conditional: bool = False


def encoded(ctx: Context, model: Model, prompt: str | None) -> Conditioning:
    """The run's own prompts, or one for all of them, as `model` reads them."""
    return ctx.encode_prompt(ctx.prompts if prompt is None else [prompt] * len(ctx.prompts), model)


def rows_of(model: Model, conditioning: Conditioning, scale: float) -> int:
    """Network evaluations of one call for one picture."""
    return len(conditioning.halves(model.guidance_weight(scale)))


def scalable(model: Model, conditioning: Conditioning) -> bool:
    """Whether this model guides with a scale that is free per call: a distilled one and FLUX's second are not."""
    return conditioning.negative is not None and model.guidance_weight(0.0) != model.guidance_weight(1.0)


def without_guidance(name: str, model: str) -> str:
    """Say that a pair of guidance scales needs a scale that is free per call, and what is left.

    Distilled guidance is an input of the network with no unguided value, and FLUX's true_cfg has one scale per run.
    """
    return (
        f"{name} without a pair compares guidance scales, and model={model} has none that is free per call; give "
        f"{name}.weak_prompt=, {name}.lora= or {name}.weak_model="
    )
