"""What the published weight files of scorers hold: names and shapes, written down from the files' own layouts.

`{vl}` and `{tl}` stand for a layer's number, letters for sizes. At the published sizes the tables count as many numbers
as the files hold (test_scorers_tables.py); tests fill them at tiny sizes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny import clip_tokenizer

Shape = tuple[int | str, ...]


def affine(name: str, out: int | str, into: int | str) -> dict[str, Shape]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str, width: int | str) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _clip_layer(tower: str, w: str, m: str) -> dict[str, Shape]:
    layer = f"{tower}.encoder.layers.{{{tower[0]}l}}"
    return {
        **affine(f"{layer}.self_attn.k_proj", w, w),
        **affine(f"{layer}.self_attn.v_proj", w, w),
        **affine(f"{layer}.self_attn.q_proj", w, w),
        **affine(f"{layer}.self_attn.out_proj", w, w),
        **norm(f"{layer}.layer_norm1", w),
        **affine(f"{layer}.mlp.fc1", m, w),
        **affine(f"{layer}.mlp.fc2", w, m),
        **norm(f"{layer}.layer_norm2", w),
    }


# openai/clip-vit-large-patch14 and yuvalkirstain/PickScore_v1, model.safetensors
CLIP: dict[str, Shape] = {
    "logit_scale": (),
    "text_model.embeddings.token_embedding.weight": ("words", "tw"),
    "text_model.embeddings.position_embedding.weight": (77, "tw"),
    **_clip_layer("text_model", "tw", "tm"),
    **norm("text_model.final_layer_norm", "tw"),
    "vision_model.embeddings.class_embedding": ("vw",),
    "vision_model.embeddings.patch_embedding.weight": ("vw", 3, "patch", "patch"),
    "vision_model.embeddings.position_embedding.weight": ("spots", "vw"),
    **norm("vision_model.pre_layrnorm", "vw"),
    **_clip_layer("vision_model", "vw", "vm"),
    **norm("vision_model.post_layernorm", "vw"),
    "visual_projection.weight": ("d", "vw"),
    "text_projection.weight": ("d", "tw"),
}


def _open_clip_layer(prefix: str, number: str, w: str, m: str) -> dict[str, Shape]:
    layer = f"{prefix}transformer.resblocks.{{{number}}}"
    return {
        **norm(f"{layer}.ln_1", w),
        f"{layer}.attn.in_proj_weight": (f"3{w}", w),
        f"{layer}.attn.in_proj_bias": (f"3{w}",),
        **affine(f"{layer}.attn.out_proj", w, w),
        **norm(f"{layer}.ln_2", w),
        **affine(f"{layer}.mlp.c_fc", m, w),
        **affine(f"{layer}.mlp.c_proj", w, m),
    }


# xswu/HPSv2, HPS_v2.1_compressed.pt, under `state_dict`
HPS: dict[str, Shape] = {
    "positional_embedding": (77, "tw"),
    "text_projection": ("tw", "d"),
    "logit_scale": (),
    "visual.class_embedding": ("vw",),
    "visual.positional_embedding": ("spots", "vw"),
    "visual.proj": ("vw", "d"),
    "visual.conv1.weight": ("vw", 3, "patch", "patch"),
    **norm("visual.ln_pre", "vw"),
    **_open_clip_layer("visual.", "vl", "vw", "vm"),
    **norm("visual.ln_post", "vw"),
    **_open_clip_layer("", "tl", "tw", "tm"),
    "token_embedding.weight": ("words", "tw"),
    **norm("ln_final", "tw"),
}

# christophschuhmann/improved-aesthetic-predictor, sac+logos+ava1-l14-linearMSE.pth
AESTHETIC: dict[str, Shape] = {
    **affine("layers.0", 1024, "d"),
    **affine("layers.2", 128, 1024),
    **affine("layers.4", 64, 128),
    **affine("layers.6", 16, 64),
    **affine("layers.7", 1, 16),
}
# LAION-AI/aesthetic-predictor, sa_0_4_vit_l_14_linear.pth
AESTHETIC_LINEAR: dict[str, Shape] = {"weight": (1, "d"), "bias": (1,)}


def _bert_attention(name: str, w: str, seen: str) -> dict[str, Shape]:
    return {
        **affine(f"{name}.self.query", w, w),
        **affine(f"{name}.self.key", w, seen),
        **affine(f"{name}.self.value", w, seen),
        **affine(f"{name}.output.dense", w, w),
        **norm(f"{name}.output.LayerNorm", w),
    }


_BLOCK, _LAYER = "blip.visual_encoder.blocks.{vl}", "blip.text_encoder.encoder.layer.{tl}"
# zai-org/ImageReward, ImageReward.pt
IMAGE_REWARD: dict[str, Shape] = {
    "blip.visual_encoder.cls_token": (1, 1, "vw"),
    "blip.visual_encoder.pos_embed": (1, "spots", "vw"),
    "blip.visual_encoder.patch_embed.proj.weight": ("vw", 3, "patch", "patch"),
    "blip.visual_encoder.patch_embed.proj.bias": ("vw",),
    **norm(f"{_BLOCK}.norm1", "vw"),
    **affine(f"{_BLOCK}.attn.qkv", "3vw", "vw"),
    **affine(f"{_BLOCK}.attn.proj", "vw", "vw"),
    **norm(f"{_BLOCK}.norm2", "vw"),
    **affine(f"{_BLOCK}.mlp.fc1", "vm", "vw"),
    **affine(f"{_BLOCK}.mlp.fc2", "vw", "vm"),
    **norm("blip.visual_encoder.norm", "vw"),
    "blip.text_encoder.embeddings.position_ids": (1, 512),
    "blip.text_encoder.embeddings.word_embeddings.weight": ("words", "tw"),
    "blip.text_encoder.embeddings.position_embeddings.weight": (512, "tw"),
    **norm("blip.text_encoder.embeddings.LayerNorm", "tw"),
    **_bert_attention(f"{_LAYER}.attention", "tw", "tw"),
    **_bert_attention(f"{_LAYER}.crossattention", "tw", "vw"),
    **affine(f"{_LAYER}.intermediate.dense", "tm", "tw"),
    **affine(f"{_LAYER}.output.dense", "tw", "tm"),
    **norm(f"{_LAYER}.output.LayerNorm", "tw"),
    **affine("blip.vision_proj", 256, "vw"),
    **affine("blip.text_proj", 256, "tw"),
    **{key.replace("layers", "mlp.layers"): shape for key, shape in AESTHETIC.items() if "layers.0.w" not in key},
    "mlp.layers.0.weight": (1024, "tw"),
}


def shapes(table: Mapping[str, Shape], **sizes: int) -> dict[str, tuple[int, ...]]:
    """The table at these sizes: layers counted out, letters replaced."""
    sizes |= {f"3{name}": 3 * size for name, size in sizes.items()}
    found = {}
    for name, shape in table.items():
        numbered = next((key for key in ("vl", "tl") if f"{{{key}}}" in name), None)
        for n in range(sizes[numbered]) if numbered else (0,):
            whole = name if numbered is None else name.replace(f"{{{numbered}}}", str(n))
            found[whole] = tuple(sizes[side] if isinstance(side, str) else side for side in shape)
    return found


def state(table: Mapping[str, Shape], seed: int = 0, **sizes: int) -> dict[str, Tensor]:
    """The table filled at random, wide enough that every tensor tells."""
    draw = torch.Generator().manual_seed(seed)
    return {name: _filled(name, shape, draw) for name, shape in shapes(table, **sizes).items()}


def _filled(name: str, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    if name.endswith("position_ids"):
        return torch.arange(shape[-1]).reshape(shape)
    if name == "logit_scale":
        return torch.tensor(2.0)
    noise = torch.randn(shape, generator=draw)
    if len(shape) == 1 and name.endswith("weight"):
        return 1 + 0.2 * noise
    return 0.2 * noise if len(shape) == 1 else noise / math.sqrt(math.prod(shape[1:]))


# --- folders ------------------------------------------------------------------------------------------------------

TINY_CLIP = {"words": 514, "tw": 16, "tm": 32, "tl": 2, "vw": 32, "vm": 64, "vl": 2, "d": 24, "patch": 8, "spots": 17}


def clip_folder(folder: Path, seed: int = 0, **changes: object) -> tuple[Path, dict[str, Tensor]]:
    """A tiny CLIP for 32 pixels as transformers saves it: config, weights by the published table, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"vocab_size": 514, "projection_dim": 24, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"image_size": 32, "patch_size": 8, "projection_dim": 24}
    config = {"model_type": "clip", "projection_dim": 24, "text_config": text, "vision_config": vision, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = state(CLIP, seed, **TINY_CLIP)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    clip_tokenizer().save_pretrained(folder)
    return folder, tensors


TINY_HPS = {"words": 49408, "tw": 16, "tm": 64, "tl": 2, "vw": 32, "vm": 128, "vl": 2, "d": 24, "patch": 8, "spots": 17}


def hps_file(folder: Path, architecture: str, seed: int = 1) -> tuple[Path, dict[str, Tensor]]:
    """A tiny HPSv2.1 for 32 pixels: a checkpoint by the published table, its network made known to open_clip."""
    import open_clip

    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    (folder / f"{architecture}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    tensors = state(HPS, seed, **TINY_HPS)
    torch.save({"epoch": 1, "state_dict": tensors}, folder / "HPS_v2.1_compressed.pt")
    return folder / "HPS_v2.1_compressed.pt", tensors
