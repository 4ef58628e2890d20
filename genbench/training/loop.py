"""The loop of one network trained from scratch: a warm-up, half a cosine, AdamW, a moving average."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor, nn

from genbench.training.checkpoints import save_atomically
from genbench.training.keeping import Keeping
from genbench.training.machines import accelerated
from genbench.training.optimise import Figures, Training, Turn, Update
from genbench.training.place import Place
from genbench.training.roles import Average, Optimiser, Role

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

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser(
            self.lr, self.betas, weight_decay=self.weight_decay, warmup=self.warmup, schedule="cosine", clip_norm=1.0
        )


def step_generator(place: Place, stage: str, step: int, rank: int) -> torch.Generator:
    """The random numbers of one step in one process."""
    return torch.Generator().manual_seed(crc32(f"{place.seed} {stage} {step} {rank}".encode()))


def fit(place: Place, stage: Stage, rank: int = 0, world: int = 1, until: int | None = None) -> nn.Module:
    """Run or continue a stage and return its module with the resulting weights (the moving average where kept).

    `until` stops early, leaving a checkpoint; the schedule still belongs to `stage.steps`. Each process draws a batch
    of its own.
    """
    module = stage.module.to(place.device).train()
    role = Role.of("module", module, stage.optimiser, Average(stage.ema) if stage.ema else None)

    def loss(turn: Turn) -> tuple[Tensor, Figures]:
        return stage.loss(turn.step, step_generator(place, stage.name, turn.step, rank))

    def keep(step: int) -> None:
        save_atomically(role.result(), place.at("snapshots", f"{stage.name}-{step:06d}.pt"))

    training = Training(
        place,
        stage.name,
        [role],
        lambda step: [Update("module", loss, batch=world)],
        stage.steps,
        accelerated(place.device, "bf16" if place.device.startswith("cuda") else "no"),
        watcher=Keeping(stage.keep_every if rank == 0 else 0, keep),
        log_every=50,
    )
    if training.run(until) >= stage.steps:
        role.load(role.result())
    return module.eval()
