"""The calibration set: what walks of the full-precision model give its network (arXiv:2211.15736, algorithm 1).

One sample is one picture's walk, stopped at a noise level of its own: the x that the network is given there, the level
that it is told, and the prompt. Samples are asked again exactly as a run asks: the same guidance, so with and without
the prompt where a run asks for both, and the levels of the sampler that draws.
"""

# pyright: basic
# safetensors carries no types; it stops at this module's own signatures.

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from genbench.errors import ModelError
from genbench.kinds import Denoise, Level, Prediction, Schedule
from genbench.training.checkpoints import save_tensors
from genbench.training.rollouts import Rollout
from genbench_ptq4dm.timesteps import Kind

FILE = "calibration.safetensors"
METADATA = "genbench"


@dataclass(frozen=True)
class Calibration:
    """n samples: `x` (n, ...) as the sampler holds it, `step` (n,) the outer step, `prompts` (n)."""

    x: Tensor
    step: Tensor
    prompts: tuple[str, ...]

    @property
    def hash(self) -> str:
        """SHA-256 of every bit of the set."""
        found = hashlib.sha256(json.dumps(self.prompts).encode())
        found.update(self.step.numpy().tobytes())
        found.update(self.x.float().numpy().tobytes())
        return found.hexdigest()

    def save(self, path: Path, settings: str) -> None:
        """Write it whole; `settings` say what it depends on. Raises OutputError."""
        told = json.dumps({"prompts": self.prompts, "settings": settings})  # one word: their order is not fixed
        save_tensors({"x": self.x.float().contiguous(), "step": self.step}, path, {METADATA: told})

    @classmethod
    def load(cls, path: Path, settings: str) -> Calibration:
        """Read it. Raises ModelError for one that was drawn otherwise, or that is damaged."""
        try:
            with safe_open(path, "pt") as file:
                told = json.loads((file.metadata() or {})[METADATA])
                x, step = file.get_tensor("x"), file.get_tensor("step")
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise ModelError(f"{path} is no calibration set ({str(error).splitlines()[0]}); delete it") from error
        if told["settings"] != settings:
            raise ModelError(f"{path} was drawn otherwise; give the same words again, or another folder with run=")
        return cls(x, step, tuple(told["prompts"]))

    def asked(self, walks: Rollout) -> Iterator[tuple[int, Prediction]]:
        """Ask the model of `walks` about every sample, those of one outer step together, `walks.batch` at a time."""
        for step in sorted(set(self.step.tolist())):
            for rows in (self.step == step).nonzero().flatten().split(walks.batch):
                index = rows.tolist()
                ctx = walks.context([self.prompts[i] for i in index], index)
                x = self.x[rows].to(walks.model.device, walks.model.dtype)
                with torch.no_grad():  # not around the yield, which would lend it to whoever asks
                    said = ctx.denoiser()(x, level(ctx.schedule, step))
                yield step, said


def level(schedule: Schedule, step: int) -> Level:
    """The level at which an outer step first asks the network."""
    return schedule.evaluations[step][0]


def drawn(
    walks: Rollout, kind: Kind, prompts: Sequence[str], steps: Tensor, seed: int, clean: Tensor | None
) -> Calibration:
    """The set of one sample for every prompt, at these outer steps (n,).

    `clean` (n, ...) are latents of pictures, for `images` and `diffused`; other kinds walk.
    """
    if clean is not None:
        x = _of_pictures(walks, kind, prompts, steps, seed, clean)
    else:
        x = walked(walks, prompts, steps, seed)
    return Calibration(x.float().cpu(), steps, tuple(prompts))


def walked(walks: Rollout, prompts: Sequence[str], steps: Tensor, seed: int) -> Tensor:
    """What the network is given at outer step steps[i] of the walk of prompt i, (n, ...)."""
    found: list[Tensor | None] = [None] * len(prompts)
    order = steps.argsort(stable=True)  # walks that end together go together
    for rows in tqdm(order.split(walks.batch), "calibration", disable=None, file=sys.stderr):
        index: list[int] = rows.tolist()
        made = _walk(walks, [prompts[i] for i in index], [seed + i for i in index], steps[rows].tolist())
        for i, x in zip(index, made, strict=True):
            found[i] = x
    return torch.stack([x for x in found if x is not None])


@torch.no_grad()
def _walk(walks: Rollout, prompts: Sequence[str], seeds: Sequence[int], until: Sequence[int]) -> list[Tensor]:
    ctx = walks.context(prompts, seeds)
    state, denoise = walks.begin(ctx), ctx.denoiser()
    kept: dict[int, Tensor] = {}
    while len(kept) < len(until):
        asked: list[Tensor] = []
        index, state = state.index, ctx.sampler.step(state, _noting(denoise, asked), ctx)
        kept |= {row: asked[0][row].cpu() for row, end in enumerate(until) if end == index}
    return [kept[row] for row in range(len(until))]


def _noting(denoise: Denoise, asked: list[Tensor]) -> Denoise:
    def noting(x: Tensor, level: Level) -> Prediction:
        asked.append(x)
        return denoise(x, level)

    return noting


def _of_pictures(walks: Rollout, kind: Kind, prompts: Sequence[str], steps: Tensor, seed: int, clean: Tensor) -> Tensor:
    """Clean latents as they are, or noised to each sample's level: x = alpha x0 + sigma noise."""
    if kind == "images":
        return clean
    ctx = walks.context(prompts[:1], [seed])
    levels = [level(ctx.schedule, step) for step in steps.tolist()]
    chance = torch.Generator().manual_seed(seed)
    noise = torch.randn(clean.shape, generator=chance)
    alpha, sigma = (torch.stack([torch.as_tensor(part).float().cpu() for part in parts]) for parts in _split(levels))
    shape = (-1, *[1] * (clean.ndim - 1))
    return alpha.view(shape) * clean + sigma.view(shape) * noise


def _split(levels: Sequence[Level]) -> tuple[list[Tensor], list[Tensor]]:
    return [each.alpha for each in levels], [each.sigma for each in levels]
