"""How near a walk comes to the converged one: `python -m genbench_lml.converged prompts=prompts/solids.jsonl`.

Every picture is walked again from its own noise in many steps; the distance of its latents to those is what a solver
has not solved. Root mean square over a picture's latents, mean over pictures, and its ratio to the base
with a 95 % interval. Words are those of a run, with `pictures=64`, `calls=5,8,10,15,20` and `converged=200`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from genbench import sampling
from genbench.generation import Session, resolve
from genbench.kinds import Context, Sampler, State
from genbench.options import parse_words
from genbench.schedulers import named_sampler
from genbench_lml import LML, bases

BATCH = 16


def plugins(model: Any) -> Mapping[str, tuple[Sampler, int]]:
    """Name -> sampler and calls a step."""
    base = model.sampler.scheduler
    return {
        "base": (LML(strength=0.0, base=bases.named("auto", 2, model).kind), 1),
        "curvature": (LML(), 1),
        "curvature, ritz=spectrum": (LML(ritz="spectrum"), 1),
        "curvature, rank=1": (LML(rank=1), 2),
        "stable 0.1": (LML(mode="stable"), 1),
        "stable 0.5": (LML(mode="stable", strength=0.5), 1),
        "published": (LML(mode="published"), 1),
        "dpmpp_2m": (named_sampler("dpmpp_2m", base), 1),
        "unipc": (named_sampler("unipc", base), 1),
    }


def walk(ctx: Context, sampler: Sampler, steps: int, noise: Tensor) -> Tensor:
    """Take noise (b, ...) to the end in so many steps of a sampler."""
    schedule = sampler.schedule(steps, ctx.model, tuple(noise.shape[1:]))
    ctx = replace(ctx, sampler=sampler, schedule=schedule)
    state, denoise = State(noise * schedule.init_scale), ctx.denoiser()
    while state.index < schedule.steps:
        state = sampler.step(state, denoise, ctx)
    return state.x


def distances(session: Session, items: Sequence[Any], calls: Sequence[int], converged: int) -> dict[str, Tensor]:
    """Name -> (pictures, calls) root mean squares."""
    found: dict[str, list[Tensor]] = {}
    for first in range(0, len(items), BATCH):
        ctx, shape = session.context(items[first : first + BATCH], session.resolved)
        noise, _ = sampling.fresh_noise(ctx, shape)
        end = walk(ctx, named_sampler("dpmpp_2m", ctx.model.sampler.scheduler), converged, noise)  # type: ignore[attr-defined]
        for name, (sampler, each) in plugins(ctx.model).items():
            missed = [(walk(ctx, sampler, n // each, noise) - end).flatten(1).square().mean(1).sqrt() for n in calls]
            found.setdefault(name, []).append(torch.stack(missed, 1))
    return {name: torch.cat(parts) for name, parts in found.items()}


def lines(found: Mapping[str, Tensor], calls: Sequence[int]) -> list[str]:
    """The table as markdown: the mean, and behind it the ratio to the base with its interval."""
    base = found["base"]
    shown = ["| | " + " | ".join(f"{n} calls" for n in calls) + " |", "|---" * (len(calls) + 1) + "|"]
    for name, each in found.items():
        cells = [_cell(each[:, i], base[:, i]) for i in range(len(calls))]
        shown.append(f"| {name} | " + " | ".join(cells) + " |")
    return shown


def _cell(mine: Tensor, base: Tensor) -> str:
    """Mean and ratio of means, its interval from 1000 bootstrap resamples of pictures."""
    draws = torch.randint(len(mine), (1000, len(mine)), generator=torch.Generator().manual_seed(0))
    ratios = mine[draws].mean(1) / base[draws].mean(1)
    low, high = ratios.quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"{float(mine.mean()):.4f}, {float(mine.mean() / base.mean()):.2f} [{low:.2f}, {high:.2f}]"


def main(words: Sequence[str]) -> None:
    """Print the table."""
    asked = dict(parse_words(words))
    pictures, converged = int(str(asked.pop("pictures", 64))), int(str(asked.pop("converged", 200)))
    calls = [int(n) for n in str(asked.pop("calls", "5,8,10,15,20")).split(",")]
    session = Session.open(resolve(asked))
    items = list(session.resolved.items())
    chosen = [items[i * len(items) // pictures] for i in range(pictures)]
    with torch.no_grad():
        found = distances(session, chosen, calls, converged)
    print("\n".join([f"n = {pictures}, guided calls", "", *lines(found, calls)]))  # noqa: T201  # its purpose


if __name__ == "__main__":
    main(sys.argv[1:])
