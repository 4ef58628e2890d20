"""From checkpoints to the folder that ships: half-precision safetensors, put in place by one rename."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false
# diffusers and transformers annotate less than they accept and return

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor, nn

from genbench.training.checkpoints import checkpoint_path
from genbench_solids import tokenizer as tokenizers
from genbench_solids.training import readers, text, unet, vae, vision
from genbench_solids.training.recipe import Recipe

WEAK_SHARE = 0.13  # the weak denoiser is the snapshot at this part of the same training
READERS = {"reader": "benchmark", "verifier": "verifier"}  # split -> file name


def halves(module: nn.Module, skip: str = "") -> dict[str, Tensor]:
    """The module's weights in half precision, without those whose name starts with `skip`."""
    state = module.state_dict().items()
    return {
        k: (v.half() if v.is_floating_point() else v).contiguous().cpu()
        for k, v in state
        if not (skip and k.startswith(skip))
    }


def weak_unet(recipe: Recipe) -> unet.UNet2DConditionModel | None:
    """The denoiser at the snapshot nearest to `WEAK_SHARE` of the training; None before the first."""
    found = {int(path.stem.split("-")[1]): path for path in recipe.at("snapshots").glob("unet-*.pt")}
    if not found:
        return None
    model = unet.build(recipe)
    nearest = min(found, key=lambda step: abs(step - WEAK_SHARE * recipe.unet_steps))
    model.load_state_dict(torch.load(found[nearest], weights_only=True))
    return model


def open_in_single_precision(config: Path) -> None:
    """transformers opens a model in the dtype that its config names, diffusers in float32; they have to agree."""
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float32"}, indent=2) + "\n")


def export(recipe: Recipe, to: Path | None = None) -> Path:
    """Write `pipeline/`, and `weak_unet/`, `clip/`, `readers/` as far as they exist, to a folder (default: `export`).

    An older folder of that name is replaced.
    """
    folder = to or recipe.at("export")
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    pipeline = StableDiffusionPipeline(
        vae=vae.load(recipe), text_encoder=text.load(recipe), unet=unet.load(recipe), scheduler=unet.scheduler(),
        tokenizer=tokenizers.write(recipe.at("tokenizer")),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.to(dtype=torch.float16).save_pretrained(part / "pipeline")
    tokenizers.write(part / "pipeline" / "tokenizer")
    open_in_single_precision(part / "pipeline" / "text_encoder" / "config.json")
    if (weak := weak_unet(recipe)) is not None:
        weak.half().save_pretrained(part / "weak_unet")
    if checkpoint_path(recipe, "clip").exists():
        clip = vision.load(recipe)
        clip.config.save_pretrained(part / "clip")
        save_file(halves(clip, skip="text_model."), part / "clip" / "vision.safetensors")
    for split, name in READERS.items():
        if checkpoint_path(recipe, split).exists():
            (part / "readers").mkdir(exist_ok=True)
            reader = readers.load(recipe, split)
            save_file(halves(reader), part / "readers" / f"{name}.safetensors", {"width": str(reader.width)})
    for path in part.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    part.chmod(0o755)
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)
    return folder
