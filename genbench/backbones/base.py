"""What all diffusers families share: guidance in one batched call, counting, decoding, sizes.

A family's file states only what is its own: how prompts become keyword tensors, how the network is called, what the
stock call recommends. Adapters hold no state: `replace` and `view` copy.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from genbench.errors import ModelError, UsageError
from genbench.kinds import Conditioning, Denoise, Ledger, Level, Prediction, PredictionType, Sampler
from genbench.schedulers import SchedulerSampler, scheduler_prediction_type

Made = TypeVar("Made")
Keywords = Mapping[str, Tensor]
Evaluate = Callable[[Tensor, Tensor, Keywords], Tensor]
"""One bare network call: (scaled x (n, ...), t 0-dim, keyword tensors of n rows) -> raw output (n, ...)."""


@dataclass(frozen=True)
class PipelineModel:
    """A diffusers pipeline as a `kinds.Model`. Build with `from_pipeline`; the pipeline's own scheduler is the sampler.

    `network_config` is kept apart from the network, so that a replaced network need not carry a config. `files` are
    the weight files it was loaded from. `bound` are keyword tensors of a view's own, the picture that it follows;
    `opened` remembers the adapters that were asked for.
    """

    pipeline: Any
    ledger: Ledger
    sampler: Sampler
    prediction_type: PredictionType
    recommended: Mapping[str, object]
    network_config: Mapping[str, Any]
    dtype: torch.dtype
    device: torch.device
    files: tuple[Path, ...] = ()
    local_only: bool = False
    name: str = ""
    bound: Conditioning = field(default_factory=lambda: Conditioning({}))
    opened: dict[tuple[object, ...], Any] = field(init=False, repr=False, compare=False, default_factory=dict[Any, Any])

    family: ClassVar[str] = ""
    network_name: ClassVar[str] = "unet"
    lora_loader: ClassVar[bool] = False
    step_caches: ClassVar[bool] = False
    controlnets: ClassVar[bool] = False
    ip_adapters: ClassVar[bool] = False

    @classmethod
    def from_pipeline(cls, pipeline: Any, ledger: Ledger, files: tuple[Path, ...] = ()) -> PipelineModel:
        """Adapt a loaded pipeline, which is not changed (a float16 VAE that must not overflow becomes float32)."""
        network = getattr(pipeline, cls.network_name)
        model = cls(
            pipeline=_with_safe_vae(pipeline),
            ledger=ledger,
            sampler=SchedulerSampler(copy.deepcopy(pipeline.scheduler)),
            prediction_type=scheduler_prediction_type(pipeline.scheduler),
            recommended={},
            network_config=dict(network.config),
            dtype=network.dtype,
            device=pipeline._execution_device,
            files=files,
        )
        return replace(model, recommended=model.stock_settings())

    # --- parts ----------------------------------------------------------------------------------------------------

    @property
    def network(self) -> nn.Module:
        """The denoising network."""
        return getattr(self.pipeline, self.network_name)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        parts = self.pipeline.components
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}

    def replace(
        self,
        *,
        modules: Mapping[str, nn.Module] | None = None,
        sampler: Sampler | None = None,
        recommended: Mapping[str, object] | None = None,
        ledger: Ledger | None = None,
        name: str | None = None,
    ) -> PipelineModel:
        """Return a model with other parts; raises ModelError where the pipeline has no such module."""
        return replace(
            self,
            pipeline=with_modules(self.pipeline, modules or {}),
            sampler=sampler or self.sampler,
            recommended={**self.recommended, **(recommended or {})},
            ledger=ledger or self.ledger,
            name=self.name if name is None else name,
        )

    def view(
        self,
        *,
        lora: str | None = None,
        lora_scale: float = 1.0,
        controlnet: str | None = None,
        ip_adapter: str | None = None,
        image: Tensor | None = None,
    ) -> PipelineModel:
        """Return a model that shares these weights and adds an adapter. Raises ModelError where it has no such door.

        A ControlNet without an `image` follows the keyword `controlnet_cond` of the conditioning.
        """
        if image is not None and (controlnet is None) == (ip_adapter is None):
            raise ModelError("an image is followed by one adapter; give controlnet= or ip_adapter= with it")
        model = self
        if lora is not None:
            model = model._once(("lora", lora, lora_scale), lambda: self._with_lora(lora, lora_scale))
        if controlnet is not None:
            plain = model
            model = plain._once(("controlnet", controlnet), lambda: plain.with_controlnet(controlnet))
            return model if image is None else model._following("controlnet", image, partial(model.follow, image))
        if ip_adapter is None:
            return model
        attending = partial(model.with_ip_adapter, ip_adapter, image)
        return attending() if image is None else model._following(ip_adapter, image, attending)

    def _once(self, key: tuple[object, ...], build: Callable[[], Made]) -> Made:
        if key not in self.opened:
            self.opened[key] = build()
        return self.opened[key]

    def _following(self, key: str, image: Tensor, build: Callable[[], PipelineModel]) -> PipelineModel:
        """The view of the last picture is kept: a search asks for it again and again."""
        seen, view = self.opened.get(("following", key), (None, None))
        if seen is None or not torch.equal(seen, image):
            view = build()
            self.opened["following", key] = (image, view)
        return view

    def _with_lora(self, path: str, scale: float) -> PipelineModel:
        from genbench.backbones.lora import with_lora

        if not self.lora_loader:
            raise ModelError(f"diffusers loads no LoRA for {self.family}; families that take one: sd, sdxl, sd3, flux")
        return replace(self, pipeline=with_lora(self.pipeline, path, scale, self.local_only))

    def with_true_cfg(self, scale: float) -> PipelineModel:
        """Return a model with a second guidance over distilled guidance; families that have it override this."""
        raise ModelError(f"true_cfg={scale} is FLUX's second guidance; {self.family} guides with guidance_scale alone")

    def with_controlnet(self, source: str) -> PipelineModel:
        """Return a model steered by a ControlNet; families that support it override this."""
        raise ModelError(
            f"ControlNets are not supported for {self.family} (controlnet='{source}'); "
            "families with one: sd, sdxl, sd3, flux"
        )

    def follow(self, image: Tensor) -> PipelineModel:
        """Return a model whose ControlNet follows `image` (1 or b, 3, h, w) in [0, 1]."""
        return replace(self, bound=Conditioning({"controlnet_cond": self.control_picture(image)}))

    def control_picture(self, image: Tensor) -> Tensor:
        """Family: a picture as its ControlNets read it."""
        return image.to(self.device, self.dtype)

    def with_ip_adapter(self, source: str, image: Tensor | None) -> PipelineModel:
        """Return a model that attends to `image` (1 or b, 3, h, w) in [0, 1]; families that can override this."""
        raise ModelError(
            f"IP-Adapters are not supported for {self.family} (ip_adapter='{source}'); families with one: sd, sdxl"
        )

    # --- text and pictures ----------------------------------------------------------------------------------------

    def encode_prompt(
        self,
        prompts: Sequence[str],
        negative: Sequence[str] | None = None,
        *,
        guidance: bool = True,
        height: int = 0,
        width: int = 0,
    ) -> Conditioning:
        """Encode b prompts as the stock pipeline does; `guidance=False` skips the negative half."""
        size = (height or self.default_size[0], width or self.default_size[1])
        return self.encode(list(prompts), None if negative is None else list(negative), guidance, size)

    def encode(
        self, prompts: list[str], negative: list[str] | None, guidance: bool, size: tuple[int, int]
    ) -> Conditioning:
        """Family: prompts to keyword tensors."""
        raise NotImplementedError

    def encode_image(self, images: Tensor) -> Tensor:
        """Images (b, 3, h, w) in [0, 1] to clean latents, the mode of the posterior; differentiable."""
        vae = self.pipeline.vae
        posterior = vae.encode((2 * images - 1).to(self.device, vae.dtype)).latent_dist
        return self.scale_latents(posterior.mode()).to(self.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """Clean latents to images (b, 3, h, w) in [0, 1]; differentiable."""
        vae = self.pipeline.vae
        raw = self.unscale_latents(latents.to(vae.dtype))
        return (vae.decode(raw, return_dict=False)[0] * 0.5 + 0.5).clamp(0, 1).float()

    def unscale_latents(self, latents: Tensor) -> Tensor:
        """The network's latents to the VAE's, in the stock order of operations."""
        config = self.pipeline.vae.config
        shift = config.get("shift_factor")
        unscaled = latents / config.scaling_factor
        return unscaled if shift is None else unscaled + shift

    def scale_latents(self, latents: Tensor) -> Tensor:
        """The inverse of `unscale_latents`."""
        config = self.pipeline.vae.config
        return (latents - (config.get("shift_factor") or 0.0)) * config.scaling_factor

    # --- sizes and settings ---------------------------------------------------------------------------------------

    @property
    def latent_channels(self) -> int:
        return int(self.network_config["in_channels"])

    @property
    def factor(self) -> int:
        """Pixels per latent cell."""
        return int(self.pipeline.vae_scale_factor)

    @property
    def multiple(self) -> int:
        """Height and width in pixels are multiples of this."""
        patch = self.network_config.get("patch_size", 1)
        return self.factor * int(patch if isinstance(patch, int) else 1)

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width of the stock call."""
        size = self.network_config.get("sample_size") or 64
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        return height * self.factor, width * self.factor

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        for name, pixels in (("height", height), ("width", width)):
            check_multiple(name, pixels, self.multiple)
        return self.latent_channels, height // self.factor, width // self.factor

    def stock_settings(self) -> Mapping[str, object]:
        """The defaults of the stock pipeline's own call."""
        parameters = inspect.signature(type(self.pipeline).__call__).parameters
        guidance = parameters["guidance_scale"].default if "guidance_scale" in parameters else 1.0
        height, width = self.default_size
        steps = parameters["num_inference_steps"].default
        return {"steps": steps, "guidance_scale": float(guidance), "height": height, "width": width}

    def timestep_arguments(self, scheduler: Any, steps: int, shape: tuple[int, ...]) -> dict[str, Any]:
        """What the stock pipeline passes to `set_timesteps` for one latent of `shape`."""
        return {"num_inference_steps": steps}

    # --- the network ----------------------------------------------------------------------------------------------

    def denoiser(self, conditioning: Conditioning, guidance_scale: float) -> Denoise:
        """Guided by `uncond + scale (cond - uncond)` for any scale but 1 and 0 where a negative half exists.

        At scale 1, or without a negative half, one conditional evaluation; at scale 0 one unconditional. That diffusers
        switches guidance off at scales of at most 1 belongs to the caller, who leaves the negative half out.
        """
        weight = self.guidance_weight(guidance_scale)
        parts = with_bound(conditioning, self.bound).halves(weight)
        guided = len(parts) == 2
        outputs = self.outputs(parts, guidance_scale)
        kind = self.prediction_type

        def denoise(x: Tensor, level: Level) -> Prediction:
            raws = outputs(x / level.scale, level.t)
            self.ledger.count(len(raws) * len(x))
            if not guided:
                return Prediction(raws[0], x, level, kind)
            uncond, cond = raws
            raw = uncond + weight * (cond - uncond)
            sides = (Prediction(cond, x, level, kind), Prediction(uncond, x, level, kind))
            return Prediction(raw, x, level, kind, *sides)

        return denoise

    def guidance_weight(self, guidance_scale: float) -> float:
        """The scale of classifier-free guidance; families with distilled guidance have another one."""
        return guidance_scale

    def outputs(self, parts: Sequence[Keywords], guidance_scale: float) -> Callable[[Tensor, Tensor], Sequence[Tensor]]:
        """Return x, t -> one raw output per part, from one batched call [negative, positive] like the stock one."""
        evaluate = self.evaluator(guidance_scale)
        ready: dict[int, Keywords] = {}

        def run(x: Tensor, t: Tensor) -> Sequence[Tensor]:
            rows = len(x)
            if rows not in ready:
                ready[rows] = joined([expanded(part, rows) for part in parts])
            return evaluate(torch.cat([x] * len(parts)), t, ready[rows]).chunk(len(parts))

        return run

    def evaluator(self, guidance_scale: float) -> Evaluate:
        """Family: the bare network call of one trajectory."""
        raise NotImplementedError


