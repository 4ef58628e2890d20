"""`solids32`: an unconditional model of renders in pixel space, shaped as those of CIFAR-10: 32x32, no autoencoder.

    genbench train plugin=solids solids.stage=pixels

Renders of the training split, halved; v-prediction with min-SNR-5 weights, as the denoiser of `solids` is trained.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false
# diffusers and transformers annotate less than they accept and return

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
from torch import Tensor

from genbench.training.checkpoints import load_weights
from genbench.training.loop import Stage, fit
from genbench.training.processes import spread
from genbench_solids.training.data import load_split, render_in_processes
from genbench_solids.training.recipe import Recipe
from genbench_solids.training.unet import scheduler, v_loss

SIZE = 32
NAME = "pixels"


def build(recipe: Recipe) -> UNet2DModel:
    """An untrained denoiser with attention at 16x16 and 8x8; 1.9 million weights."""
    return UNet2DModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=3,
        block_out_channels=recipe.pixels_channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=min(16, recipe.pixels_channels[0]),
        norm_num_groups=min(16, recipe.pixels_channels[0]),
    )


def small(images: Tensor) -> Tensor:
    """Renders (n, 3, 64, 64) uint8 as what the model draws, (n, 3, 32, 32) in [-1, 1]."""
    return F.avg_pool2d(images.float(), 2) / 127.5 - 1


def make(recipe: Recipe) -> Path:
    """Render, train or continue, export; returns the pipeline's folder."""
    needed = {split: count if split == "train" else 0 for split, count in recipe.renders.items()}
    recipe = replace(recipe, renders=needed)
    render_in_processes(recipe)
    spread(_work, recipe)
    return export(recipe)


def _work(rank: int, world: int, recipe: Recipe) -> None:
    torch.manual_seed(recipe.seed + 5)
    fit(recipe, stage(recipe), rank, world)


def stage(recipe: Recipe) -> Stage:
    """The stage, with its data loaded."""
    images, _ = load_split(recipe, "train")
    unet, alphas, b = build(recipe), scheduler().alphas_cumprod, recipe.pixels_batch

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x0 = small(images[torch.randint(len(images), (b,), generator=generator)])
        t = ((torch.arange(b) + torch.rand(b, generator=generator)) / b * 1000).long()
        eps = torch.randn(x0.shape, generator=generator)
        x0, eps, t = (part.to(recipe.device) for part in (x0, eps, t))
        alpha_bar = alphas.to(recipe.device)[t].view(-1, 1, 1, 1)
        x = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
        return v_loss(unet(x, t).sample, x0, eps, alpha_bar), {}

    return Stage(NAME, unet, loss, recipe.pixels_steps, lr=1e-3, warmup=300, ema=0.9995)


def load(recipe: Recipe) -> UNet2DModel:
    """The denoiser with the moving average of its weights, finished or not."""
    unet = build(recipe)
    unet.load_state_dict(load_weights(recipe, NAME))
    return unet.eval().requires_grad_(False)


def export(recipe: Recipe) -> Path:
    """Write the stock pipeline in half precision, by one rename; an older folder of that name is replaced."""
    folder = recipe.at(NAME)
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    DDIMPipeline(unet=load(recipe).half(), scheduler=scheduler()).save_pretrained(part)
    for path in (part, *part.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)
    return folder
