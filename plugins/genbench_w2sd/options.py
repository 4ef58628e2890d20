"""Which two denoisers make a pair, said by what the options name: a checkpoint, a LoRA, prompts, a ControlNet or an
IP-Adapter; where they name none, guidance alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from genbench.errors import ModelError, UsageError
from genbench.kinds import Conditioning, Context, Model
from genbench_w2sd.fitting import check_fit
from genbench_w2sd.pair import FAMILIES, SCALES, Kind, Pair, Side, encoded, rows_of, scalable, without_guidance
from genbench_w2sd.sources import check_model, check_source, digest, picture


@dataclass(frozen=True)
class PairOptions:
    """The options that choose a pair. Raises UsageError for two pairs at once, or a picture that nothing follows."""

    word: ClassVar[str] = ""  # the plugin's name, for messages

    weak_model: str | None = None  # pair: the run's model is strong, this one (a word as for model=) weak
    lora: str | None = None  # pair: this LoRA at strong_scale and at weak_scale
    strong_scale: float = 0.8  # LoRA scale of the strong side, which also draws
    weak_scale: float = -1.5  # LoRA scale of the weak side
    weak_prompt: str | None = None  # pair: the prompt of the weak side; none: the run's own
    strong_prompt: str | None = None  # the prompt of the strong side; none: the run's own
    controlnet: str | None = None  # pair: with this ControlNet, which also draws, against without
    ip_adapter: str | None = None  # pair: with this IP-Adapter, which also draws, against without
    image: Path | None = None  # the picture that the ControlNet or the IP-Adapter follows
    strong_guidance: float | None = None  # guidance of the strong side; none: the paper's for the pair
    weak_guidance: float | None = None  # guidance of the weak side; none: the paper's for the pair

    def __post_init__(self) -> None:
        words = ("weak_model", "lora", "controlnet", "ip_adapter")
        given = [word for word in words if getattr(self, word) is not None]
        if len(given) > 1:
            one, two = (f"{self.word}.{word}=" for word in given[:2])
            raise UsageError(f"{one} and {two} name two pairs; there is one, leave one out")
        follows = self.kind in ("controlnet", "ip_adapter")
        if follows and self.image is None:
            raise UsageError(f"{self.word}.{self.kind}= follows a picture; give it with {self.word}.image=FILE")
        if self.image is not None and not follows:
            raise UsageError(
                f"{self.word}.image= is followed by a {self.word}.controlnet= or {self.word}.ip_adapter=; give one, or "
                "leave the picture out"
            )
        defaults = (PairOptions.strong_scale, PairOptions.weak_scale)
        if self.lora is None and (self.strong_scale, self.weak_scale) != defaults:
            raise UsageError(
                f"{self.word}.strong_scale= and {self.word}.weak_scale= are of a LoRA; give {self.word}.lora="
            )

    @property
    def kind(self) -> Kind:
        """The pair that the options name; guidance alone where they name none."""
        prompt = self.weak_prompt if self.strong_prompt is None else self.strong_prompt
        named: tuple[tuple[Kind, object], ...] = (
            ("checkpoint", self.weak_model),
            ("lora", self.lora),
            ("controlnet", self.controlnet),
            ("ip_adapter", self.ip_adapter),
            ("prompt", prompt),
        )
        given: tuple[Kind, ...] = (*(kind for kind, value in named if value is not None), "guidance")
        return given[0]

    def check_before(self, model: str, family: str) -> None:
        """Raise what can be said before weights load: a pair that the family cannot have, a file that is missing."""
        families = FAMILIES.get(self.kind)
        if families is not None and family not in families:
            raise ModelError(
                f"{self.word}.{self.kind}= is for families {', '.join(families)}; model={model} is {family}"
            )
        if self.kind == "guidance" and family == "flux":
            raise UsageError(without_guidance(self.word, model))
        if self.weak_model is not None:
            check_model(f"{self.word}.weak_model", self.weak_model)
        for word in ("lora", "controlnet", "ip_adapter"):
            check_source(f"{self.word}.{word}", getattr(self, word))
        if self.image is not None and not self.image.expanduser().is_file():
            raise UsageError(f"{self.word}.image={self.image} does not exist; give a picture file")

    def version(self) -> str:
        """Hash of the weights and the picture that the options name, as far as they lie on this machine."""
        words = (self.weak_model, self.lora, self.controlnet, self.ip_adapter, self.image)
        return digest([str(word) for word in words if word is not None])

    def pair(self, ctx: Context) -> Pair:
        """Open both sides for one trajectory.

        Raises UsageError where the model has no such pair, ModelError where a model or an adapter does not fit.
        """
        if self.kind == "guidance" and not scalable(ctx.model, ctx.conditioning):
            raise UsageError(without_guidance(self.word, ctx.model.name or ctx.model.family))
        high, low = self._models(ctx)
        steered = high is not ctx.model
        main = Side(high, ctx.encode_prompt(ctx.prompts, high) if steered else ctx.conditioning, ctx.guidance_scale)
        strong, weak = self._strong(ctx, main), self._weak(ctx, low)
        return Pair(strong, weak, main if steered else None, strong is not None and self._conditional(ctx, main))

    def _models(self, ctx: Context) -> tuple[Model, Model]:
        """The strong model, which draws, and the weak one."""
        match self.kind:
            case "checkpoint":
                weak = ctx.load_model(cast(str, self.weak_model))
                check_fit(ctx.model, weak, ctx.height, ctx.width)
                return ctx.model, weak
            case "lora":
                strong = ctx.model.view(lora=self.lora, lora_scale=self.strong_scale)
                return strong, ctx.model.view(lora=self.lora, lora_scale=self.weak_scale)
            case "controlnet" | "ip_adapter":
                return self._following(ctx), ctx.model
            case "guidance" | "prompt":
                return ctx.model, ctx.model

    def rows(self, ctx: Context) -> tuple[int, int]:
        """Network evaluations of one call of the strong and of the weak side (0: strong is the one that draws).

        Two with classifier-free guidance; an adapter or a prompt changes nothing about that, another model may.
        """
        own = (ctx.model, ctx.conditioning)
        strong = 0 if self._is_drawing(ctx, *own) else rows_of(*own, self._scale(ctx, *own, 0))
        if self.weak_model is not None:
            model = ctx.load_model(self.weak_model)
            own = (model, ctx.encode_prompt(ctx.prompts, model))
        return strong, rows_of(*own, self._scale(ctx, *own, 1))

    def reads_half(self, ctx: Context) -> bool:
        """Whether the strong side is a half of what the guided drawing denoiser evaluates anyway."""
        return self._conditional(ctx, Side(ctx.model, ctx.conditioning, ctx.guidance_scale))

    def _conditional(self, ctx: Context, main: Side) -> bool:
        weight = main.model.guidance_weight
        guided = len(main.conditioning.halves(weight(main.guidance_scale))) == 2
        scale = self._scale(ctx, main.model, main.conditioning, 0)
        return guided and self.strong_prompt is None and weight(scale) == 1.0

    def _is_drawing(self, ctx: Context, model: Model, conditioning: Conditioning) -> bool:
        return self.strong_prompt is None and self._scale(ctx, model, conditioning, 0) == ctx.guidance_scale

    def _strong(self, ctx: Context, main: Side) -> Side | None:
        if self._is_drawing(ctx, main.model, main.conditioning):
            return None
        prompt = self.strong_prompt
        conditioning = main.conditioning if prompt is None else encoded(ctx, main.model, prompt)
        return Side(main.model, conditioning, self._scale(ctx, main.model, conditioning, 0))

    def _weak(self, ctx: Context, model: Model) -> Side:
        own = model is ctx.model and self.weak_prompt is None
        conditioning = ctx.conditioning if own else encoded(ctx, model, self.weak_prompt)
        return Side(model, conditioning, self._scale(ctx, model, conditioning, 1))

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
