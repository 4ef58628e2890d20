"""What the published weight files of scorers hold: names and shapes, written down from the files' own layouts.

`{vl}` and `{tl}` stand for a layer's number, letters for sizes. At the published sizes the tables count as many numbers
as the files hold (test_scorers_tables.py); tests fill them at tiny sizes. `plain_*` are the networks in plain formulas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int | str, ...]
State = Mapping[str, Tensor]


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


def _inception() -> dict[str, tuple[int, int, int, int]]:
    """Convolutions (out, in, height, width) of torch-fidelity's weights-inception-2015-12-05-6726825d.pth."""
    stem = {
        "Conv2d_1a_3x3": (32, 3, 3, 3),
        "Conv2d_2a_3x3": (32, 32, 3, 3),
        "Conv2d_2b_3x3": (64, 32, 3, 3),
        "Conv2d_3b_1x1": (80, 64, 1, 1),
        "Conv2d_4a_3x3": (192, 80, 3, 3),
    }
    a = lambda into, pool: {  # noqa: E731
        "branch1x1": (64, into, 1, 1),
        "branch5x5_1": (48, into, 1, 1),
        "branch5x5_2": (64, 48, 5, 5),
        "branch3x3dbl_1": (64, into, 1, 1),
        "branch3x3dbl_2": (96, 64, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
        "branch_pool": (pool, into, 1, 1),
    }
    b = {
        "branch3x3": (384, 288, 3, 3),
        "branch3x3dbl_1": (64, 288, 1, 1),
        "branch3x3dbl_2": (96, 64, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
    }
    c = lambda c7: {  # noqa: E731
        "branch1x1": (192, 768, 1, 1),
        "branch7x7_1": (c7, 768, 1, 1),
        "branch7x7_2": (c7, c7, 1, 7),
        "branch7x7_3": (192, c7, 7, 1),
        "branch7x7dbl_1": (c7, 768, 1, 1),
        "branch7x7dbl_2": (c7, c7, 7, 1),
        "branch7x7dbl_3": (c7, c7, 1, 7),
        "branch7x7dbl_4": (c7, c7, 7, 1),
        "branch7x7dbl_5": (192, c7, 1, 7),
        "branch_pool": (192, 768, 1, 1),
    }
    d = {
        "branch3x3_1": (192, 768, 1, 1),
        "branch3x3_2": (320, 192, 3, 3),
        "branch7x7x3_1": (192, 768, 1, 1),
        "branch7x7x3_2": (192, 192, 1, 7),
        "branch7x7x3_3": (192, 192, 7, 1),
        "branch7x7x3_4": (192, 192, 3, 3),
    }
    e = lambda into: {  # noqa: E731
        "branch1x1": (320, into, 1, 1),
        "branch3x3_1": (384, into, 1, 1),
        "branch3x3_2a": (384, 384, 1, 3),
        "branch3x3_2b": (384, 384, 3, 1),
        "branch3x3dbl_1": (448, into, 1, 1),
        "branch3x3dbl_2": (384, 448, 3, 3),
        "branch3x3dbl_3a": (384, 384, 1, 3),
        "branch3x3dbl_3b": (384, 384, 3, 1),
        "branch_pool": (192, into, 1, 1),
    }
    blocks = {"5b": a(192, 32), "5c": a(256, 64), "5d": a(288, 64), "6a": b, "6b": c(128), "6c": c(160), "6d": c(160)}
    blocks |= {"6e": c(192), "7a": d, "7b": e(1280), "7c": e(2048)}
    mixed = {f"Mixed_{key}.{name}": shape for key, block in blocks.items() for name, shape in block.items()}
    return stem | mixed


INCEPTION = _inception()


def inception_state(seed: int = 0) -> dict[str, Tensor]:
    """The table filled at random, with batch normalisation beside each convolution, and the classifier."""
    draw = torch.Generator().manual_seed(seed)
    found = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    for name, shape in INCEPTION.items():
        found[f"{name}.conv.weight"] = torch.randn(shape, generator=draw) * math.sqrt(2 / math.prod(shape[1:]))
        found[f"{name}.bn.weight"] = 1 + 0.2 * torch.randn(shape[0], generator=draw)
        found[f"{name}.bn.bias"] = 0.2 * torch.randn(shape[0], generator=draw)
        found[f"{name}.bn.running_mean"] = 0.2 * torch.randn(shape[0], generator=draw)
        found[f"{name}.bn.running_var"] = 0.5 + torch.rand(shape[0], generator=draw)
    return found


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


# --- the networks, plainly ----------------------------------------------------------------------------------------


def plain_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, hidden: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d)) v by heads; `hidden` (broadcast to n, heads, q, k) is true where none may look."""
    cut = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v)]
    scores = cut[0] @ cut[1].transpose(-1, -2) / math.sqrt(cut[0].shape[-1])
    scores = scores if hidden is None else scores.masked_fill(hidden, -math.inf)
    return (scores.softmax(-1) @ cut[2]).transpose(1, 2).flatten(2)


def plain_linear(s: State, name: str, x: Tensor) -> Tensor:
    return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]


def plain_norm(s: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], eps)


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def plain_clip_layers(s: State, tower: str, x: Tensor, heads: int, layers: int, hidden: Tensor | None) -> Tensor:
    for n in range(layers):
        at = f"{tower}.encoder.layers.{n}"
        y = plain_norm(s, f"{at}.layer_norm1", x, 1e-5)
        q, k, v = (plain_linear(s, f"{at}.self_attn.{each}_proj", y) for each in "qkv")
        x = x + plain_linear(s, f"{at}.self_attn.out_proj", plain_attention(q, k, v, heads, hidden))
        y = plain_norm(s, f"{at}.layer_norm2", x, 1e-5)
        x = x + plain_linear(s, f"{at}.mlp.fc2", quick_gelu(plain_linear(s, f"{at}.mlp.fc1", y)))
    return x


def plain_clip_image(s: State, pixels: Tensor, heads: int, layers: int) -> Tensor:
    """CLIP's unit-length picture features (n, d) of normalised pixels (Radford et al., arXiv:2103.00020)."""
    weight = s["vision_model.embeddings.patch_embedding.weight"]
    patches = F.conv2d(pixels, weight, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    first = s["vision_model.embeddings.class_embedding"].expand(len(pixels), 1, -1)
    x = torch.cat([first, patches], 1) + s["vision_model.embeddings.position_embedding.weight"]
    x = plain_norm(s, "vision_model.pre_layrnorm", x, 1e-5)
    x = plain_clip_layers(s, "vision_model", x, heads, layers, None)[:, 0]
    return F.normalize(plain_norm(s, "vision_model.post_layernorm", x, 1e-5) @ s["visual_projection.weight"].T, dim=1)


def plain_clip_text(s: State, ids: Tensor, end: int, heads: int, layers: int) -> Tensor:
    """CLIP's unit-length text features (n, d) of token rows; read off at the first `end` token."""
    length = ids.shape[1]
    x = s["text_model.embeddings.token_embedding.weight"][ids]
    x = x + s["text_model.embeddings.position_embedding.weight"][:length]
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    x = plain_clip_layers(s, "text_model", x, heads, layers, later)
    x = plain_norm(s, "text_model.final_layer_norm", x, 1e-5)[torch.arange(len(ids)), (ids == end).int().argmax(1)]
    return F.normalize(x @ s["text_projection.weight"].T, dim=1)


# --- folders ------------------------------------------------------------------------------------------------------

TINY_CLIP = {"words": 514, "tw": 16, "tm": 32, "tl": 2, "vw": 32, "vm": 64, "vl": 2, "d": 24, "patch": 8, "spots": 17}


def clip_folder(folder: Path, seed: int = 0, **changes: object) -> tuple[Path, dict[str, Tensor]]:
    """A tiny CLIP for 32 pixels as transformers saves it: config, weights by the published table, tokenizer."""
    import json

    from safetensors.torch import save_file

    from tests.tiny import clip_tokenizer

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
