"""Noise-prompt pairs (arXiv:2411.09502, section 3.2): noise, its re-denoise target, and what a scorer says of both.

Pair i is a function of (seed, i) and the settings: any machine can make any shard of pairs, and shards of several
machines are joined by putting their files into one folder. Every pair is kept with its two scores, so that another
margin needs no new pictures. Without a scorer no picture is drawn (a tenth of the cost) and every pair is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from genbench import sampling
from genbench.errors import ModelError, UsageError
from genbench.kinds import Context, Start, State, TrainJob
from genbench.training.checkpoints import save_tensors
from genbench_npnet.plugin import TEXT
from genbench_npnet.redenoise import Redenoise

SHARD = 64  # pairs in one file
STREAM = 1 << 40  # seeds of pairs start here, where nobody looks for pictures


@dataclass(frozen=True)
class Settings:
    """What a pair depends on besides its number. Hashes stand for what a name does not hold still."""

    model: str
    weights: str  # hash of the model's
    dtype: str
    scorer: str  # with its version; empty for none
    seed: int
    prompts: str  # hash of the texts that go round
    high: float
    low: float
    redenoise_steps: int
    rounds: int
    steps: int  # of the pictures that are scored
    guidance_scale: float
    height: int
    width: int


def make(job: TrainJob, settings: Settings, number: int, batch: int) -> Path:
    """Make shard `number` unless it is there; returns its path. Whole or not at all."""
    path = shard_path(job.run, number)
    if path.exists():
        check_settings(path, settings)
        return path
    indices = range(number * SHARD, (number + 1) * SHARD)
    parts = [_batch(job, settings, indices[first : first + batch]) for first in range(0, SHARD, batch)]
    told = {
        "settings": asdict(settings),
        "prompts": [job.prompts[index % len(job.prompts)] for index in indices],
        "seeds": [seed_of(settings, index) for index in indices],
    }
    tensors = {name: torch.cat([each[name] for each in parts]).contiguous() for name in parts[0]}
    save_tensors(tensors, path, {"pairs": json.dumps(told)})
    return path


def shard_path(run: Path, number: int) -> Path:
    return run / "pairs" / f"{number:06d}.safetensors"


def seed_of(settings: Settings, index: int) -> int:
    """The seed of the noise of pair `index`."""
    return (STREAM * (settings.seed + 1) + index) % 2**63


def _batch(job: TrainJob, settings: Settings, indices: Sequence[int]) -> dict[str, Tensor]:
    """Some pairs: source and target (b, c, h, w) and text (b, tokens, width) in half precision, scores (b, 2)."""
    ctx = context(job, settings, indices)
    shape = ctx.model.latent_shape(settings.height, settings.width)
    with torch.no_grad():
        source, rng = sampling.fresh_noise(ctx, shape)
        target = Redenoise(
            high=settings.high, low=settings.low, steps=settings.redenoise_steps, rounds=settings.rounds
        ).target(source, ctx)
        starts = [sampling.begin(Start(noise), ctx.schedule, rng) for noise in (source, target)]
        scores = torch.stack([_score(job, ctx, state) for state in starts], 1)
    return {
        "source": source.half().cpu(),
        "target": target.half().cpu(),
        "text": ctx.conditioning.positive[TEXT].half().cpu(),
        "scores": scores.float().cpu(),
    }


def context(job: TrainJob, settings: Settings, indices: Sequence[int]) -> Context:
    """What the pairs `indices` are drawn with."""
    assert job.model is not None  # the trainer has checked
    return sampling.context(
        job.resources,
        job.model,
        job.model.sampler,
        prompts=[job.prompts[index % len(job.prompts)] for index in indices],
        seeds=[seed_of(settings, index) for index in indices],
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        height=settings.height,
        width=settings.width,
        negative_half=True,
    )


def _score(job: TrainJob, ctx: Context, state: State) -> Tensor:
    if job.reward is None:
        return torch.zeros(len(state.x))
    step = lambda state, denoise: ctx.sampler.step(state, denoise, ctx)  # noqa: E731
    finished = sampling.sample(state, step, ctx.denoiser(), ctx.schedule.steps)
    return job.reward.score(images=ctx.model.decode(finished.x), prompts=ctx.prompts)


# --- reading --------------------------------------------------------------------------------------------------------


def told(path: Path) -> Mapping[str, Any]:
    """What a shard says of itself. Raises ModelError for a file that is none."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {})["pairs"])
    except Exception as error:  # safetensors raises errors of its own kinds
        raise ModelError(f"'{path}' is no shard of noise pairs ({str(error).splitlines()[0]}); remove it") from error