# --- pure helpers -------------------------------------------------------------------------------------------------


def check_multiple(name: str, pixels: int, multiple: int) -> None:
    """Raise UsageError naming the nearest valid sizes unless `pixels` is a positive multiple."""
    if pixels > 0 and pixels % multiple == 0:
        return
    below = max(pixels // multiple, 0) * multiple
    near = f"{below} or {below + multiple}" if below else str(multiple)
    raise UsageError(f"{name}={pixels} does not fit this model, which takes multiples of {multiple}; nearest: {near}")


def with_modules(pipeline: Any, modules: Mapping[str, nn.Module]) -> Any:
    """Return a shallow copy of a pipeline with some modules replaced. Raises ModelError for unknown names."""
    parts = [name for name, part in pipeline.components.items() if isinstance(part, nn.Module)]
    for name in modules:
        if name not in parts:
            raise ModelError(f"this model has no module '{name}'; it has {', '.join(sorted(parts))}")
    clone = copy.copy(pipeline)
    for name, module in modules.items():
        setattr(clone, name, module)
    return clone


def expanded(part: Keywords, rows: int) -> Keywords:
    """Return keyword tensors of `rows` rows; one row serves any batch. Raises UsageError for other numbers."""
    for name, tensor in part.items():
        if len(tensor) not in (1, rows):
            raise UsageError(f"conditioning '{name}' has {len(tensor)} rows and x has {rows}; give one row or as many")
    return {name: t if len(t) == rows else t.repeat(rows, *[1] * (t.ndim - 1)) for name, t in part.items()}


def with_bound(conditioning: Conditioning, bound: Conditioning) -> Conditioning:
    """Add a view's own keywords to both halves; what conditioning says itself comes first."""
    positive = {**bound.positive, **conditioning.positive}
    if conditioning.negative is None:
        return Conditioning(positive)
    return Conditioning(positive, {**(bound.negative or bound.positive), **conditioning.negative})


def joined(parts: Sequence[Keywords]) -> Keywords:
    """Join [negative, positive] along the batch axis."""
    if len(parts) == 1:
        return parts[0]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def to_uint8(images: Tensor) -> Tensor:
    """Round images in [0, 1] to 8 bits as diffusers does for PIL: half to even, (b, 3, h, w) uint8."""
    return (images.float() * 255).round().to(torch.uint8)


def _with_safe_vae(pipeline: Any) -> Any:
    """A float16 VAE marked `force_upcast` overflows; the stock pipeline upcasts it for each decode, we once."""
    vae = getattr(pipeline, "vae", None)
    if vae is None or vae.dtype != torch.float16 or not vae.config.get("force_upcast", False):
        return pipeline
    return with_modules(pipeline, {"vae": copy.deepcopy(vae).float()})
