"""PixArt-alpha and PixArt-Sigma: a DiT with T5 text and a learned variance that samplers do not use."""

# pyright: basic
# diffusers, transformers and JSON carry no types here; they stop at this module's own signatures.

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from diffusers.utils.import_utils import is_bs4_available, is_ftfy_available
from torch import Tensor

from genbench.backbones.base import Evaluate, Keywords, PipelineModel
from genbench.backbones.fitting import fit
from genbench.kinds import Conditioning


@dataclass(frozen=True)
class PixArtModel(PipelineModel):
    """`PixArtSigmaPipeline`, without resolution binning: the size asked for is the size drawn."""

    family: ClassVar[str] = "pixart"
    network_name: ClassVar[str] = "transformer"
    text_length: ClassVar[int] = 300

    def encode(
        self, prompts: list[str], negative: list[str] | None, guidance: bool, size: tuple[int, int]
    ) -> Conditioning:
        prompts = fit(prompts, self.pipeline.tokenizer, self.text_length, "the text encoder")
        embeds, mask, negative_embeds, negative_mask = self.pipeline.encode_prompt(
            prompts,
            guidance,
            negative_prompt=negative if negative is not None else [""] * len(prompts),
            device=self.device,
            # The stock call asks for cleaned captions and falls back, with a warning, where the cleaners are missing.
            clean_caption=is_bs4_available() and is_ftfy_available(),
            max_sequence_length=self.text_length,
        )
        told = self.micro_conditions(size, len(prompts))
        positive = {"encoder_hidden_states": embeds, "encoder_attention_mask": mask, **told}
        if not guidance:
            return Conditioning(positive)
        away = {"encoder_hidden_states": negative_embeds, "encoder_attention_mask": negative_mask, **told}
        return Conditioning(positive, away)

    def micro_conditions(self, size: tuple[int, int], rows: int) -> dict[str, Tensor]:
        """Resolution (b, 2) and aspect ratio (b, 1): only the alpha model of 1024 pixels is told them."""
        return {}

    def evaluator(self, guidance_scale: float) -> Evaluate:
        network = self.network

        def evaluate(x: Tensor, t: Tensor, keywords: Keywords) -> Tensor:
            raw = network(
                x,
                encoder_hidden_states=keywords["encoder_hidden_states"],
                encoder_attention_mask=keywords["encoder_attention_mask"],
                timestep=t.to(x.device).expand(len(x)),
                added_cond_kwargs={name: keywords.get(name) for name in ("resolution", "aspect_ratio")},
                return_dict=False,
            )[0]
            return raw.chunk(2, dim=1)[0] if raw.shape[1] == 2 * x.shape[1] else raw

        return evaluate


@dataclass(frozen=True)
class PixArtAlphaModel(PixArtModel):
    """`PixArtAlphaPipeline`: shorter text, and micro-conditions at 1024 pixels."""

    text_length: ClassVar[int] = 120

    def micro_conditions(self, size: tuple[int, int], rows: int) -> dict[str, Tensor]:
        if self.network_config["sample_size"] != 128:
            return {}
        height, width = size
        numbers = {"resolution": torch.tensor([height, width]), "aspect_ratio": torch.tensor([float(height / width)])}
        return {name: value.repeat(rows, 1).to(self.device, self.dtype) for name, value in numbers.items()}
