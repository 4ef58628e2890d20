"""The optimisation loop of every training: roles take turns, and a training that was killed goes on in the same bits.

All randomness is a function of (seed, name, step, role, sample), so a checkpoint needs the weights, the optimisers,
the averages and the step, and what a sample draws does not depend on how many processes share the work. accelerate
does what lies between processes and devices. Its wrapper of the module is not used: a rollout calls a network many
times before one backward pass, and samples that are shared unevenly have to be weighed; gradients are averaged in one
message instead.
"""

# pyright: basic
# accelerate and the optimisers annotate less than they take; it stops at this module's own signatures.

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast
from zlib import crc32

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from genbench.errors import ModelError, TrainingError, UsageError
from genbench.training.checkpoints import checkpoint_path, read_checkpoint, save_atomically
from genbench.training.curves import log
from genbench.training.place import Place
from genbench.training.roles import Role
from genbench.training.writers import Writer

Figures = Mapping[str, float]
SHOWN = ("loss", "reward", "first_set", "student/delta")
"""Figures beside the progress bar; the curves hold all."""


@dataclass(frozen=True)
class Turn:
    """A part of one update: what one process draws its samples with.

    `items` are the numbers of its samples within the update's whole batch of `batch`.
    """

    training: str
    step: int
    role: str
    items: tuple[int, ...]
    batch: int = 1
    rank: int = 0
    world: int = 1

    def seeds(self, purpose: str = "") -> tuple[int, ...]:
        """One seed per sample; the same whoever draws it."""
        return tuple(crc32(f"{self.training} {self.step} {self.role} {item} {purpose}".encode()) for item in self.items)

    def generator(self, purpose: str = "") -> torch.Generator:
        """One CPU generator for the whole update, the same in every process and part."""
        return torch.Generator().manual_seed(crc32(f"{self.training} {self.step} {self.role} {purpose}".encode()))

    def part(self, first: int, size: int) -> Turn:
        """At most `size` of its samples, from place `first` on."""
        return replace(self, items=self.items[first : first + size])


Loss = Callable[[Turn], tuple[Tensor, Figures]]
"""The mean loss of a turn's samples, and means of what else is worth a curve."""


@dataclass(frozen=True)
class Update:
    """One update of one role: a batch of samples, at most `micro` at a time in one process (0: all of its share).

    `begin` gets the turn of all of a process's samples before the first part of them, for what is decided jointly.
    """

    role: str
    loss: Loss
    batch: int = 1
    micro: int = 0
    begin: Callable[[Turn], None] | None = None


