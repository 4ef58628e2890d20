"""What the losses of a distillation work with: the models in their roles, prompts, noise, the student's latents."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from genbench.backbones import network_name
from genbench.errors import ModelError
from genbench.kinds import Conditioning, Level, Model, TrainJob
from genbench.training.backtracking import Backtracking
from genbench.training.epochs import chosen
from genbench.training.laws import Laws, Purpose
from genbench.training.noising import levels_at, noised, target_of
from genbench.training.optimise import Turn
from genbench.training.reals import FolderReals, Reals, TeacherReals, captioned
from genbench.training.rollouts import Rollout
from genbench.training.students import Chance, dtype_of, raw_at, walked


@dataclass(frozen=True)
class Lab:
    """What a method's losses work with. Three models of one kind, each with a network of its own.

    `judge` is the fake score seen without gradients of its weights (the same numbers, always up to date): what the
    student's loss goes through, as it goes through the teacher.
    """

    job: TrainJob
    teacher: Model
    student: Model
    fake: Model
    judge: Model
    accelerator: Accelerator
    laws: Laws
    walk: tuple[Level, ...]
    height: int
    width: int
    path: Backtracking | None = None

    def target(self, step: int) -> Model:
        """The teacher of a step: the same throughout, but where a path of teachers was recorded."""
        return self.teacher if self.path is None else self.path.teacher(step, self.teacher)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one latent."""
        return self.teacher.latent_shape(self.height, self.width)

    def prompts(self, turn: Turn) -> list[str]:
        """The prompts of a turn's samples."""
        return [str(row["prompt"]) for row in chosen(self.job.rows, turn)]

    @torch.no_grad()
    def encoded(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts and their empty halves."""
        return self.teacher.encode_prompt(prompts, guidance=True, height=self.height, width=self.width)

    def noise(self, turn: Turn, purpose: Purpose) -> tuple[Tensor, Level, Sequence[int]]:
        """Noise (b, ...), levels of a turn's samples by the law, and which of the schedule's they are."""
        chance = Chance.of(turn.seeds("noise"))
        noise = chance.normal(self.shape).to(self.teacher.device)
        rows = self.laws.rows(purpose, chance.generators)
        return noise, levels_at(self.laws.levels, rows, noise.ndim, noise.device), rows

    def reals(self, count: int, guidance_scale: float | None = None) -> Reals:
        """Pictures for a discriminator: those of exemplars=FOLDER, else `count` of the teacher's own."""
        job, teacher, size = self.job, self.teacher, {"height": self.height, "width": self.width}
        if job.exemplars is not None:
            return FolderReals(teacher, *captioned(job.exemplars), **size)
        rollout = Rollout(job.resources, teacher, guidance_scale=guidance_scale, **size)
        return TeacherReals(job.run / "reals", rollout, job.rows, count, job.seed)

    def denoising(self, model: Model, turn: Turn) -> Tensor:
        """How well a network denoises what the student makes now: mean squares (b,) in its own convention."""
        conditioning = self.encoded(self.prompts(turn))
        with torch.no_grad():
            x0 = self.drawn(turn, conditioning)
        noise, level, _ = self.noise(turn, "denoising")
        raw = raw_at(model, conditioning, noised(x0, noise, level), level, 1.0)
        return (raw - target_of(model, x0, noise, level)).square().flatten(1).mean(1)

    def drawn(self, turn: Turn, conditioning: Conditioning, *, steps: int | None = None) -> Tensor:
        """The student's clean latents (b, ...) for a turn; how many steps they took is the same for all of an update.

        Uniform over 1 .. the student's steps, so that every number of steps is learnt (arXiv:2505.12674).
        """
        count = steps or int(torch.randint(1, len(self.walk) + 1, (1,), generator=turn.generator("steps")))
        chance = Chance.of(turn.seeds("walk"))
        noises = torch.stack([chance.normal(self.shape) for _ in range(count)]).to(self.student.device)
        return walked(self.student, conditioning, self.walk[:count], noises)


def name_of(model: Model) -> str:
    """What the denoising network is called. Raises ModelError for a model of which none is known."""
    name = network_name(model)
    if name is None:
        there = ", ".join(model.modules)
        raise ModelError(f"model={model.name} has no denoising network that is known (it has {there})")
    return name


def own_copy(model: Model, *, trainable: bool = True) -> Model:
    """The model with a denoising network of its own, in float32, all of it trainable or none.

    Where the model is of half precision, so are the texts that it encodes: the network widens what it is given.
    """
    name = name_of(model)
    network = copy.deepcopy(model.modules[name])
    half = dtype_of(model) != torch.float32
    network = network.float().requires_grad_(trainable)
    if half:
        network.register_forward_pre_hook(_widened, with_kwargs=True)
    return model.replace(modules={name: network})


def _widened(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """The same arguments with all their floating-point tensors in float32."""
    return tree_map_only(Tensor, lambda each: each.float() if each.is_floating_point() else each, (args, kwargs))


def still(network: nn.Module) -> nn.Module:
    """The same weights without gradients of their own: gradients go through to the input, later updates are seen."""
    tensors = (*network.parameters(), *network.buffers())
    shared: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
    for parameter in network.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(network, shared)


def checkpoint_blocks(model: Model) -> None:
    """Let a network compute its own blocks again in the backward pass. Raises ModelError where it cannot."""
    network: Any = model.modules[name_of(model)]
    if not getattr(network, "_supports_gradient_checkpointing", False):
        raise ModelError(f"checkpointing=true: model={model.name} has no blocks that can be computed again")
    network.train()  # diffusers does it in training mode alone
    network.enable_gradient_checkpointing()
