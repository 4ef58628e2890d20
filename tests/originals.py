"""A Stable Diffusion pipeline's weights under their original names, as single-file checkpoints carry them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_PARTS = {
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "downsamplers.0.conv": "downsample.conv",
    "upsamplers.0.conv": "upsample.conv",
}


def unet_name(name: str, layers: int, attending: set[int]) -> str:
    """A UNet parameter's original name; `attending` are the up blocks with attention."""
    for own, original in UNET_ENDS.items():
        if name.startswith(own):
            return name.replace(own, original, 1)
    found = re.fullmatch(
        r"(down|mid|up)_blocks?\.?(\d*)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name
    )
    assert found, name
    where, block, kind, layer, rest = found.groups()
    index, depth = int(block or 0), int(layer)
    if kind == "resnets":
        part, _, leaf = rest.partition(".")
        rest = f"{RESNET[part]}.{leaf}"
    if where == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * depth}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{(index + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{index * (layers + 1) + layers}.{2 if index in attending else 1}.{rest}"
    place = f"input_blocks.{1 + index * (layers + 1) + depth}" if where == "down" else ""
    place = place or f"output_blocks.{index * (layers + 1) + depth}"
    return f"{place}.{1 if kind == 'attentions' else 0}.{rest}"


def vae_name(name: str, blocks: int) -> str:
    """An autoencoder parameter's original name."""
    for own, original in VAE_PARTS.items():
        name = name.replace(own, original)
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks", "down", name)
    name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{blocks - 1 - int(m[1])}", name)
    return name.replace(".resnets.", ".block.")


def save_original(pipeline: Any, file: Path) -> Path:
    """Write a Stable Diffusion pipeline as one checkpoint with original names."""
    unet, vae = pipeline.unet, pipeline.vae
    attending = {index for index, block in enumerate(unet.up_blocks) if hasattr(block, "attentions")}
    tensors: dict[str, Tensor] = {}
    for name, tensor in unet.state_dict().items():
        original = unet_name(name, unet.config.layers_per_block, attending)
        tensors[f"model.diffusion_model.{original}"] = tensor
    for name, tensor in vae.state_dict().items():
        tensors[f"first_stage_model.{vae_name(name, len(vae.config.block_out_channels))}"] = tensor
    for name, tensor in pipeline.text_encoder.state_dict().items():
        original = name if name.startswith("text_model.") else f"text_model.{name}"
        tensors[f"cond_stage_model.transformer.{original}"] = tensor
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return file