class Watcher(Protocol):
    """What looks at a training between updates; its state is kept in checkpoints."""

    @property
    def stopped(self) -> bool:
        """Whether it has stopped the training."""
        ...

    def after(self, step: int) -> bool:
        """Look after update `step` (counted from 1); True stops the training, also when it is continued later."""
        ...

    def state(self) -> Mapping[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


@dataclass
class Training:
    """Roles, and the updates of every step in their order. `settings` say what the result depends on.

    `name` names checkpoints and curve. `accumulate` needs no word of its own: it is `Update.batch` over `Update.micro`.
    """

    place: Place
    name: str
    roles: Sequence[Role]
    updates: Callable[[int], Sequence[Update]]
    steps: int
    accelerator: Accelerator
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    watcher: Watcher | None = None
    log_every: int = 1
    whole: int = 1  # updates that belong together: checkpoints lie between such groups
    writers: Sequence[Writer] = ()
    done: int = 0

    @property
    def started(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return checkpoint_path(self.place, self.name).exists()

    def run(self, until: int | None = None) -> int:
        """Begin or continue; returns the updates done. `until` stops early and leaves a checkpoint.

        Raises ModelError for a checkpoint of other settings, TrainingError where a loss is not a number: what was
        reached before stays in the checkpoint.
        """
        start = self.done = self._resume()
        if self.watcher is not None and self.watcher.stopped:
            return start
        stop = min(self.steps, self.steps if until is None else until)
        saved = began = time.monotonic()
        bar = tqdm(range(start, stop), self.name, disable=None if self.accelerator.is_main_process else True)
        for step in bar:
            figures = self._step(step)
            bar.set_postfix({name: f"{value:.3g}" for name, value in figures.items() if name in SHOWN}, refresh=False)
            self.done = step + 1
            if self.done % self.log_every == 0 or self.done == stop:
                self._log({"step": self.done, **figures, "seconds": time.monotonic() - began})
            if self.watcher is not None and self.watcher.after(self.done):
                break
            if self.done % self.whole == 0 and time.monotonic() - saved > self.place.save_seconds:
                self.save(self.done)
                saved = time.monotonic()
        self.save(self.done)
        return self.done

    def _step(self, step: int) -> dict[str, float]:
        figures: dict[str, float] = {}
        for number, update in enumerate(self.updates(step)):
            role = self._role(update.role)
            try:
                told = self._update(role, update, step)
            except TrainingError:
                if number == 0:  # later, other roles have moved, and the step could not be begun again
                    self.save(step)
                raise
            figures |= told if len(self.roles) == 1 else {f"{role.name}/{name}": value for name, value in told.items()}
        return figures

    def _update(self, role: Role, update: Update, step: int) -> dict[str, float]:
        role.adamw.zero_grad(set_to_none=True)
        for group in role.adamw.param_groups:
            group["lr"] = role.optimiser.rate(step, self.steps)
        told = self._backward(role, update, step)
        gradients = [p.grad for p in role.parameters.values() if p.grad is not None]
        self._average(gradients)
        told |= self._clip(role)
        if not all(value == value and abs(value) != float("inf") for value in (told["loss"], told["gradient"])):
            raise TrainingError(
                f"{self.name}: update {step + 1} of '{role.name}' has loss {told['loss']:g} and a gradient of norm "
                f"{told['gradient']:g}; the weights before it are kept. Lower the learning rate, or train in float32"
            )
        role.adamw.step()
        role.adamw.zero_grad(set_to_none=True)
        role.advance_average(step, update.batch)
        return told

    def _backward(self, role: Role, update: Update, step: int) -> dict[str, float]:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        mine = list(range(rank, update.batch, world))
        if not mine:
            raise UsageError(f"a batch of {update.batch} cannot be shared by {world} processes; make it larger")
        size = update.micro or len(mine)
        totals: dict[str, float] = {"loss": 0.0}
        whole = Turn(f"{self.place.seed} {self.name}", step, role.name, tuple(mine), update.batch, rank, world)
        if update.begin is not None:
            torch.manual_seed(whole.seeds("begin")[0])
            update.begin(whole)
        for first in range(0, len(mine), size):
            turn = whole.part(first, size)
            torch.manual_seed(turn.seeds("dropout")[0])
            with self.accelerator.autocast():
                loss, figures = update.loss(turn)
            weight = len(turn.items) * world / update.batch
            self.accelerator.backward(loss * weight)
            for name, value in {"loss": float(loss.detach()), **figures}.items():
                totals[name] = totals.get(name, 0.0) + float(value) * weight
        return self._mean(totals)

    def _average(self, gradients: Sequence[Tensor]) -> None:
        if self.accelerator.num_processes == 1 or not gradients:
            return
        mean = self._reduced(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _mean(self, totals: Mapping[str, float]) -> dict[str, float]:
        if self.accelerator.num_processes == 1:
            return dict(totals)
        values = torch.tensor(list(totals.values()), dtype=torch.float64, device=self.accelerator.device)
        return {name: float(mean) for name, mean in zip(totals, self._reduced(values), strict=True)}

    def _reduced(self, tensor: Tensor) -> Tensor:
        """The mean over processes."""
        return cast(Tensor, self.accelerator.reduce(tensor, reduction="mean"))

    def _clip(self, role: Role) -> dict[str, float]:
        parameters = [p for p in role.parameters.values() if p.grad is not None]
        bound = role.optimiser.clip_norm
        norm = nn.utils.clip_grad_norm_(parameters, float("inf") if bound is None else bound)
        if role.optimiser.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, role.optimiser.clip_value)
        return {"gradient": float(norm)}

    def _role(self, name: str) -> Role:
        return next(role for role in self.roles if role.name == name)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def save(self, step: int) -> None:
        """Write the checkpoint; one process writes for all, since all hold the same."""
        if not self.accelerator.is_main_process:
            return
        roles = {role.name: role.state() for role in self.roles}
        watched = {} if self.watcher is None else dict(self.watcher.state())
        told = {"step": step, "roles": roles, "settings": dict(self.settings), "watcher": watched}
        save_atomically(told, checkpoint_path(self.place, self.name))

    def _resume(self) -> int:
        path = checkpoint_path(self.place, self.name)
        if not path.exists():
            return 0
        state = read_checkpoint(path, self.place.device)
        told = state["settings"]
        was = {key: told.get(key) for key in {**told, **self.settings} if told.get(key) != self.settings.get(key)}
        if was:
            raise ModelError(
                f"{path} was made with {', '.join(f'{key}={value}' for key, value in was.items())}; "
                "give the same words again, or another folder with run="
            )
        for role in self.roles:
            role.restore(state["roles"][role.name])
        if self.watcher is not None:
            self.watcher.restore(state["watcher"])
        return int(state["step"])

    def _log(self, figures: Figures) -> None:
        if self.accelerator.is_main_process:
            log(self.place, self.name, figures)
            told = {f"update/{name}": value for name, value in figures.items() if name != "step"}
            for writer in self.writers:
                writer.write(int(figures["step"]), told)
