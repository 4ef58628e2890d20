"""The autoencoder: 64x64x3 to 16x16x4, with latents of unit variance so that scaling_factor is 1."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false
# diffusers and transformers annotate less than they accept and return

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from genbench.training.checkpoints import checkpoint_path, load_weights, save_weights
from genbench.training.loop import Stage, fit
from genbench.training.processes import spread
from genbench_solids.training.data import load_split
from genbench_solids.training.recipe import Recipe

KL_WEIGHT = 1e-6
LATENT_NOISE = 0.1
GRADIENT_WEIGHT = 1.0
PERCEPTUAL_WEIGHT = 0.1
LATENT_JITTER = 0.05  # about what the denoiser leaves wrong in its latents


def build(recipe: Recipe) -> AutoencoderKL:
    """An untrained autoencoder."""
    channels = recipe.vae_channels
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the right and down: what a blurred edge gets wrong."""
    return images[..., :, 1:] - images[..., :, :-1], images[..., 1:, :] - images[..., :-1, :]


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 + MSE + L1 of the gradients, images in [-1, 1]."""
    edges = sum((a - b).abs().mean() for a, b in zip(gradients(output), gradients(target), strict=True))
    return F.l1_loss(output, target) + F.mse_loss(output, target) + GRADIENT_WEIGHT * edges


def psnr(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1]."""
    return 10 * math.log10(4 / F.mse_loss(output.clamp(-1, 1), target).item())


def to_model_range(images: Tensor, device: str) -> Tensor:
    """uint8 pictures to floats in [-1, 1]."""
    return images.to(device).float() / 127.5 - 1


def train(recipe: Recipe) -> AutoencoderKL:
    """Train or continue the autoencoder; fold the latents' mean and variance into its 1x1 convolutions at the end."""
    folded = checkpoint_path(recipe, "vae-folded")
    if not folded.exists():
        spread(_work, recipe)
        images, _ = load_split(recipe, "test")
        vae = build(recipe)
        vae.load_state_dict(load_weights(recipe, "vae"))
        fold_normalisation(vae.to(recipe.device), to_model_range(images, recipe.device))
        save_weights(recipe, "vae-folded", vae.state_dict())
    return load(recipe)


def _work(rank: int, world: int, recipe: Recipe) -> None:
    """Latents are the posterior means with noise of a fixed share of their own spread.

    A KL term of the usual kind switched three of the four channels off; noise alone keeps the latents smooth, and the
    faint KL term keeps their scale.
    """
    torch.manual_seed(recipe.seed)
    images, _ = load_split(recipe, "train")
    vae = build(recipe)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x = to_model_range(images[torch.randint(len(images), (recipe.vae_batch,), generator=generator)], recipe.device)
        posterior = vae.encode(x).latent_dist
        spread_out = posterior.mean.detach().std((0, 2, 3), keepdim=True)
        noise = torch.randn(posterior.mean.shape, generator=generator).to(x)
        y = vae.decode(posterior.mean + LATENT_NOISE * spread_out * noise).sample
        kl = posterior.kl().mean()
        return reconstruction_loss(y, x) + KL_WEIGHT * kl, {"psnr": psnr(y.detach(), x), "kl": kl.item()}

    fit(recipe, Stage("vae", vae, loss, recipe.vae_steps, lr=1.5e-3, weight_decay=0.0), rank, world)


def load(recipe: Recipe) -> AutoencoderKL:
    """The finished autoencoder; with the refined decoder where that stage has run."""
    vae = build(recipe)
    vae.load_state_dict(load_weights(recipe, "vae-folded"))
    if checkpoint_path(recipe, "decoder").exists():
        decoder_of(vae).load_state_dict(load_weights(recipe, "decoder"))
    return vae.to(recipe.device).eval().requires_grad_(False)


def decoder_of(vae: AutoencoderKL) -> nn.ModuleDict:
    """What may still change once the UNet has learned the latents."""
    return nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor, device: str) -> Tensor:
    """Posterior means (n, 4, 16, 16) of uint8 pictures."""
    return torch.cat([vae.encode(to_model_range(part, device)).latent_dist.mean.cpu() for part in images.split(64)])


@torch.no_grad()
def fold_normalisation(vae: AutoencoderKL, images: Tensor) -> None:
    """Make every latent channel zero mean and unit variance without changing what the autoencoder computes.

    StableDiffusionPipeline knows one scaling factor and ignores a shift, so both go into the 1x1 convolutions.
    """
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(64)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    n = len(mean)
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]
    quant.bias[:n] -= mean
    quant.bias[:n] /= std
    quant.weight[:n] /= std[:, None, None, None]
    quant.bias[n:] -= 2 * std.log()


def refine(recipe: Recipe) -> AutoencoderKL:
    """Train or continue the decoder alone, with a perceptual distance on the verifier's features for crisp edges.

    The latents stay where they are, so this can run beside or after the denoiser.
    """
    from genbench_solids.training import readers

    images, _ = load_split(recipe, "train")
    vae, judge = build(recipe), readers.load(recipe, "verifier")
    vae.load_state_dict(load_weights(recipe, "vae-folded"))
    vae.to(recipe.device).requires_grad_(False)
    decoder = decoder_of(vae).requires_grad_(True)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x = to_model_range(images[torch.randint(len(images), (recipe.vae_batch,), generator=generator)], recipe.device)
        with torch.no_grad():
            latents = vae.encode(x).latent_dist.mean
            wanted = judge.features((x + 1) / 2)
        y = vae.decode(latents + LATENT_JITTER * torch.randn(latents.shape, generator=generator).to(x)).sample
        felt = sum(
            (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean()
            for a, b in zip(judge.features((y + 1) / 2), wanted, strict=True)
        )
        return reconstruction_loss(y, x) + PERCEPTUAL_WEIGHT * felt, {"psnr": psnr(y.detach(), x)}

    fit(recipe, Stage("decoder", decoder, loss, recipe.decoder_steps, lr=1e-3, weight_decay=0.0, ema=0.998))
    return load(recipe)
