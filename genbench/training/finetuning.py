"""Finetuning a model by a LoRA: what every such method asks, begins with, watches and leaves behind.

A method inherits `Finetuning` (its options come first) and brings a loss; see `Bench`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from accelerate import Accelerator  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor
from tqdm import tqdm

from genbench.errors import UsageError
from genbench.kinds import About, Model, TrainJob
from genbench.models import model_hash
from genbench.options import Range
from genbench.training import adapters
from genbench.training.card import card
from genbench.training.epochs import chosen
from genbench.training.machines import accelerated
from genbench.training.optimise import Loss, Training, Turn, Update
from genbench.training.place import Place
from genbench.training.planning import planned
from genbench.training.roles import Average, Optimiser, Role
from genbench.training.rollouts import Rollout
from genbench.training.watching import Looks, Sitting
from genbench.training.writers import open_writers

ROLE = "model"


@dataclass(frozen=True)
class Bench:
    """What a method's loss works with: the model that learns, the model it was, how both are asked for pictures."""

    job: TrainJob
    adapted: adapters.Adapted
    base: Model
    rollout: Rollout
    accelerator: Accelerator

    def chosen(self, turn: Turn) -> list[Mapping[str, object]]:
        """The prompt rows of a turn's samples."""
        return chosen(self.job.rows, turn)


@dataclass(frozen=True)
class Objective:
    """The loss of a turn's samples; `begin` is called once before an update's parts, with all of a process's samples.

    Checkpoints are taken every `whole` updates only, where `begin` prepares so many at once.
    """

    loss: Loss
    begin: Callable[[Turn], None] | None = None
    whole: int = 1


