"""The published files of NPNet, written from a literal table of names and shapes (never from the module under test)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

SVD: Mapping[str, tuple[int, ...]] = {
    "mlp1.0.weight": (64, 256), "mlp1.0.bias": (64,), "mlp1.2.weight": (256, 64), "mlp1.2.bias": (256,),
    "mlp2.0.weight": (64, 256), "mlp2.0.bias": (64,), "mlp2.2.weight": (256, 64), "mlp2.2.bias": (256,),
    "mlp3.0.weight": (256, 256), "mlp3.0.bias": (256,),
    "attention.qkv.weight": (768, 256), "attention.proj.weight": (256, 256), "attention.proj.bias": (256,),
    "bn.weight": (256,), "bn.bias": (256,), "bn.running_mean": (256,), "bn.running_var": (256,),
    "bn.num_batches_tracked": (),
    "mlp4.0.weight": (1024, 256), "mlp4.0.bias": (1024,), "mlp4.2.weight": (256, 1024), "mlp4.2.bias": (256,),
}  # fmt: skip
CONVOLUTIONS: Mapping[str, tuple[int, ...]] = {
    "upconv.weight": (4, 7, 1, 1), "upconv.bias": (4,), "downconv.weight": (3, 4, 1, 1), "downconv.bias": (3,),
}  # fmt: skip
STAGES = ((2, 96, 3), (2, 192, 6), (6, 384, 12), (2, 768, 24))  # blocks, width, heads
EMBEDDING = {"sdxl": 157_696, "dit": 78_848}  # 77 x 2048 and 77 x 1024
VALUES = {"sdxl": 30_470_940, "dit": 29_840_156}


def swin() -> Iterator[tuple[str, tuple[int, ...]]]:
    """timm's swin_tiny_patch4_window7_224 since timm 0.9: 173 tensors, 28,288,354 values."""
    yield from {
        "patch_embed.proj.weight": (96, 3, 4, 4), "patch_embed.proj.bias": (96,),
        "patch_embed.norm.weight": (96,), "patch_embed.norm.bias": (96,),
        "norm.weight": (768,), "norm.bias": (768,), "head.fc.weight": (1000, 768), "head.fc.bias": (1000,),
    }.items()  # fmt: skip
    for stage, (blocks, c, heads) in enumerate(STAGES):
        if stage:
            yield f"layers.{stage}.downsample.norm.weight", (2 * c,)
            yield f"layers.{stage}.downsample.norm.bias", (2 * c,)
            yield f"layers.{stage}.downsample.reduction.weight", (c, 2 * c)
        for block in range(blocks):
            at = f"layers.{stage}.blocks.{block}."
            yield from {
                f"{at}norm1.weight": (c,), f"{at}norm1.bias": (c,),
                f"{at}attn.relative_position_bias_table": (169, heads),
                f"{at}attn.qkv.weight": (3 * c, c), f"{at}attn.qkv.bias": (3 * c,),
                f"{at}attn.proj.weight": (c, c), f"{at}attn.proj.bias": (c,),
                f"{at}norm2.weight": (c,), f"{at}norm2.bias": (c,),
                f"{at}mlp.fc1.weight": (4 * c, c), f"{at}mlp.fc1.bias": (4 * c,),
                f"{at}mlp.fc2.weight": (c, 4 * c), f"{at}mlp.fc2.bias": (c,),
            }.items()  # fmt: skip


def shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Every tensor of a published file under its flat name."""
    return {
        **{f"unet_svd.{name}": shape for name, shape in SVD.items()},
        **{f"unet_embedding.{name}": shape for name, shape in CONVOLUTIONS.items()},
        **{f"unet_embedding.swin.{name}": shape for name, shape in swin()},
        "embeeding.linear.weight": (8, EMBEDDING[model]),
        "embeeding.linear.bias": (8,),
        "alpha": (1,),
        "beta": (1,),
    }


def tensors(model: str) -> dict[str, Tensor]:
    """Random weights of a size at which every branch matters."""
    generator = torch.Generator().manual_seed(0)
    made: dict[str, Tensor] = {}
    for name, shape in shapes(model).items():
        if name.endswith("num_batches_tracked"):
            made[name] = torch.zeros(shape, dtype=torch.long)
        else:
            fan_in = max(1, torch.Size(shape[1:]).numel()) if len(shape) > 1 else 100
            made[name] = torch.randn(shape, generator=generator) * fan_in**-0.5
    return made


def write(model: str, layout: str, path: Path) -> Path:
    """Write a file of one of the three layouts: `pth`, `embeeding`, `text_embedding`."""
    flat = tensors(model)
    if layout == "pth":
        nested: dict[str, object] = {}
        for name, tensor in flat.items():
            part, dot, rest = name.partition(".")
            if dot:
                nested.setdefault(part, {})[rest] = tensor  # type: ignore[index]
            else:
                nested[part] = tensor.requires_grad_()  # saved so by the authors
        torch.save(nested, path)
    else:
        save_file({name.replace("embeeding.", f"{layout}."): tensor for name, tensor in flat.items()}, path)
    return path
