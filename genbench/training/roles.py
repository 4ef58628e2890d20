"""Who is trained: a role is a set of weights with its optimiser and, where kept, its moving average.

A finetuning has one role; a distillation has a student, a score of its fakes and perhaps a discriminator, each with
a pace of its own.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Optimiser:
    """AdamW and what surrounds it. `clip_norm` bounds the norm of the whole gradient, `clip_value` each of its numbers.

    The rate rises linearly over `warmup` updates; then it stays, or falls as half a cosine to 1 % at the last.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: float | None = 1.0
    clip_value: float | None = None

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of update `step` of `steps`."""
        ramp = min(1.0, (step + 1) / max(1, self.warmup))
        if self.schedule == "constant":
            return self.lr * ramp
        return self.lr * ramp * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


@dataclass(frozen=True)
class Average:
    """A moving average of weights, mean <- beta mean + (1 - beta) weights.

    `decay` is beta, or with `warm` its final value: beta = min(decay, (1 + n) / (10 + n)), so that a random start is
    forgotten. `half_life` in samples stands in its place where it is given, at most `ramp` times the samples seen so
    far: beta = 2^(-batch / min(half_life, ramp * seen)) (EDM, arXiv:2206.00364, its training code).
    """

    decay: float = 0.999
    warm: bool = True
    half_life: float | None = None
    ramp: float | None = 0.05

    def beta(self, step: int, batch: int = 1) -> float:
        """The decay of update `step` (from 0) over `batch` samples."""
        if self.half_life is None:
            return min(self.decay, (1 + step) / (10 + step)) if self.warm else self.decay
        life = self.half_life if self.ramp is None else min(self.half_life, self.ramp * step * batch)
        return 0.5 ** (batch / max(life, 1e-8))


@dataclass
class Role:
    """The weights `parameters` (by name) that `optimiser` moves; `buffers` are kept in checkpoints beside them."""

    name: str
    parameters: Mapping[str, nn.Parameter]
    optimiser: Optimiser
    average: Average | None = None
    buffers: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    mean: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    adamw: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        asked = self.optimiser
        self.adamw = torch.optim.AdamW(
            self.parameters.values(),
            lr=asked.lr,
            betas=asked.betas,
            eps=asked.eps,
            weight_decay=asked.weight_decay,
            fused=True,
        )
        if self.average is not None and not self.mean:
            self.mean = {name: tensor.clone() for name, tensor in self.weights().items()}

    @classmethod
    def of(cls, name: str, module: nn.Module, optimiser: Optimiser, average: Average | None = None) -> Role:
        """A whole module as a role: its parameters that want gradients move, the rest of its state goes along."""
        wanted = {key: value for key, value in module.named_parameters() if value.requires_grad}
        rest = {key: value for key, value in module.state_dict().items() if key not in wanted}
        return cls(name, wanted, optimiser, average, rest)

    def weights(self) -> dict[str, Tensor]:
        """The tensors themselves, parameters and buffers, detached."""
        return {name: tensor.detach() for name, tensor in (*self.parameters.items(), *self.buffers.items())}

    def result(self) -> dict[str, Tensor]:
        """What the training has made so far: the moving average where one is kept, else the weights."""
        return self.mean or self.weights()

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Put other values into the same tensors."""
        mine = self.weights()
        for name, value in weights.items():
            mine[name].copy_(value)

    @contextmanager
    def averaged(self) -> Generator[None]:
        """Within, the weights are the moving average, where one is kept."""
        if not self.mean:
            yield
            return
        own = {name: tensor.clone() for name, tensor in self.weights().items()}
        self.load(self.mean)
        try:
            yield
        finally:
            self.load(own)

    def advance_average(self, step: int, batch: int) -> None:
        """Let the moving average follow update `step`."""
        if self.average is None:
            return
        beta, weights = self.average.beta(step, batch), self.weights()
        for name, mean in self.mean.items():
            if mean.is_floating_point():
                mean.lerp_(weights[name], 1 - beta)
            else:
                mean.copy_(weights[name])

    def state(self) -> dict[str, object]:
        """Everything that the next update depends on."""
        return {"weights": self.weights(), "optimiser": self.adamw.state_dict(), "average": self.mean}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` said."""
        self.load(state["weights"])
        self.adamw.load_state_dict(state["optimiser"])
        self.mean = dict(state["average"])
