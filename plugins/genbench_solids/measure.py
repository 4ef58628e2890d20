"""How well the readers read: `python -m genbench_solids.measure`, on fresh renders that nothing was trained on."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false
# diffusers and transformers annotate less than they accept and return

from __future__ import annotations

import json
import sys
from random import Random

import torch
import torch.nn.functional as F
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from torch import Tensor

from genbench_solids import weights
from genbench_solids.captions import ARRANGEMENTS, COLOUR_NAMES, KINDS, SHAPES, Attributes, sample, say
from genbench_solids.reader import Reader, Reading, named, read
from genbench_solids.render import SIZE, render
from genbench_solids.scenes import lay_out
from genbench_solids.training.data import render_rows

NAMES = ("benchmark", "verifier")


def held_out_renders(count: int = 2000, seed: int = 31) -> tuple[list[Attributes], Tensor]:
    """Captioned attributes, kinds in turn, and renders of them as floats (n, 3, 64, 64) in [0, 1]."""
    rng = Random(seed)
    drawn = [sample(KINDS[n % len(KINDS)], rng) for n in range(count + count // 4)]
    rows = torch.tensor([a.row() for a in drawn])
    images, fit = render_rows(rows, torch.Generator().manual_seed(seed))
    kept = fit.nonzero().squeeze(1)[:count]
    return [drawn[n] for n in kept.tolist()], images[kept].float() / 255


@torch.no_grad()
def reading(reader: Reader, images: Tensor) -> Reading:
    """Read many pictures in small batches."""
    parts = [read(reader, part).logp for part in images.split(64)]
    return Reading(tuple(torch.cat(column) for column in zip(*parts, strict=True)))


def unreadable(images: Tensor, seed: int = 5) -> dict[str, Tensor]:
    """Pictures that show nothing: noise, heavily blurred renders, empty scenes. Each (n, 3, 64, 64)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(images.shape, generator=generator)
    gauss = (0.6 + 0.3 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    blurred = F.interpolate(F.adaptive_avg_pool2d(images, 3), SIZE, mode="bicubic", align_corners=False).clamp(0, 1)
    empty = lay_out(torch.tensor([Attributes("none", ()).row()] * len(images)), generator)
    return {"noise": torch.cat((noise[::2], gauss[1::2])), "blurred": blurred, "empty": render(empty).images}


@torch.no_grad()
def early_previews(pipeline: StableDiffusionPipeline, captions: list[str], seed: int = 5) -> Tensor:
    """The x0 that the denoiser predicts from pure noise for these captions, decoded: (n, 3, 64, 64)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(captions), 4, SIZE // 4, SIZE // 4, generator=generator)
    positive, _ = pipeline.encode_prompt(captions, "cpu", 1, False)
    t = torch.tensor(999)
    v = pipeline.unet(x, t, positive).sample
    alpha_bar = pipeline.scheduler.alphas_cumprod[t]
    x0 = alpha_bar.sqrt() * x - (1 - alpha_bar).sqrt() * v
    return (pipeline.vae.decode(x0).sample / 2 + 0.5).clamp(0, 1)


def confusion(
    best: Tensor, truth: Tensor, columns: tuple[int, ...], names: tuple[str, ...]
) -> dict[str, dict[str, int]]:
    """Counts of what was read (inner) where something else or the same was shown (outer), over filled slots."""
    table = {shown: dict.fromkeys(names, 0) for shown in names}
    for column in columns:
        for shown, found in zip(truth[:, column].tolist(), best[:, column].tolist(), strict=True):
            if shown >= 0:
                table[names[shown]][names[found]] += 1
    return table


def report(count: int = 2000) -> dict[str, object]:
    """Exact reading by kind, the share of `none` on unreadable pictures, and the confusion tables, per reader."""
    drawn, images = held_out_renders(count)
    truth = torch.tensor([a.row() for a in drawn])
    wanted = torch.tensor([named(a) for a in drawn])
    pipeline = StableDiffusionPipeline.from_pretrained(weights.PIPELINE, local_files_only=True, dtype=torch.float32)
    captions = [say(a, Random(n)) for n, a in enumerate(drawn[:200])]
    spoiled = {**unreadable(images[:400]), "preview": early_previews(pipeline, [""] * 200)}
    captioned = early_previews(pipeline, captions)
    results: dict[str, object] = {"renders": len(images)}
    for name in NAMES:
        reader = weights.reader(name)
        found = reading(reader, images)
        exact = found.exact(wanted)
        best = found.best()
        results[name] = {
            "exact": exact.mean().item(),
            "by_kind": {kind: exact[[a.kind == kind for a in drawn]].mean().item() for kind in KINDS},
            "none": {key: (reading(reader, x).best()[:, 0] == 0).float().mean().item() for key, x in spoiled.items()},
            "captioned_previews_exact": reading(reader, captioned).exact(wanted[:200]).mean().item(),
            "arrangement": confusion(best, truth, (0,), ARRANGEMENTS),
            "colour": confusion(best, truth, (3, 6, 9), COLOUR_NAMES),
            "shape": confusion(best, truth, (4, 7, 10), SHAPES),
        }
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    json.dump(report(), sys.stdout, indent=1)
