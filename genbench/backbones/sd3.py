"""Stable Diffusion 3 and 3.5: a joint-attention transformer on rectified flow (arXiv:2403.03206)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from genbench.backbones.base import Evaluate, Keywords, PipelineModel, with_modules
from genbench.backbones.fitting import fit
from genbench.kinds import Conditioning

T5_LENGTH = 256


def dynamic_shift(scheduler: Any, tokens: int, max_shift: float = 1.16) -> float:
    """The time shift `mu` for an image of `tokens` patches, linear in their number (arXiv:2403.03206, 5.3.2)."""
    config = scheduler.config
    fewest, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least = config.get("base_shift", 0.5)
    slope = (config.get("max_shift", max_shift) - least) / (most - fewest)
    return tokens * slope + (least - slope * fewest)


@dataclass(frozen=True)
class StableDiffusion3Model(PipelineModel):
    """`StableDiffusion3Pipeline`. Keywords: encoder_hidden_states, pooled_projections."""

    family: ClassVar[str] = "sd3"
    network_name: ClassVar[str] = "transformer"
    lora_loader: ClassVar[bool] = True
    controlnets: ClassVar[bool] = True

    def encode(
        self, prompts: list[str], negative: list[str] | None, guidance: bool, size: tuple[int, int]
    ) -> Conditioning:
        given = self._fitted("prompt", prompts)
        away = {} if negative is None else self._fitted("negative_prompt", negative)
        embeds, negative_embeds, pooled, negative_pooled = self.pipeline.encode_prompt(
            **given, **away, device=self.device, do_classifier_free_guidance=guidance, max_sequence_length=T5_LENGTH
        )
        positive = {"encoder_hidden_states": embeds, "pooled_projections": pooled}
        if not guidance:
            return Conditioning(positive)
        return Conditioning(positive, {"encoder_hidden_states": negative_embeds, "pooled_projections": negative_pooled})

    def _fitted(self, name: str, prompts: list[str]) -> dict[str, list[str]]:
        """The prompts as each of the three encoders reads them."""
        pipeline, limit = self.pipeline, self.pipeline.tokenizer_max_length
        clip = [fit(prompts, each, limit, "the CLIP encoder") for each in (pipeline.tokenizer, pipeline.tokenizer_2)]
        t5 = (
            prompts if pipeline.tokenizer_3 is None else fit(prompts, pipeline.tokenizer_3, T5_LENGTH, "the T5 encoder")
        )
        return {name: clip[0], f"{name}_2": clip[1], f"{name}_3": t5}

    def timestep_arguments(self, scheduler: Any, steps: int, shape: tuple[int, ...]) -> dict[str, Any]:
        arguments: dict[str, Any] = {"num_inference_steps": steps}
        if scheduler.config.get("use_dynamic_shifting", False):
            patch = self.network_config["patch_size"]
            arguments["mu"] = dynamic_shift(scheduler, (shape[-2] // patch) * (shape[-1] // patch))
        return arguments

    def with_controlnet(self, source: str) -> StableDiffusion3Model:
        """Add a ControlNet; the picture to follow is keyword `controlnet_cond`, latents (b, c, h, w)."""
        from genbench.backbones.controlnet import ControlledSD3, open_controlnet

        fits = {"in_channels": self.network_config["in_channels"]}
        net: Any = open_controlnet("SD3ControlNetModel", source, fits, self.dtype, self.device, self.local_only)
        if net.config.get("use_pos_embed", True) is False:
            net.pos_embed = net._get_pos_embed_from_transformer(self.network).to(self.device, self.dtype)
        return replace(self, pipeline=with_modules(self.pipeline, {"transformer": ControlledSD3(self.network, net)}))

    def control_picture(self, image: Tensor) -> Tensor:
        """Latents; ControlNets that know no pooled text (InstantX) were trained on unshifted ones."""
        network: Any = self.network
        latents = self.encode_image(image)
        if not network.controlnet.config.force_zeros_for_pooled_projection:
            return latents
        config = self.pipeline.vae.config
        return latents + (config.get("shift_factor") or 0.0) * config.scaling_factor

    def evaluator(self, guidance_scale: float) -> Evaluate:
        network = self.network

        def evaluate(x: Tensor, t: Tensor, keywords: Keywords) -> Tensor:
            steps = t.to(x.device).expand(len(x))
            return network(hidden_states=x, timestep=steps, return_dict=False, **keywords)[0]

        return evaluate
