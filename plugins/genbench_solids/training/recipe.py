"""Every number of the training recipe in one place, and where its working data lives."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from platformdirs import user_cache_dir

from genbench.training.place import Place

SPLITS = ("train", "reader", "verifier", "test")
LEARNED_KINDS = {  # shares of the pictures that the generator learns from
    "single": 0.15, "two": 0.05, "three": 0.04, "beside": 0.29, "stack": 0.27, "row": 0.06, "size": 0.06, "view": 0.08,
}  # fmt: skip
READ_KINDS = {  # shares of the pictures that the readers learn from: harder ones more often
    "single": 0.08, "two": 0.06, "three": 0.06, "beside": 0.20, "stack": 0.18, "row": 0.16, "size": 0.12, "view": 0.14,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe(Place):
    """Sizes and lengths of every stage. The defaults are the shipped model's."""

    processes: int = 2
    renders: Mapping[str, int] = field(
        default_factory=lambda: {"train": 40960, "reader": 12288, "verifier": 12288, "test": 2048}
    )
    vae_channels: tuple[int, ...] = (16, 32, 64)
    vae_steps: int = 2200
    vae_batch: int = 8  # per process
    decoder_steps: int = 1000
    text_width: int = 128
    text_layers: int = 3
    text_steps: int = 800
    text_batch: int = 128
    vision_layers: int = 4
    vision_steps: int = 900
    vision_batch: int = 64
    reader_width: int = 24
    reader_steps: int = 2400
    reader_batch: int = 64
    harden_steps: int = 500
    previews: int = 1024
    unet_channels: tuple[int, ...] = (32, 96, 128)
    unet_steps: int = 8900
    unet_batch: int = 16  # per process
    pixels_channels: tuple[int, ...] = (32, 64, 96)
    pixels_steps: int = 12000
    pixels_batch: int = 32  # per process


def default_folder() -> Path:
    """GENBENCH_CACHE_DIR, or the user's cache folder, so that a stopped training goes on after a reboot."""
    root = os.environ.get("GENBENCH_CACHE_DIR") or user_cache_dir("genbench")
    return Path(root) / "solids-train"


def on_gpu(recipe: Recipe) -> Recipe:
    """The same recipe in fewer, larger steps, for one GPU: as many pictures or more, in bfloat16."""
    return replace(
        recipe, device="cuda", processes=1,
        vae_batch=8 * recipe.vae_batch, text_batch=2 * recipe.text_batch, vision_batch=8 * recipe.vision_batch,
        reader_batch=4 * recipe.reader_batch, unet_batch=32 * recipe.unet_batch, pixels_batch=16 * recipe.pixels_batch,
    )  # fmt: skip


def tiny(folder: Path) -> Recipe:
    """A recipe of seconds that passes through every stage; its pictures are noise."""
    return replace(
        Recipe(folder),
        renders={"train": 64, "reader": 32, "verifier": 32, "test": 32},
        vae_channels=(8, 8, 8), vae_steps=4, vae_batch=4, decoder_steps=4,
        text_width=32, text_layers=1, text_steps=4, text_batch=8,
        vision_layers=1, vision_steps=4, vision_batch=4,
        reader_width=8, reader_steps=4, reader_batch=4, harden_steps=4, previews=32,
        unet_channels=(8, 16, 16), unet_steps=4, unet_batch=4, processes=1,
        pixels_channels=(8, 8, 8), pixels_steps=4, pixels_batch=4,
    )  # fmt: skip