def check_settings(path: Path, settings: Settings) -> None:
    """Raise UsageError, naming the first difference, unless a shard was made with these settings."""
    _check(path, told(path)["settings"], asdict(settings))


TARGETS = ("model", "weights", "high", "low", "redenoise_steps", "rounds", "height", "width")
"""Settings that shards have to share to be learnt from together: what the targets depend on."""


def joined_settings(files: Sequence[Path]) -> list[Mapping[str, Any]]:
    """Return each shard's settings. Raises UsageError, naming the first difference, unless their targets are alike."""
    found = [told(path)["settings"] for path in files]
    for path, settings in zip(files, found, strict=True):
        _check(path, settings, {name: found[0].get(name) for name in TARGETS})
    return found


def _check(path: Path, found: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UsageError(
                f"'{path}' was made with {name}={found.get(name)}, not {value}; name another folder with run="
            )


@dataclass(frozen=True)
class Pairs:
    """The pairs of some shards whose target the scorer prefers by more than the margin: (shard, row) of each.

    Pairs that nobody scored are all kept.
    """

    files: tuple[Path, ...]
    rows: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, files: Sequence[Path], margin: float) -> Pairs:
        """Read the scores of every shard and choose: s_0 + m < s_0' (section 3.2). A pair counts once."""
        rows: list[tuple[int, int]] = []
        seen: set[tuple[int, str]] = set()
        for number, path in enumerate(files):
            with safe_open(path, "pt") as file:
                scores = file.get_tensor("scores")
            said = told(path)
            better = scores[:, 0] + margin < scores[:, 1]
            kept = better if said["settings"]["scorer"] else torch.ones_like(better)
            names = list(zip(said["seeds"], said["prompts"], strict=True))
            rows += [(number, row) for row in kept.nonzero().flatten().tolist() if names[row] not in seen]
            seen.update(names)
        return cls(tuple(files), tuple(rows))

    def split(self, share: int = 10) -> tuple[Pairs, Pairs]:
        """(to learn from, held out): every tenth is held out."""
        held = self.rows[::share]
        return Pairs(self.files, tuple(row for i, row in enumerate(self.rows) if i % share)), Pairs(self.files, held)

    def batches(self, size: int) -> Iterator[dict[str, Tensor]]:
        """All pairs once, in order, in batches of at most `size`."""
        for first in range(0, len(self.rows), size):
            yield self.take(range(first, min(first + size, len(self.rows))))

    def take(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Source, target (b, c, h, w) and text (b, tokens, width) of some pairs, float32; read from disk as asked."""
        rows = [self.rows[i] for i in indices]
        return {
            name: torch.stack([self._shard(file).get_slice(name)[row] for file, row in rows]).float()
            for name in ("source", "target", "text")
        }

    def _shard(self, number: int) -> Any:
        """A shard stays mapped while these pairs live; opening it reads its header only."""
        if number not in self._opened:
            self._opened[number] = safe_open(self.files[number], "pt").__enter__()
        return self._opened[number]

    @cached_property
    def _opened(self) -> dict[int, Any]:
        return {}

    def __getstate__(self) -> dict[str, object]:
        """Another process opens the files itself."""
        return {"files": self.files, "rows": self.rows}
