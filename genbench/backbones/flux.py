"""FLUX.1: a transformer on packed 2x2 patches with distilled guidance; `true_cfg` adds a second evaluation.

The sampler's state stays unpacked, (b, c, h, w); packing is part of the network call.
"""

from __future__ import annotations

import inspect
import itertools
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor

from genbench.backbones.base import Keywords, PipelineModel, expanded, with_modules
from genbench.backbones.caches import forget
from genbench.backbones.fitting import fit
from genbench.backbones.sd3 import dynamic_shift
from genbench.kinds import Conditioning

T5_LENGTH = 512
_trajectories = itertools.count()


@dataclass(frozen=True)
class FluxModel(PipelineModel):
    """`FluxPipeline`. `guidance_scale` is the distilled one, an input of the network (one evaluation per step).

    With `true_cfg_scale` other than 1 and a negative prompt, classifier-free guidance runs on top (two evaluations).
    """

    true_cfg_scale: float = 1.0

    family: ClassVar[str] = "flux"
    network_name: ClassVar[str] = "transformer"
    lora_loader: ClassVar[bool] = True
    controlnets: ClassVar[bool] = True
    step_caches: ClassVar[bool] = True

    def with_true_cfg(self, scale: float) -> FluxModel:
        """Return a model that guides with its negative prompt at `scale`."""
        return replace(self, true_cfg_scale=scale)

    @property
    def latent_channels(self) -> int:
        return int(self.network_config["in_channels"]) // 4

    @property
    def multiple(self) -> int:
        return 2 * self.factor

    @property
    def default_size(self) -> tuple[int, int]:
        side = self.pipeline.default_sample_size * self.factor
        return side, side

    def encode(
        self, prompts: list[str], negative: list[str] | None, guidance: bool, size: tuple[int, int]
    ) -> Conditioning:
        positive = self._encode(prompts)
        return Conditioning(positive, self._encode(negative) if guidance and negative is not None else None)

    def _encode(self, prompts: list[str]) -> Keywords:
        pipeline = self.pipeline
        embeds, pooled, _ = pipeline.encode_prompt(
            prompt=fit(prompts, pipeline.tokenizer, pipeline.tokenizer_max_length, "the CLIP encoder"),
            prompt_2=fit(prompts, pipeline.tokenizer_2, T5_LENGTH, "the T5 encoder"),
            device=self.device,
            max_sequence_length=T5_LENGTH,
        )
        return {"encoder_hidden_states": embeds, "pooled_projections": pooled}

    def with_controlnet(self, source: str) -> FluxModel:
        """Add a ControlNet; the picture to follow is keyword `controlnet_cond`, packed latents (b, tokens, 4c)."""
        from genbench.backbones.controlnet import ControlledFlux, open_controlnet

        fits = {"in_channels": self.network_config["in_channels"]}
        net = open_controlnet("FluxControlNetModel", source, fits, self.dtype, self.device, self.local_only)
        return replace(self, pipeline=with_modules(self.pipeline, {"transformer": ControlledFlux(self.network, net)}))

    def control_picture(self, image: Tensor) -> Tensor:
        """Packed latents; ControlNets with a block for hints (XLabs) read the picture in [-1, 1]."""
        network: Any = self.network
        if network.controlnet.input_hint_block is not None:
            return (2 * image - 1).to(self.device, self.dtype)
        return pack(self.encode_image(image))

    def timestep_arguments(self, scheduler: Any, steps: int, shape: tuple[int, ...]) -> dict[str, Any]:
        config = scheduler.config
        accepted = inspect.signature(scheduler.set_timesteps).parameters
        arguments: dict[str, Any] = {"num_inference_steps": steps}
        if "sigmas" in accepted and not config.get("use_flow_sigmas", False):
            arguments = {"sigmas": numpy.linspace(1.0, 1 / steps, steps)}
        if "mu" in accepted and config.get("use_dynamic_shifting", False):
            arguments["mu"] = dynamic_shift(scheduler, (shape[-2] // 2) * (shape[-1] // 2), max_shift=1.15)
        return arguments

    def guidance_weight(self, guidance_scale: float) -> float:
        return self.true_cfg_scale

    def outputs(self, parts: Sequence[Keywords], guidance_scale: float) -> Callable[[Tensor, Tensor], Sequence[Tensor]]:
        """One call per part, like the stock pipeline; each part has a step cache of its own."""
        network, embeds = self.network, self.network_config["guidance_embeds"]
        number = next(_trajectories)
        names = [f"{number}-{part}" for part in range(len(parts))]
        context: Callable[[str], AbstractContextManager[None]] = getattr(network, "cache_context", _no_cache)

        def run(x: Tensor, t: Tensor) -> Sequence[Tensor]:
            rows, height, width = len(x), x.shape[-2], x.shape[-1]
            packed, ids = pack(x), patch_positions(height // 2, width // 2).to(x.device, x.dtype)
            guidance = torch.full([1], guidance_scale, device=x.device).expand(rows) if embeds else None
            steps = t.to(x.device).expand(rows).to(x.dtype) / 1000
            raws: list[Tensor] = []
            for name, part in zip(names, parts, strict=True):
                keywords = expanded(part, rows)
                text_ids = torch.zeros(keywords["encoder_hidden_states"].shape[1], 3).to(x.device, x.dtype)
                with context(name):
                    raw = network(
                        hidden_states=packed,
                        timestep=steps,
                        guidance=guidance,
                        txt_ids=text_ids,
                        img_ids=ids,
                        return_dict=False,
                        **keywords,
                    )[0]
                raws.append(unpack(raw, height, width))
            return raws

        weakref.finalize(run, forget, weakref.ref(network), tuple(names))
        return run


def _no_cache(name: str) -> AbstractContextManager[None]:
    return nullcontext()


def pack(x: Tensor) -> Tensor:
    """Latents (b, c, h, w) to tokens of 2x2 patches, (b, h/2 w/2, 4c)."""
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, (h // 2) * (w // 2), 4 * c)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack` for latents of (height, width)."""
    b, _, c = tokens.shape
    patches = tokens.view(b, height // 2, width // 2, c // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, height, width)


def patch_positions(rows: int, columns: int) -> Tensor:
    """Rotary position of every patch, (rows columns, 3): zero, row, column."""
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] += torch.arange(rows)[:, None]
    ids[..., 2] += torch.arange(columns)[None, :]
    return ids.reshape(rows * columns, 3)
