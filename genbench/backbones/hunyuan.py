"""Hunyuan-DiT: a bilingual DiT with a BERT-style CLIP and a T5 encoder, size conditioning and 2D rotary positions."""

# pyright: basic
# diffusers, transformers and JSON carry no types here; they stop at this module's own signatures.

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from torch import Tensor

from genbench.backbones.base import Evaluate, Keywords, PipelineModel
from genbench.backbones.fitting import fit
from genbench.kinds import Conditioning

ENCODERS = (
    ("encoder_hidden_states", "text_embedding_mask", 77),
    ("encoder_hidden_states_t5", "text_embedding_mask_t5", 256),
)
ORIGINAL_SIZE = (1024, 1024)


@dataclass(frozen=True)
class HunyuanModel(PipelineModel):
    """`HunyuanDiTPipeline`, without resolution binning: the size asked for is the size drawn."""

    family: ClassVar[str] = "hunyuan"
    network_name: ClassVar[str] = "transformer"

    def encode(
        self, prompts: list[str], negative: list[str] | None, guidance: bool, size: tuple[int, int]
    ) -> Conditioning:
        told = self._told(size, len(prompts))
        positive, away = dict(told), dict(told)
        for index, (embeds_name, mask_name, limit) in enumerate(ENCODERS):
            tokenizer = (self.pipeline.tokenizer, self.pipeline.tokenizer_2)[index]
            embeds, negative_embeds, mask, negative_mask = self.pipeline.encode_prompt(
                prompt=fit(prompts, tokenizer, limit, ("the BERT encoder", "the T5 encoder")[index]),
                device=self.device,
                dtype=self.dtype,
                do_classifier_free_guidance=guidance,
                negative_prompt=negative,
                max_sequence_length=limit,
                text_encoder_index=index,
            )
            positive |= {embeds_name: embeds, mask_name: mask}
            away |= {embeds_name: negative_embeds, mask_name: negative_mask}
        return Conditioning(positive, away if guidance else None)

    def _told(self, size: tuple[int, int], rows: int) -> dict[str, Tensor]:
        """Original size, target size and crop corner (b, 6), and style (b,)."""
        numbers = torch.tensor([[*ORIGINAL_SIZE, *size, 0, 0]], dtype=self.dtype, device=self.device)
        style = torch.zeros(rows, dtype=torch.long, device=self.device)
        return {"image_meta_size": numbers.repeat(rows, 1), "style": style}

    def evaluator(self, guidance_scale: float) -> Evaluate:
        network = self.network
        positions: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

        def evaluate(x: Tensor, t: Tensor, keywords: Keywords) -> Tensor:
            grid = (x.shape[-2], x.shape[-1])
            if grid not in positions:
                positions[grid] = self.rotary_positions(*grid)
            steps = t.to(x.device).expand(len(x)).to(x.dtype)
            raw = network(x, steps, image_rotary_emb=positions[grid], return_dict=False, **keywords)[0]
            return raw.chunk(2, dim=1)[0]

        return evaluate

    def rotary_positions(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Rotary embedding of a latent of (height, width), stretched to the grid of 512 pixels."""
        patch = self.network_config["patch_size"]
        grid = (height // patch, width // patch)
        region = get_resize_crop_region_for_grid(grid, 512 // 8 // patch)
        channels = self.network_config["attention_head_dim"]
        return get_2d_rotary_pos_embed(channels, region, grid, device=self.device, output_type="pt")
