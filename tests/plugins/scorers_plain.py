"""CLIP and attention in plain formulas over a state dict: what the networks of the scorers are compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


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
