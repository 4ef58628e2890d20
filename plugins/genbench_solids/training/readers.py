"""Two readers on different renders: one for benchmarks, one for search, so that neither judges its own choice."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false
# diffusers and transformers annotate less than they accept and return

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genbench.training.checkpoints import checkpoint_path, load_weights
from genbench.training.loop import Stage, fit
from genbench_solids.captions import ARRANGEMENTS, ROW_WIDTH
from genbench_solids.reader import IGNORED, Reader, read, reading_loss
from genbench_solids.training import text, unet, vae
from genbench_solids.training.data import load_split
from genbench_solids.training.recipe import Recipe

NONE_SHARE = 0.15  # of a batch; what shows nothing readable
EARLY = 600  # first time step of a preview that counts as early
NONE = ARRANGEMENTS.index("none")


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures in [0, 1] with slight blur, noise, gain, tint and shifts, as a generator's small faults."""
    b = len(images)

    def draw(*shape: int) -> Tensor:
        return torch.rand(b, *shape, generator=generator).to(images.device)

    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = images.lerp(soft, draw(1, 1, 1) * (draw(1, 1, 1) < 0.5))
    images = images * (0.9 + 0.2 * draw(1, 1, 1)) + 0.06 * (draw(3, 1, 1) - 0.5)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    images = images + 0.05 * draw(1, 1, 1) * (draw(1, 1, 1) < 0.6) * noise
    dx, dy = torch.randint(-3, 4, (2,), generator=generator).tolist()
    padded = F.pad(images, (3, 3, 3, 3), mode="replicate")
    return padded[..., 3 + dy : 67 + dy, 3 + dx : 67 + dx].clamp(0, 1)


def spoil(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures in [0, 1] with nothing left to read: noise, heavy blur, early previews, empty floors, blends."""
    b = len(images)
    noise = torch.rand(images.shape, generator=generator).to(images)
    coarse = F.interpolate(noise[..., :8, :8], 64, mode="bicubic", align_corners=False).clamp(0, 1)
    pool = torch.tensor((16, 32))[torch.randint(2, (1,), generator=generator)].item()
    blurred = F.interpolate(F.adaptive_avg_pool2d(images, 64 // pool), 64, mode="bilinear", align_corners=False)
    corner = images[..., :6, :6].mean((2, 3), keepdim=True)
    slope = torch.linspace(0.97, 1.0, 64).to(images).view(1, 1, 64, 1)
    flat = (corner * slope + 0.01 * (noise - 0.5)).expand_as(images)
    mean = images.mean(0, keepdim=True) * 0.6 + 0.4 * images.roll(1, 0)
    preview = F.interpolate(F.avg_pool2d(mean, 8), 64, mode="bilinear", align_corners=False) + 0.12 * (coarse - 0.5)
    mixed = (blurred + 0.2 * (noise - 0.5), preview, noise, coarse, flat, blurred, preview)
    pick = torch.randint(len(mixed), (b,), generator=generator)
    return torch.stack(mixed)[pick.to(images.device), torch.arange(b, device=images.device)].clamp(0, 1)


def none_rows(count: int) -> Tensor:
    """Rows (n, 12) that say `none` and leave the rest open."""
    rows = torch.full((count, ROW_WIDTH), IGNORED)
    rows[:, 0] = NONE
    return rows


def train(recipe: Recipe, split: str) -> Reader:
    """Train or continue the reader of `split` ("reader" or "verifier")."""
    torch.manual_seed(recipe.seed + len(split))
    images, rows = load_split(recipe, split)
    model = Reader(recipe.reader_width)
    spoiled = max(1, round(NONE_SHARE * recipe.reader_batch))

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        index = torch.randint(len(images), (recipe.reader_batch,), generator=generator)
        x = images[index].to(recipe.device).float() / 255
        x = torch.cat((augment(x[spoiled:], generator), spoil(x[:spoiled], generator)))
        y = torch.cat((rows[index[spoiled:]], none_rows(spoiled))).to(recipe.device)
        reading = read(model, x)
        figures = {"exact": reading.exact(y).mean().item()}
        return reading_loss(reading.logp, y), figures

    fit(recipe, Stage(split, model, loss, recipe.reader_steps, lr=2e-3, weight_decay=0.02, ema=0.998))
    return load(recipe, split)


@torch.no_grad()
def previews(recipe: Recipe, seed: int) -> Tensor:
    """What the denoiser predicts early and without a caption, (n, 3, 64, 64) in [0, 1]: blobs, nothing to be read."""
    generator = torch.Generator().manual_seed(seed)
    denoiser, autoencoder, tower = unet.load(recipe), vae.load(recipe), text.load(recipe)
    empty = torch.load(recipe.at("latents.pt"), weights_only=True, mmap=True)["empty"].to(recipe.device)
    states = tower(input_ids=empty).last_hidden_state
    alphas = unet.scheduler().alphas_cumprod.to(recipe.device)
    seen = []
    for _ in range(-(-recipe.previews // 32)):
        x = torch.randn(32, 4, 16, 16, generator=generator).to(recipe.device)
        t = torch.randint(EARLY, 1000, (32,), generator=generator).to(recipe.device)
        alpha_bar = alphas[t].view(-1, 1, 1, 1)
        v = denoiser(x, t, states.expand(32, -1, -1)).sample
        x0 = alpha_bar.sqrt() * x - (1 - alpha_bar).sqrt() * v
        seen.append((autoencoder.decode(x0).sample / 2 + 0.5).clamp(0, 1))
    return torch.cat(seen)


def harden(recipe: Recipe, split: str) -> Reader:
    """Continue the reader of `split` with the denoiser's early previews among what shows nothing."""
    torch.manual_seed(recipe.seed)
    images, rows = load_split(recipe, split)
    early = previews(recipe, seed=len(split))
    model = Reader(recipe.reader_width)
    model.load_state_dict(load_weights(recipe, split))
    half = max(1, round(NONE_SHARE * recipe.reader_batch))

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        index = torch.randint(len(images), (recipe.reader_batch,), generator=generator)
        x = images[index].to(recipe.device).float() / 255
        blobs = early[torch.randint(len(early), (half,), generator=generator).to(early.device)]
        flipped = blobs.flip(-1) if step % 2 else blobs
        x = torch.cat((augment(torch.cat((x[half:], flipped)), generator), spoil(x[:half], generator)))
        y = torch.cat((rows[index[half:]], none_rows(2 * half))).to(recipe.device)
        reading = read(model, x)
        return reading_loss(reading.logp, y), {"exact": reading.exact(y).mean().item()}

    fit(recipe, Stage(f"{split}-hard", model, loss, recipe.harden_steps, lr=1e-3, weight_decay=0.02, ema=0.99))
    return load(recipe, split)


def load(recipe: Recipe, split: str) -> Reader:
    """The finished reader of `split`; the hardened one where that stage has run."""
    model = Reader(recipe.reader_width)
    hard = f"{split}-hard"
    model.load_state_dict(load_weights(recipe, hard if checkpoint_path(recipe, hard).exists() else split))
    return model.to(recipe.device).eval().requires_grad_(False)