@dataclass(frozen=True)
class Finetuning:
    """The options that every LoRA finetuning shares."""

    updates: Annotated[int, Range(1)] = 60  # optimiser steps
    batch: Annotated[int, Range(1)] = 32  # pictures per optimiser step, over all processes
    micro: Annotated[int, Range(1)] = 8  # pictures at once; bounds memory, changes no result
    steps: Annotated[int, Range(1)] | None = None  # of the walks that are learnt from; none: as the model recommends
    guidance_scale: float | None = None  # of these walks; none: as the model recommends
    height: int | None = None  # of the pictures; none: as the model recommends
    width: int | None = None  # of the pictures; none: as the model recommends
    rank: Annotated[int, Range(1)] = 4  # of the LoRA
    alpha: Annotated[int, Range(1)] | None = None  # of the LoRA, which is scaled by alpha / rank; none: the rank
    lr: Annotated[float, Range(0)] = 1e-3  # of AdamW
    schedule: Literal["constant", "cosine"] = "constant"  # of the rate
    warmup: Annotated[int, Range(0)] = 0  # updates in which the rate rises
    weight_decay: Annotated[float, Range(0)] = 0.0  # of AdamW
    clip: Annotated[float, Range(0)] | None = 1.0  # bound of the gradient's norm; none: no bound
    clip_value: Annotated[float, Range(0)] | None = None  # bound of each of its numbers
    ema: Annotated[float, Range(0, 1)] = 0.0  # decay of the weights' moving average; 0 keeps none
    precision: Literal["no", "bf16"] = "no"  # of the network's arithmetic; the LoRA stays float32
    checkpointing: bool = False  # compute the network's own blocks again instead of storing them
    look_every: Annotated[int, Range(1)] = 10  # updates between two looks
    look_prompts: Annotated[int, Range(1)] = 8  # prompts that are drawn at a look
    look_seeds: Annotated[int, Range(1)] = 4  # pictures of each
    patience: Annotated[int, Range(0)] = 0  # looks without a better held-out score until it stops; 0: never

    about: ClassVar[About]
    usage: ClassVar[str] = 'genbench run model={model} lora={made} prompt="..."'

    # --- what a method says ---------------------------------------------------------------------------------------

    def objective(self, bench: Bench) -> Objective:
        """The method: what a turn's loss is, and what precedes it."""
        raise NotImplementedError

    def check(self, job: TrainJob) -> None:
        """Refuse what a job lacks, before anything is drawn. Raises UsageError."""
        missing = [word for word, given in (("model=", job.model), ("prompts=FILE", job.rows)) if not given]
        if missing:
            raise UsageError(f"{self.name} finetunes a model on prompts; give {' and '.join(missing)}")
        if self.patience and job.holdout is None:
            raise UsageError(f"{self.name}.patience= waits for a held-out score; name a scorer with holdout=")

    @property
    def name(self) -> str:
        """What messages, checkpoints and curves call the method."""
        return type(self).__name__.removesuffix("Trainer").lower()

    def settings(self, job: TrainJob) -> dict[str, object]:
        """What the result depends on besides chance."""
        texts = sha256("\n".join(job.prompts).encode()).hexdigest()[:12]
        free = {"patience", "micro", *(["updates"] if self.schedule == "constant" else [])}
        own = {key: value for key, value in asdict(self).items() if not key.startswith("look_") and key not in free}
        model = "" if job.model is None else f"{job.model.name} {model_hash(job.model)[:12]}"
        return {**own, "model": model, "prompts": texts, "reward": told(job.reward), "seed": job.seed}

    # --- what they share ------------------------------------------------------------------------------------------

    def train(self, job: TrainJob) -> Path:
        """Make or continue the LoRA; returns its folder. Raises GenbenchError subclasses, keeping what was reached."""
        training, bench, looks = self.prepare(job)
        if not looks.looks and not training.started:
            looks.look(0)
        looks.finish(training.run())
        return self.export(job, bench, training, looks)

    def plan(self, job: TrainJob) -> dict[str, object]:
        """Say what a training takes, from one update that is thrown away."""
        training, bench, _ = self.prepare(job)
        count = sum(parameter.numel() for parameter in bench.adapted.parameters.values())
        trainable = f"{count:,} (a LoRA of rank {self.rank}, {4 * count / 1e6:.1f} MB in training)"
        return planned(training, job.resources.ledger, trainable, "an update")

    def prepare(self, job: TrainJob) -> tuple[Training, Bench, Looks]:
        """Everything up to the first update."""
        self.check(job)
        assert job.model is not None  # `check` refuses that
        adapted = adapters.with_adapter(job.model, self.rank, self.alpha, seed=job.seed)
        if self.checkpointing:
            adapters.checkpoint_blocks(adapted)
        accelerator = accelerated(job.device, self.precision)
        rollout = self._rollout(job, adapted.model, self.steps)
        bench = Bench(job, adapted, job.model, rollout, accelerator)
        optimiser = Optimiser(
            self.lr,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            schedule=self.schedule,
            clip_norm=self.clip,
            clip_value=self.clip_value,
        )
        role = Role(ROLE, adapted.parameters, optimiser, Average(self.ema) if self.ema else None)
        asked, place = self.objective(bench), Place(job.run, job.seed, device=job.device)
        looks = self.looks(job, bench, role, place)
        update = Update(ROLE, asked.loss, self.batch, self.micro, asked.begin)
        training = Training(
            place, self.name, [role], lambda step: [update], self.updates, accelerator, self.settings(job), looks
        )
        training.whole, training.writers = asked.whole, looks.writers
        return training, bench, looks

    def _rollout(self, job: TrainJob, model: Model, steps: int | None = None) -> Rollout:
        return Rollout(job.resources, model, steps, self.guidance_scale, self.height, self.width, self.micro)

    def looks(self, job: TrainJob, bench: Bench, role: Role, place: Place) -> Looks:
        """Looks at held-out prompts where there are some, at the settings of a run and the guidance that is trained."""
        rows = (job.holdout_rows or job.rows)[: self.look_prompts]
        judges = {"reward": job.reward, "holdout": job.holdout}
        return Looks(
            place,
            self.name,
            role,
            self._rollout(job, bench.adapted.model),
            Sitting.of(rows, self.look_seeds, job.seed + 10_000),
            {name: judge for name, judge in judges.items() if judge is not None},
            bench.accelerator,
            encoder=job.encoder,
            writers=open_writers(job.track, job.run, self.name) if bench.accelerator.is_main_process else (),
            every=self.look_every,
            patience=self.patience,
        )

    def export(self, job: TrainJob, bench: Bench, training: Training, looks: Looks) -> Path:
        """Write the LoRA, of the best look where a held-out score followed it with patience, and its card."""
        best = looks.best if self.patience and looks.best else None
        weights: Mapping[str, Tensor] = best["weights"] if best else training.roles[0].result()
        folder = job.run / "lora"
        if bench.accelerator.is_main_process:
            adapters.save_adapter(bench.adapted, weights, folder, torch.float32)
            adapters.write_card(folder, card(self, job, looks.looks, None if best is None else int(best["step"])))
            said = f"the best look, after update {best['step']}" if best else f"update {training.done}"
            tqdm.write(f"the LoRA is that of {said}", file=sys.stderr)
        for writer in looks.writers:
            writer.close()
        return folder


def told(scorer: object) -> str:
    """Which scorer this is: its class, its options, and what its own `version()` says."""
    if scorer is None:
        return ""
    version: Callable[[], Any] | None = getattr(scorer, "version", None)
    options = repr(scorer) if is_dataclass(scorer) else type(scorer).__name__
    return options if version is None else f"{options} {version()}"
