"""Looking at a training while it runs: the same prompts and noises each time, judged, drawn, and a rule to stop by."""

# pyright: basic
# accelerate carries no types here.

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from tqdm import tqdm

from genbench.kinds import Encoder, Scorer
from genbench.training.curves import log
from genbench.training.place import Place
from genbench.training.roles import Role
from genbench.training.writers import Writer

COLUMNS = 8


@dataclass(frozen=True)
class Sitting:
    """What is drawn at every look: prompts with their seeds, and the rows of the prompt file."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: tuple[Mapping[str, object], ...] = ()

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, object]], each: int, seed: int) -> Sitting:
        """Every prompt with `each` noises of its own, the same at every look."""
        many = [(row, number) for row in rows for number in range(each)]
        texts = tuple(str(row["prompt"]) for row, _ in many)
        return cls(texts, tuple(seed + i for i in range(len(many))), tuple(row for row, _ in many))


class Drawing(Protocol):
    """What draws a look: a rollout, or a camera before a scene."""

    def pictures(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """One picture (3, h, w) in [0, 1] of each prompt, (n, 3, h, w)."""
        ...


@dataclass
class Looks:
    """Looks every `every` updates at what `role` has become (its average, where it keeps one).

    The score called `follow` decides: its best look's weights are kept in `best`, and after `patience` looks without
    a better one the training stops (0: never).
    """

    place: Place
    name: str
    role: Role
    rollout: Drawing
    sitting: Sitting
    judges: Mapping[str, Scorer]
    accelerator: Accelerator
    encoder: Encoder | None = None
    writers: Sequence[Writer] = ()
    every: int = 10
    follow: str = "holdout"
    patience: int = 0
    pictures: int = 32  # drawn into samples/; 0 none
    best: dict[str, Any] = field(default_factory=dict[str, Any])  # step, value and weights of the best look
    looks: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    stopped: bool = False

    def after(self, step: int) -> bool:
        """Look, where it is time to; True stops the training."""
        if step % self.every == 0:
            self.look(step)
        return self.stopped

    def finish(self, step: int) -> None:
        """Look at what the last update made, where that has not been looked at."""
        if not self.stopped and (not self.looks or self.looks[-1]["step"] != step):
            self.look(step)

    def look(self, step: int) -> Mapping[str, float]:
        """Draw, judge, log; returns the figures (in every process)."""
        told: list[Any] = [self._figures(step) if self.accelerator.is_main_process else {}]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(told)
        figures: dict[str, float] = told[0]
        self.looks.append({"step": step, **figures})
        self._judge(step, figures)
        if self.accelerator.is_main_process:
            log(self.place, f"{self.name}-looks", self.looks[-1])
            tqdm.write(f"look after update {step}: {in_words(figures) or 'no scorer'}", file=sys.stderr)
            for writer in self.writers:
                writer.write(step, {f"look/{name}": value for name, value in figures.items()})
        return figures

    def _figures(self, step: int) -> dict[str, float]:
        with self.role.averaged():
            images = self.rollout.pictures(self.sitting.prompts, self.sitting.seeds)
        if self.pictures:
            save_grid(images[: self.pictures], self.place, f"{self.name}-{step:06d}")
        asked: dict[str, Any] = {"prompts": self.sitting.prompts, "rows": self.sitting.rows or None}
        with torch.no_grad():
            figures = {name: float(judge.score(images=images, **asked).mean()) for name, judge in self.judges.items()}
            if self.encoder is not None:
                figures["diversity"] = within_prompts(self.encoder.embed_images(images), self.sitting.prompts)
        return figures

    def _judge(self, step: int, figures: Mapping[str, float]) -> None:
        value = figures.get(self.follow)
        if value is None:
            return
        if not isnan(value) and value > self.best.get("value", -float("inf")):
            weights = {name: tensor.clone() for name, tensor in self.role.result().items()}
            self.best = {"step": step, "value": value, "weights": weights, "look": len(self.looks)}
        since = len(self.looks) - int(self.best.get("look", 0))
        self.stopped = bool(self.patience) and since >= self.patience

    def state(self) -> Mapping[str, Any]:
        return {"best": self.best, "looks": self.looks, "stopped": self.stopped}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.looks, self.stopped = dict(state["best"]), list(state["looks"]), bool(state["stopped"])


def in_words(figures: Mapping[str, float]) -> str:
    """Figures as one line, three digits each."""
    return ", ".join(f"{name} {value:.3g}" for name, value in figures.items())


def within_prompts(features: Tensor, prompts: Sequence[str]) -> float:
    """Mean of 1 - cosine between pictures of one prompt, averaged over prompts with at least two; NaN without any."""
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    means: list[Tensor] = []
    for prompt in dict.fromkeys(prompts):
        own = unit[[i for i, text in enumerate(prompts) if text == prompt]]
        n = len(own)
        if n > 1:
            means.append(1 - ((own @ own.T).sum() - n) / (n * (n - 1)))
    return float(torch.stack(means).mean()) if means else float("nan")


def save_grid(images: Tensor, place: Place, name: str) -> None:
    """Write pictures (n, 3, h, w) as one PNG under samples/."""
    from torchvision.utils import save_image

    path = place.at("samples", f"{name}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(images, path, nrow=COLUMNS, padding=1)
