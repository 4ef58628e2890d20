"""Renders on disk: shards that are each a function of (split, index), so that any number of workers can fill them."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from genbench.training.processes import spread
from genbench_solids.captions import Attributes, sample
from genbench_solids.holdout import seen
from genbench_solids.render import SIZE, render
from genbench_solids.scenes import lay_out
from genbench_solids.training.recipe import LEARNED_KINDS, READ_KINDS, SPLITS, Recipe

SHARD = 512
CHUNK = {"cpu": 8, "cuda": 256}  # scenes traced at once: on a CPU what stays in its cache
LEAST_VISIBLE = 0.3


def draw_attributes(split: str, index: int, count: int) -> list[Attributes]:
    """What shard `index` of `split` shows. Only the training split keeps the held-out combinations out."""
    rng = Random(f"{split}-{index}")
    shares = LEARNED_KINDS if split == "train" else READ_KINDS
    drawn: list[Attributes] = []
    while len(drawn) < count:
        attributes = sample(rng.choices(list(shares), list(shares.values()))[0], rng)
        if split != "train" or seen(attributes):
            drawn.append(attributes)
    return drawn


def render_rows(rows: Tensor, generator: torch.Generator, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, 64, 64) uint8 of integer rows (n, 12), and which of them are fit to be read, (n,) bool.

    A picture in which a solid is cropped or hidden too far is drawn again, up to three times.
    """
    images = torch.zeros(len(rows), 3, SIZE, SIZE, dtype=torch.uint8)
    fit = torch.zeros(len(rows), dtype=torch.bool)
    for _ in range(4):
        for part in (~fit).nonzero().squeeze(1).split(CHUNK[device]):
            rendering = render(lay_out(rows[part], generator).to(device))
            images[part] = (rendering.images * 255).round().byte().cpu()
            fit[part] = ((rendering.visible.amin(1) > LEAST_VISIBLE) & ~rendering.cropped).cpu()
    return images, fit


def shard_path(recipe: Recipe, split: str, index: int) -> Path:
    return recipe.at("renders", f"{split}-{index:04d}.npz")


def render_shard(recipe: Recipe, split: str, index: int) -> None:
    """Render one shard; written under another name first, so that a shard that exists is whole."""
    count = min(SHARD, recipe.renders[split] - index * SHARD)
    rows = torch.tensor([a.row() for a in draw_attributes(split, index, count)])
    generator = torch.Generator().manual_seed(crc32(f"{recipe.seed} {split} {index}".encode()))
    images, fit = render_rows(rows, generator, recipe.device)
    path = shard_path(recipe, split, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez(file, images=images[fit].numpy(), rows=rows[fit].numpy().astype(np.int8))
    part.replace(path)


def shards(recipe: Recipe) -> list[tuple[str, int]]:
    """Every shard of every split, the test split first."""
    return [(s, i) for s in reversed(SPLITS) for i in range(-(-recipe.renders[s] // SHARD))]


def render_in_processes(recipe: Recipe) -> None:
    """Render what is missing, in `recipe.processes` processes of one thread each."""
    spread(_render_share, recipe)


def _render_share(rank: int, world: int, recipe: Recipe) -> None:
    for split, index in shards(recipe)[rank::world]:
        if not shard_path(recipe, split, index).exists():
            render_shard(recipe, split, index)


def load_split(recipe: Recipe, split: str) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 64, 64) uint8 and rows (n, 12) int64 of one split."""
    parts = [np.load(shard_path(recipe, split, i)) for s, i in shards(recipe) if s == split]
    images = torch.from_numpy(np.concatenate([part["images"] for part in parts]))
    rows = torch.from_numpy(np.concatenate([part["rows"] for part in parts])).long()
    return images, rows
