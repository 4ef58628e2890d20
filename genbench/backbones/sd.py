"""Stable Diffusion 1.x and 2.x (epsilon and v): UNet2DConditionModel with one CLIP text encoder."""

# pyright: basic
# diffusers, transformers and JSON carry no types here; they stop at this module's own signatures.

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from genbench.backbones.base import Evaluate, Keywords, PipelineModel, with_modules
from genbench.backbones.fitting import fit
from genbench.errors import ModelError
from genbench.kinds import Conditioning


def with_image(keywords: Keywords) -> dict[str, Any]:
    """Keyword tensors as a UNet takes them: what it attends to of a picture comes in a list of its own."""
    if "image_embeds" not in keywords:
        return dict(keywords)
    rest = {name: tensor for name, tensor in keywords.items() if name != "image_embeds"}
    return {**rest, "added_cond_kwargs": {"image_embeds": [keywords["image_embeds"]]}}


@dataclass(frozen=True)
class StableDiffusionModel(PipelineModel):
    """`StableDiffusionPipeline`. A UNet with an embedded guidance scale (`time_cond_proj_dim`) is evaluated once."""

    family: ClassVar[str] = "sd"
    lora_loader: ClassVar[bool] = True
    controlnets: ClassVar[bool] = True
    ip_adapters: ClassVar[bool] = True

    @property
    def embeds_guidance(self) -> bool:
        """Whether the UNet was distilled to take the guidance scale as an input (LCM, arXiv:2310.04378)."""
        return self.network_config.get("time_cond_proj_dim") is not None

    def encode(
        self, prompts: list[str], negative: list[str] | None, guidance: bool, size: tuple[int, int]
    ) -> Conditioning:
        tokenizer = self.pipeline.tokenizer
        limit = tokenizer.model_max_length
        prompts = fit(prompts, tokenizer, limit, "the text encoder")
        negative = None if negative is None else fit(negative, tokenizer, limit, "the text encoder")
        guided = guidance and not self.embeds_guidance
        positive, negatives = self.pipeline.encode_prompt(prompts, self.device, 1, guided, negative)
        return Conditioning(
            {"encoder_hidden_states": positive},
            {"encoder_hidden_states": negatives} if guided else None,
        )

    def evaluator(self, guidance_scale: float) -> Evaluate:
        network = self.network
        timestep_cond = self.guidance_embedding(guidance_scale)

        def evaluate(x: Tensor, t: Tensor, keywords: Keywords) -> Tensor:
            cond = None if timestep_cond is None else timestep_cond.expand(len(x), -1)
            return network(x, t, timestep_cond=cond, return_dict=False, **with_image(keywords))[0]

        return evaluate

    def guidance_embedding(self, guidance_scale: float) -> Tensor | None:
        """The embedded guidance scale (1, dim), where the UNet takes one."""
        if not self.embeds_guidance:
            return None
        weight = torch.tensor(guidance_scale - 1).repeat(1)
        embedded = self.pipeline.get_guidance_scale_embedding(weight, self.network_config["time_cond_proj_dim"])
        return embedded.to(self.device, self.dtype)

    def with_controlnet(self, source: str) -> PipelineModel:
        """Add a ControlNet (arXiv:2302.05543); the picture to follow is keyword `controlnet_cond` (b, 3, h, w)."""
        from genbench.backbones.controlnet import ControlledUNet, open_controlnet

        fits = {"cross_attention_dim": self.network_config["cross_attention_dim"]}
        net = open_controlnet("ControlNetModel", source, fits, self.dtype, self.device, self.local_only)
        return replace(self, pipeline=with_modules(self.pipeline, {"unet": ControlledUNet(self.network, net)}))

    def with_ip_adapter(self, source: str, image: Tensor | None) -> PipelineModel:
        """Add an IP-Adapter (arXiv:2308.06721); what it attends to is keyword `image_embeds` (b, 1, ...)."""
        from genbench.backbones.ip_adapter import open_ip_adapter

        if image is None:
            raise ModelError(f"ip_adapter='{source}' attends to a picture; give view(image=...)")
        if "image_embeds" in self.bound.positive:
            raise ModelError(f"ip_adapter='{source}': this model has one already; a view takes one")
        adapter = self._once(("ip_adapter", source), lambda: open_ip_adapter(self.network, source, self.local_only))
        seen, nothing = adapter.embeds(image)
        view = replace(self, pipeline=with_modules(self.pipeline, {"unet": adapter.unet}))
        return replace(view, bound=Conditioning({"image_embeds": seen}, {"image_embeds": nothing}))
