"""Stable Diffusion XL: two CLIP encoders, pooled text, and the size micro-conditioning (arXiv:2307.01952, 2.2)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genbench.backbones.base import Evaluate, Keywords
from genbench.backbones.fitting import fit
from genbench.backbones.sd import StableDiffusionModel, with_image
from genbench.kinds import Conditioning

Size = tuple[int, int]


@dataclass(frozen=True)
class StableDiffusionXLModel(StableDiffusionModel):
    """`StableDiffusionXLPipeline`. Keywords: encoder_hidden_states, text_embeds, time_ids (b, 6)."""

    family: ClassVar[str] = "sdxl"

    def encode(self, prompts: list[str], negative: list[str] | None, guidance: bool, size: Size) -> Conditioning:
        guided = guidance and not self.embeds_guidance
        first, second = self._fitted(prompts)
        away = (None, None) if negative is None else self._fitted(negative)
        embeds, negative_embeds, pooled, negative_pooled = self.pipeline.encode_prompt(
            prompt=first,
            prompt_2=second,
            device=self.device,
            do_classifier_free_guidance=guided,
            negative_prompt=away[0],
            negative_prompt_2=away[1],
        )
        times = self.time_ids(size, (0, 0), size).repeat(len(prompts), 1)
        positive = {"encoder_hidden_states": embeds, "text_embeds": pooled, "time_ids": times}
        if not guided:
            return Conditioning(positive)
        return Conditioning(
            positive, {"encoder_hidden_states": negative_embeds, "text_embeds": negative_pooled, "time_ids": times}
        )

    def _fitted(self, prompts: list[str]) -> tuple[list[str], list[str]]:
        pipeline = self.pipeline
        tokenizers = [pipeline.tokenizer or pipeline.tokenizer_2, pipeline.tokenizer_2]
        first, second = (fit(prompts, each, each.model_max_length, "the text encoder") for each in tokenizers)
        return first, second

    def with_size(
        self,
        conditioning: Conditioning,
        original_size: Size,
        crops_coords_top_left: Size = (0, 0),
        target_size: Size | None = None,
    ) -> Conditioning:
        """Return conditioning that tells the network another original size, crop corner and target size (h, w)."""
        ids = self.time_ids(original_size, crops_coords_top_left, target_size or original_size)
        told: Mapping[str, Tensor] = {"time_ids": ids.repeat(len(conditioning.positive["time_ids"]), 1)}
        away = None if conditioning.negative is None else {**conditioning.negative, **told}
        return Conditioning({**conditioning.positive, **told}, away)

    def time_ids(self, original_size: Size, crops_coords_top_left: Size, target_size: Size) -> Tensor:
        """The six numbers the network is told, (1, 6)."""
        return torch.tensor(
            [[*original_size, *crops_coords_top_left, *target_size]], dtype=self.dtype, device=self.device
        )

    def evaluator(self, guidance_scale: float) -> Evaluate:
        network = self.network
        timestep_cond = self.guidance_embedding(guidance_scale)

        def evaluate(x: Tensor, t: Tensor, keywords: Keywords) -> Tensor:
            given = with_image(keywords)
            image = given.pop("added_cond_kwargs", {})
            added = {"text_embeds": given.pop("text_embeds"), "time_ids": given.pop("time_ids"), **image}
            cond = None if timestep_cond is None else timestep_cond.expand(len(x), -1)
            return network(x, t, timestep_cond=cond, added_cond_kwargs=added, return_dict=False, **given)[0]

        return evaluate

    def unscale_latents(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents)
        if mean is None or std is None:
            return latents / self.pipeline.vae.config.scaling_factor
        return latents * std / self.pipeline.vae.config.scaling_factor + mean

    def scale_latents(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents)
        if mean is None or std is None:
            return latents * self.pipeline.vae.config.scaling_factor
        return (latents - mean) * self.pipeline.vae.config.scaling_factor / std

    def _statistics(self, latents: Tensor) -> tuple[Tensor | None, Tensor | None]:
        config = self.pipeline.vae.config
        given = [config.get(name) for name in ("latents_mean", "latents_std")]
        if any(values is None for values in given):
            return None, None
        mean, std = (torch.tensor(copy.copy(values)).view(1, -1, 1, 1).to(latents) for values in given)
        return mean, std
