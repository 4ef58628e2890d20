"""The shipped weights: where they lie and how they open. Each opens once per process."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false
# diffusers and transformers annotate less than they accept and return

from __future__ import annotations

import hashlib
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from platformdirs import user_cache_dir
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer

from genbench.errors import ModelError
from genbench_solids.reader import Reader

WEIGHTS = Path(__file__).parent / "weights"
PIPELINE = WEIGHTS / "pipeline"
WEAK_UNET = WEIGHTS / "weak_unet"
PIXELS = WEIGHTS / "pixels"


def require(path: Path) -> Path:
    """The path, or a ModelError that says how to get what is missing."""
    if not path.exists():
        more = " solids.stage=pixels" if path == PIXELS else ""
        raise ModelError(f"{path.name} of `solids` is missing; `genbench train plugin=solids{more}` makes it")
    return path


@cache
def reader(name: Literal["benchmark", "verifier"], device: str = "cpu") -> Reader:
    """One of the two readers, frozen."""
    path = require(WEIGHTS / "readers" / f"{name}.safetensors")
    with safe_open(path, "pt") as file:
        model = Reader(int(file.metadata()["width"]))
    model.load_state_dict(load_file(path))
    return model.float().to(device).eval().requires_grad_(False)


@cache
def clip(device: str = "cpu") -> CLIPModel:
    """The tiny CLIP: the pipeline's own text tower, and the vision tower and projections that lie beside it."""
    folder = require(WEIGHTS / "clip")
    model = CLIPModel(CLIPConfig.from_pretrained(folder))
    text = CLIPTextModel.from_pretrained(PIPELINE / "text_encoder", local_files_only=True, dtype=torch.float32)
    missing, unknown = model.load_state_dict(load_file(folder / "vision.safetensors"), strict=False)
    if unknown or any(not name.startswith("text_model.") for name in missing):
        raise ModelError(f"{folder / 'vision.safetensors'} does not fit its config.json; reinstall genbench")
    model.text_model.load_state_dict(text.state_dict())
    return model.float().to(device).eval().requires_grad_(False)


@cache
def tokenizer() -> CLIPTokenizer:
    """The pipeline's tokenizer."""
    return CLIPTokenizer.from_pretrained(require(PIPELINE / "tokenizer"), local_files_only=True)


def save_clip(folder: Path) -> None:
    """Write a plain transformers folder of the tiny CLIP, text tower included, for other programs to open."""
    clip().save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def weak_pipeline() -> Path:
    """A pipeline folder with the weak denoiser: the shipped one with its `unet` exchanged; it lies in the cache."""
    require(WEAK_UNET / "diffusion_pytorch_model.safetensors")
    parts = sorted(file for folder in (PIPELINE, WEAK_UNET) for file in folder.rglob("*") if file.is_file())
    key = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in parts)).hexdigest()[:12]
    root = Path(os.environ.get("GENBENCH_CACHE_DIR") or user_cache_dir("genbench"))
    folder = root / "solids" / f"weak-{key}"
    if not folder.exists():
        _assemble(folder)
    return folder


def _assemble(folder: Path) -> None:
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        shutil.copytree(PIPELINE, part, ignore=shutil.ignore_patterns("unet"))
        shutil.copytree(WEAK_UNET, part / "unet")
        part.rename(folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if not folder.exists():  # else another process was first
            raise ModelError(
                f"`solids/weak` is put together in {folder.parent}, which failed ({error.strerror}); "
                "name another folder with GENBENCH_CACHE_DIR"
            ) from error
