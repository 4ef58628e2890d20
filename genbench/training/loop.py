"""One optimisation loop for every stage: atomic checkpoints, random numbers that depend on the step alone, JSON lines.

A stage killed at any moment and started again ends in the same bits: the randomness of step n is a function of
(seed, stage, n, rank), so a checkpoint needs weights, optimiser, moving average and the step.
"""

# pyright: basic
# torch.distributed and the optimisers annotate less than they take; it stops at this module's own signatures.

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import torch
import torch.distributed as dist
from safetensors.torch import save as serialised
from torch import Tensor, nn
from tqdm import tqdm

from genbench import files
from genbench.training.place import Place

Loss = Callable[[int, torch.Generator], tuple[Tensor, Mapping[str, float]]]


@dataclass(frozen=True)
class Stage:
    """What one stage optimises, and how long."""

    name: str
    module: nn.Module
    loss: Loss  # (step, generator) -> loss and figures for the curve
    steps: int
    lr: float
    weight_decay: float = 0.01
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.99)  # of AdamW
    ema: float = 0.0  # final decay of the moving average of the weights; 0 keeps none
    keep_every: int = 0  # steps between snapshots that stay; 0 keeps none


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to 1 % of the peak at the last step."""
    ramp = min(1.0, (step + 1) / max(1, warmup))
    return peak * ramp * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def ema_decay(step: int, final: float) -> float:
    """A short memory first, so that the random start is forgotten."""
    return min(final, (1 + step) / (10 + step))


def step_generator(place: Place, stage: str, step: int, rank: int) -> torch.Generator:
    """The random numbers of one step."""
    return torch.Generator().manual_seed(crc32(f"{place.seed} {stage} {step} {rank}".encode()))


def save_atomically(value: object, path: Path) -> None:
    """Write under another name, flush to disk, rename: a file that exists is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all, readable as the umask says (`save_file` keeps it to its owner).

    Raises OutputError in one line where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, serialised(dict(tensors), dict(metadata)))


def checkpoint_path(place: Place, name: str) -> Path:
    return place.at("checkpoints", f"{name}.pt")


def load_weights(place: Place, name: str) -> dict[str, Tensor]:
    """The stage's result: the moving average where one is kept, else the weights."""
    state = torch.load(checkpoint_path(place, name), map_location="cpu", weights_only=True)
    return state["ema"] or state["module"]


def finished(place: Place, name: str, steps: int) -> bool:
    """Whether a stage has a checkpoint of its last step."""
    path = checkpoint_path(place, name)
    return path.exists() and torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"] >= steps


def average_gradients(module: nn.Module, world: int) -> None:
    """Replace gradients by their mean over processes, in one message."""
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    for grad, part in zip(grads, flat.div_(world).split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def fit(place: Place, stage: Stage, rank: int = 0, world: int = 1, until: int | None = None) -> nn.Module:
    """Run or continue a stage and return its module with the resulting weights (the moving average where kept).

    `until` stops early, leaving a checkpoint; the schedule still belongs to `stage.steps`.
    """
    module, kind = stage.module.to(place.device).train(), torch.device(place.device).type
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=stage.lr, weight_decay=stage.weight_decay, betas=stage.betas, fused=True
    )
    path = checkpoint_path(place, stage.name)
    start = 0
    ema = {k: v.detach().clone() for k, v in module.state_dict().items()} if stage.ema else {}
    if path.exists():
        state = torch.load(path, map_location=place.device, weights_only=True)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        start, ema = state["step"], state["ema"]

    def save(step: int, to: Path = path) -> None:
        if rank == 0:
            state = {"step": step, "module": module.state_dict(), "optimiser": optimiser.state_dict(), "ema": ema}
            save_atomically(state, to)

    saved = began = time.monotonic()
    stop = min(stage.steps, stage.steps if until is None else until)
    for step in tqdm(range(start, stop), stage.name, disable=None if rank == 0 else True):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, stage.steps, stage.lr, stage.warmup)
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            loss, figures = stage.loss(step, step_generator(place, stage.name, step, rank))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if world > 1:
            average_gradients(module, world)
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        if ema:
            decay = ema_decay(step, stage.ema)
            weights = module.state_dict()
            for name, mean in ema.items():
                mean.lerp_(weights[name], 1 - decay)
        done = step + 1
        if rank == 0 and (done % 50 == 0 or done == stop):
            log(place, stage.name, {"step": done, "loss": loss.item(), "seconds": time.monotonic() - began, **figures})
        if time.monotonic() - saved > place.save_seconds:
            save(done)
            saved = time.monotonic()
        if stage.keep_every and done % stage.keep_every == 0 and rank == 0:
            save_atomically(ema or module.state_dict(), place.at("snapshots", f"{stage.name}-{done:06d}.pt"))
    save(max(start, stop))
    if ema and stop == stage.steps:
        module.load_state_dict(ema)
    return module.eval()


def log(place: Place, name: str, line: Mapping[str, float]) -> None:
    """Append one JSON line to the stage's curve."""
    path = place.at("curves", f"{name}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({k: round(v, 6) for k, v in line.items()}) + "\n")
