"""Stable Diffusion 1.x and 2.x (epsilon and v): UNet2DConditionModel with one CLIP text encoder."""

# pyright: basic
# diffusers, transformers and JSON carry no types here; they stop at this module's own signatures.

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genbench.backbones.base import Evaluate, Keywords, PipelineModel, with_modules
from genbench.backbones.fitting import fit
from genbench.errors import ModelError
from genbench.kinds import Conditioning


@dataclass(frozen=True)
class StableDiffusionModel(PipelineModel):
    """`StableDiffusionPipeline`. A UNet with an embedded guidance scale (`time_cond_proj_dim`) is evaluated once."""

    family: ClassVar[str] = "sd"
    lora_loader: ClassVar[bool] = True

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
            return network(x, t, timestep_cond=cond, return_dict=False, **keywords)[0]

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
        from diffusers.models.controlnets.controlnet import ControlNetModel

        try:
            controlnet = ControlNetModel.from_pretrained(
                source, torch_dtype=self.dtype, local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise ModelError(f"controlnet='{source}' cannot be opened ({str(error).splitlines()[0]})") from error
        steered = ControlledUNet(self.network, controlnet.to(device=self.device).eval())
        return replace(self, pipeline=with_modules(self.pipeline, {"unet": steered}))


class ControlledUNet(nn.Module):
    """A UNet whose skip connections receive a ControlNet's residuals. Raises ModelError without a picture to follow."""

    def __init__(self, unet: nn.Module, controlnet: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.unet = unet
        self.controlnet = controlnet
        self.scale = scale

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor | None = None,
        timestep_cond: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """x (n, c, h, w) and controlnet_cond (n, 3, 8h, 8w) in [0, 1]; returns what the UNet returns."""
        if controlnet_cond is None:
            raise ModelError("this model has a ControlNet; give conditioning a 'controlnet_cond' picture (b, 3, h, w)")
        down, middle = self.controlnet(
            x,
            t,
            encoder_hidden_states=encoder_hidden_states,
            controlnet_cond=controlnet_cond,
            conditioning_scale=self.scale,
            return_dict=False,
        )
        return self.unet(
            x,
            t,
            encoder_hidden_states=encoder_hidden_states,
            timestep_cond=timestep_cond,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=return_dict,
        )
