"""Which two denoisers make a pair: a checkpoint, a LoRA, prompts, a ControlNet, an IP-Adapter, or guidance alone.

The options say it by what they name; each side is a model (a view that shares weights where it can), a conditioning and
a guidance scale, so nothing is switched from one evaluation to the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from genbench.errors import ModelError, UsageError
from genbench.kinds import Conditioning, Context, Denoise, Model
from genbench_w2sd.fitting import check_fit
from genbench_w2sd.sources import digest, picture

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
    """The two sides; `strong` or `main` None: the run's own denoiser."""

    strong: Side | None
    weak: Side
    main: Side | None = None


@dataclass(frozen=True)
class PairOptions:
    """The options that choose a pair. Raises UsageError for two pairs at once, or a picture that nothing follows."""

    weak_model: str | None = None  # pair: the run's model is strong, this one (a word as for model=) weak
    lora: str | None = None  # pair: this LoRA at strong_scale and at weak_scale
    strong_scale: float = 0.8  # LoRA scale of the strong side, which also draws
    weak_scale: float = -1.5  # LoRA scale of the weak side
    weak_prompt: str | None = None  # pair: the prompt of the weak side; none: the run's own
    strong_prompt: str | None = None  # the prompt of the strong side; none: the run's own
    controlnet: str | None = None  # pair: with this ControlNet, which also draws, against without
    ip_adapter: str | None = None  # pair: with this IP-Adapter, which also draws, against without
    image: Path | None = None  # the picture that the ControlNet or the IP-Adapter follows
    strong_guidance: float | None = (
        None  # guidance of the strong side; none: the run's (guidance pair), else the paper's
    )
    weak_guidance: float | None = None  # guidance of the weak side; none: the paper's

    def __post_init__(self) -> None:
        words = ("weak_model", "lora", "controlnet", "ip_adapter")
        given = [word for word in words if getattr(self, word) is not None]
        if len(given) > 1:
            raise UsageError(f"{given[0]}= and {given[1]}= name two pairs; a reflection has one, leave one out")
        follows = self.kind in ("controlnet", "ip_adapter")
        if follows and self.image is None:
            raise UsageError(f"{self.kind}= follows a picture; give it with image=FILE")
        if self.image is not None and not follows:
            raise UsageError("image= is followed by a controlnet= or an ip_adapter=; give one, or leave image= out")

    @property
    def kind(self) -> Kind:
        """The pair that the options name; guidance alone where they name none."""
        named: tuple[Kind, ...] = ("lora", "controlnet", "ip_adapter")
        if self.weak_model is not None:
            return "checkpoint"
        prompts = self.weak_prompt is not None or self.strong_prompt is not None
        default: Kind = "prompt" if prompts else "guidance"
        return next((word for word in named if getattr(self, word) is not None), default)

    def check_before(self, name: str, model: str, family: str) -> None:
        """Raise what can be said before weights load: a pair that the family cannot have, a missing picture."""
        families = FAMILIES.get(self.kind)
        if families is not None and family not in families:
            raise ModelError(f"{name}.{self.kind}= is for families {', '.join(families)}; model={model} is {family}")
        if self.kind == "guidance" and family == "flux":
            raise UsageError(without_guidance(name, model))
        if self.image is not None and not self.image.expanduser().is_file():
            raise UsageError(f"{name}.image={self.image} does not exist; give a picture file")

    def version(self) -> str:
        """Hash of the weights and the picture that the options name, as far as they lie on this machine."""
        words = (self.weak_model, self.lora, self.controlnet, self.ip_adapter, self.image)
        return digest([str(word) for word in words if word is not None])

    def pair(self, name: str, ctx: Context) -> Pair:
        """Open both sides for one trajectory; `name` is the plugin's, for messages.

        Raises UsageError where the model has no such pair, ModelError where a model or an adapter does not fit.
        """
        match self.kind:
            case "guidance":
                return self._guidance(name, ctx)
            case "checkpoint":
                weak = ctx.load_model(cast(str, self.weak_model))
                check_fit(ctx.model, weak, ctx.height, ctx.width)
                return Pair(self._strong(ctx, ctx.model), self._weak(ctx, weak))
            case "prompt":
                return Pair(self._strong(ctx, ctx.model), self._weak(ctx, ctx.model))
            case "lora":
                high, low = (ctx.model.view(lora=self.lora, lora_scale=s) for s in (self.strong_scale, self.weak_scale))
                return self._steered(ctx, high, low)
            case "controlnet" | "ip_adapter":
                return self._steered(ctx, self._following(ctx), ctx.model)

    def rows(self, ctx: Context) -> tuple[int, int]:
        """Network evaluations of one call of the strong and of the weak side (0: strong is the run's own denoiser)."""
        strong = 0 if self.kind == "guidance" and self.strong_guidance is None else self._rows(ctx, 0)
        return strong, self._rows(ctx, 1)

    def _rows(self, ctx: Context, side: Literal[0, 1]) -> int:
        """Two with classifier-free guidance; an adapter or a prompt changes nothing about that, another model may."""
        model, conditioning = ctx.model, ctx.conditioning
        if side == 1 and self.weak_model is not None:
            model = ctx.load_model(self.weak_model)
            conditioning = ctx.encode_prompt(ctx.prompts, model)
        scale = self._scale(ctx, model, conditioning, side)
        return len(conditioning.halves(model.guidance_weight(scale)))

    def _guidance(self, name: str, ctx: Context) -> Pair:
        if not scalable(ctx.model, ctx.conditioning):
            raise UsageError(without_guidance(name, ctx.model.name or ctx.model.family))
        strong = None if self.strong_guidance is None else self._strong(ctx, ctx.model)
        return Pair(strong, self._weak(ctx, ctx.model))

    def _steered(self, ctx: Context, high: Model, low: Model) -> Pair:
        """A pair whose strong model also draws, with the run's own prompt and guidance."""
        main = Side(high, ctx.encode_prompt(ctx.prompts, high), ctx.guidance_scale)
        return Pair(self._strong(ctx, high), self._weak(ctx, low), main)

    def _strong(self, ctx: Context, model: Model) -> Side:
        return self._side(ctx, model, self.strong_prompt, 0)

    def _weak(self, ctx: Context, model: Model) -> Side:
        return self._side(ctx, model, self.weak_prompt, 1)

    def _side(self, ctx: Context, model: Model, prompt: str | None, side: Literal[0, 1]) -> Side:
        own = model is ctx.model and prompt is None
        prompts = ctx.prompts if prompt is None else [prompt] * len(ctx.prompts)
        conditioning = ctx.conditioning if own else ctx.encode_prompt(prompts, model)
        return Side(model, conditioning, self._scale(ctx, model, conditioning, side))

    def _scale(self, ctx: Context, model: Model, conditioning: Conditioning, side: Literal[0, 1]) -> float:
        """The guidance scale of the strong (0) or the weak (1) side."""
        given = (self.strong_guidance, self.weak_guidance)[side]
        if given is not None:
            return given
        default = SCALES[self.kind][side]
        # A distilled scale is an input of the network with no value that would mean "unguided".
        return default if default is not None and scalable(model, conditioning) else ctx.guidance_scale

    def _following(self, ctx: Context) -> Model:
        image: Tensor = ctx.load(cast(Path, self.image).expanduser(), picture)[None]
        if self.kind == "ip_adapter":
            return ctx.model.view(ip_adapter=self.ip_adapter, image=image)
        size = (ctx.height, ctx.width)
        if tuple(image.shape[-2:]) != size:
            image = torch.nn.functional.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
        return ctx.model.view(controlnet=self.controlnet, image=image)


def scalable(model: Model, conditioning: Conditioning) -> bool:
    """Whether this model guides with a scale that is free per call: a distilled one and FLUX's second are not."""
    return conditioning.negative is not None and model.guidance_weight(0.0) != model.guidance_weight(1.0)


def without_guidance(name: str, model: str) -> str:
    """Say that a pair of guidance scales needs classifier-free guidance, and what is left."""
    return (
        f"{name} without a pair compares guidance scales, and model={model} has no classifier-free guidance; give "
        f"{name}.weak_prompt=, {name}.lora= or {name}.weak_model="
    )
