"""The denoiser: v-prediction on cached latents, min-SNR-5 weights, singles first, then pairs and stacks, then all."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false
# diffusers and transformers annotate less than they accept and return

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from genbench.training.checkpoints import load_weights, save_atomically
from genbench.training.loop import Stage, fit
from genbench.training.processes import spread
from genbench_solids import tokenizer as tokenizers
from genbench_solids.captions import FRONT, KINDS, MEDIUM, MIDDLE, Attributes, Solid, say
from genbench_solids.training import text, vae
from genbench_solids.training.data import load_split
from genbench_solids.training.recipe import Recipe

WORDINGS = 3  # captions per picture
DROPPED = 0.1  # share of empty captions, for classifier-free guidance (arXiv:2207.12598)
MAX_SNR = 5.0  # arXiv:2303.09556
SINGLES = {
    "single": 0.42, "two": 0.12, "three": 0.02, "beside": 0.22, "stack": 0.14, "row": 0.02, "size": 0.02, "view": 0.04,
}  # fmt: skip
PAIRS = {
    "single": 0.10, "two": 0.05, "three": 0.04, "beside": 0.32, "stack": 0.31, "row": 0.06, "size": 0.05, "view": 0.07,
}  # fmt: skip
ALL = {
    "single": 0.09, "two": 0.04, "three": 0.03, "beside": 0.26, "stack": 0.25, "row": 0.12, "size": 0.08, "view": 0.13,
}  # fmt: skip
CURRICULUM = ((0.0, SINGLES), (0.06, SINGLES), (0.20, PAIRS), (0.33, PAIRS), (0.38, ALL), (1.0, ALL))


def build(recipe: Recipe) -> UNet2DConditionModel:
    """An untrained denoiser: cross-attention at 8x8 and in the middle, where channels are cheap."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=recipe.unet_channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=recipe.text_width,
        attention_head_dim=4,
        norm_num_groups=min(16, recipe.unet_channels[0]),
    )


def scheduler() -> DDIMScheduler:
    """The noise schedule of training, and the sampler that ships: DDIM with trailing steps (arXiv:2305.08891)."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False,
        prediction_type="v_prediction", timestep_spacing="trailing", steps_offset=1,
    )  # fmt: skip


def described(row: list[int], rng: Random | None = None) -> Attributes:
    """What a caption of this picture names: sizes and views that are not the default, and the front now and then."""
    full = Attributes.from_row(row)
    solids = tuple(Solid(s.colour, s.shape, None if s.size == MEDIUM else s.size) for s in full.solids)
    front = rng is not None and full.arrangement in ("single", "stack") and rng.random() < 0.15
    azimuth = full.azimuth if full.azimuth != FRONT or front else None
    return Attributes(full.arrangement, solids, azimuth, None if full.elevation == MIDDLE else full.elevation)


def shares(progress: float) -> Tensor:
    """Share of each kind in a batch at `progress` in [0, 1], linear between the curriculum's marks."""
    for (start, before), (end, after) in pairwise(CURRICULUM):
        if progress <= end:
            part = (progress - start) / (end - start)
            return torch.tensor([(1 - part) * before[kind] + part * after[kind] for kind in KINDS])
    raise ValueError(f"progress {progress} is not in [0, 1]")


def prepare(recipe: Recipe) -> None:
    """Cache latents, token ids (n, wordings, 24) and kinds of the training pictures."""
    path = recipe.at("latents.pt")
    if path.exists():
        return
    spread(_encode_share, recipe)
    _, rows = load_split(recipe, "train")
    tokenizer = tokenizers.write(recipe.at("tokenizer"))
    listed = rows.tolist()
    said = [say(described(row, rng), rng) for n, row in enumerate(listed) for rng in _wordings(n)]
    save_atomically(
        {
            "latents": torch.cat([torch.load(part, weights_only=True) for part in _parts(recipe)]),
            "ids": text.tokenize(tokenizer, said).view(len(rows), WORDINGS, -1),
            "empty": text.tokenize(tokenizer, [""]),
            "kinds": torch.tensor([KINDS.index(described(row).kind) for row in listed]),
        },
        path,
    )


def _parts(recipe: Recipe) -> list[Path]:
    return [recipe.at("latents", f"{rank}.pt") for rank in range(recipe.processes)]


def _encode_share(rank: int, world: int, recipe: Recipe) -> None:
    images, _ = load_split(recipe, "train")
    latents = vae.encode(vae.load(recipe), images.tensor_split(world)[rank], recipe.device)
    save_atomically(latents, _parts(recipe)[rank])


def _wordings(n: int) -> list[Random]:
    return [Random(n * WORDINGS + k) for k in range(WORDINGS)]


def v_loss(v: Tensor, x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Mean over the batch of min(SNR, 5) / (SNR + 1) times the squared error of v = sqrt(a) eps - sqrt(1-a) x0."""
    target = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0
    snr = alpha_bar / (1 - alpha_bar)
    weight = snr.clamp(max=MAX_SNR) / (snr + 1)
    return (weight * (v - target).square()).mean()


def train(recipe: Recipe) -> UNet2DConditionModel:
    """Train or continue the denoiser in `recipe.processes` processes of one thread each."""
    prepare(recipe)
    spread(_work, recipe)
    return load(recipe)


def _work(rank: int, world: int, recipe: Recipe) -> None:
    torch.manual_seed(recipe.seed + 4)
    fit(recipe, stage(recipe), rank, world)


def stage(recipe: Recipe) -> Stage:
    """The stage, with its data loaded."""
    data = torch.load(recipe.at("latents.pt"), weights_only=True, mmap=True)
    pools = [(data["kinds"] == k).nonzero().squeeze(1) for k in range(len(KINDS))]
    held = torch.tensor([len(pool) > 0 for pool in pools])
    tower, unet = text.load(recipe), build(recipe)
    alphas = scheduler().alphas_cumprod
    b = recipe.unet_batch

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        kinds = torch.multinomial(shares(step / recipe.unet_steps) * held, b, replacement=True, generator=generator)
        u = torch.rand(4, b, generator=generator)
        index = torch.stack([pools[k][int(u[0, i] * len(pools[k]))] for i, k in enumerate(kinds.tolist())])
        ids = data["ids"][index, (u[1] * WORDINGS).long()]
        ids = torch.where((u[2] < DROPPED)[:, None], data["empty"], ids)
        t = ((torch.arange(b) + u[3]) / b * 1000).long()
        x0 = data["latents"][index]
        eps = torch.randn(x0.shape, generator=generator)
        x0, eps, ids, t = (part.to(recipe.device) for part in (x0, eps, ids, t))
        alpha_bar = alphas.to(recipe.device)[t].view(-1, 1, 1, 1)
        with torch.no_grad():
            states = tower(input_ids=ids).last_hidden_state
        x = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
        return v_loss(unet(x, t, states).sample, x0, eps, alpha_bar), {}

    return Stage(
        "unet",
        unet,
        loss,
        recipe.unet_steps,
        lr=1e-3,
        warmup=300,
        ema=0.9995,
        keep_every=max(1, recipe.unet_steps // 24),
    )


def load(recipe: Recipe) -> UNet2DConditionModel:
    """The denoiser with the moving average of its weights, finished or not."""
    unet = build(recipe)
    unet.load_state_dict(load_weights(recipe, "unet"))
    return unet.to(recipe.device).eval().requires_grad_(False)
