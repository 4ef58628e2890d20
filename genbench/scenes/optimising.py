"""The loop of every scene: render, ask the prior in which direction, follow it.

All chance is a function of (seed, iteration), so that a scene that was stopped goes on in the same bits from a
checkpoint, which holds parameters, optimisers, growth and what a direction has learnt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import torch
from torch import Tensor

from genbench.errors import SceneError
from genbench.kinds import Ledger
from genbench.scenes.cameras import Cameras
from genbench.scenes.checkpoints import read, write
from genbench.scenes.prior import Prior
from genbench.scenes.prompting import Prompting
from genbench.scenes.rendering import Rendered, Representation
from genbench.scenes.scores import Direction, Learning, Sight

DECAYS: Mapping[str, float] = {"means": 0.01, "sh0": 0.6, "scales": 0.2, "quats": 0.2}
"""What is left of a parameter's rate at the end; it falls evenly in its logarithm. The others keep theirs,
unless the setting's `decay` leaves less of every rate."""
EPS = 1e-15
"""Adam's, as for Gaussians everywhere: their gradients are small."""


class Setting(Protocol):
    """What an optimisation asks of its method besides the direction."""

    @property
    def iterations(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def rate(self) -> float | None: ...
    @property
    def decay(self) -> float | None: ...

    def cameras(self, prior: Prior, generator: torch.Generator) -> Cameras: ...

    def backdrops(self, generator: torch.Generator) -> Tensor: ...

    def pictures(self, rendered: Rendered, size: Tensor, generator: torch.Generator) -> Tensor: ...

    def penalty(self, rendered: Rendered, size: Tensor, progress: float) -> Tensor: ...


@dataclass
class Optimisation:
    """One scene while it is made. `settings` say what the result depends on; `done` counts iterations."""

    setting: Setting
    prior: Prior
    prompting: Prompting
    representation: Representation
    direction: Direction
    ledger: Ledger
    seed: int
    guidance_scale: float
    checkpoint: Path
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    save_seconds: float = 60.0
    done: int = 0
    spent: int = 0  # network evaluations of earlier processes
    optimisers: dict[str, torch.optim.Optimizer] = field(init=False)

    def __post_init__(self) -> None:
        self.optimisers = {name: _adam(value) for name, value in self.representation.parameters().items()}

    def run(self, progress: Callable[[int], None] | None = None, resume: bool = False) -> None:
        """Begin, or go on from the checkpoint where one is there and `resume` says so, and end.

        Raises SceneError where an iteration breaks; the scene that it had so far is then saved beside the checkpoint.
        """
        if resume and self.checkpoint.exists():
            self.restore(read(self.checkpoint, self.settings))
        began = self.ledger.evaluations - self.spent
        saved = time.monotonic()
        if progress is not None and self.done:
            progress(self.done)
        try:
            while self.done < self.setting.iterations:
                self.step()
                self.done += 1
                if progress is not None:
                    progress(1)
                if time.monotonic() - saved > self.save_seconds:
                    self.spent = self.ledger.evaluations - began
                    write(self.checkpoint, self.state())
                    saved = time.monotonic()
        except SceneError:
            self.representation.save(self.checkpoint.parent)
            raise
        finally:
            self.spent = self.ledger.evaluations - began

    def step(self) -> None:
        """One iteration. Raises SceneError for a gradient that is no number, before anything has moved."""
        generator = torch.Generator().manual_seed(crc32(f"{self.seed} scene {self.done}".encode()))
        progress, scene = self.done / self.setting.iterations, self.representation
        cameras = self.setting.cameras(self.prior, generator)
        background = self.setting.backdrops(generator).to(self.prior.model.device)
        rendered = scene.render(cameras, background, generator)
        size = mean_size(scene)
        seen = self.setting.pictures(rendered, size.detach(), generator)
        z = self.prior.encode(seen, generator)
        with torch.no_grad():
            texts = self.prompting.texts(cameras)
            sight = Sight(self.prior, z.detach(), texts, self.guidance_scale, progress, generator)
            gradient = self.direction(sight).nan_to_num()
        loss = (z * gradient).sum() + self.setting.penalty(rendered, size, progress)
        if scene.growth is not None:
            scene.growth.before_backward(rendered)
        torch.autograd.backward(loss)
        self._check(float(loss.detach()))
        self._move(progress)
        if scene.growth is not None:
            scene.growth.after_step(self.done, scene.parameters(), self.optimisers, rendered, generator)
        for parameter in scene.parameters().values():
            parameter.grad = None

    def _check(self, loss: float) -> None:
        parameters = self.representation.parameters()
        bad = [name for name, p in parameters.items() if p.grad is not None and not bool(p.grad.isfinite().all())]
        if bad or loss != loss:
            what = f"the gradient of its {', '.join(bad)}" if bad else "its loss"
            raise SceneError(
                f"iteration {self.done + 1} of the scene breaks: {what} is no number; the scene before it is kept. "
                "Lower guidance_scale= or the option rate="
            )

    def _move(self, progress: float) -> None:
        rates, parameters = self.representation.rates, self.representation.parameters()
        rate, left = (1.0 if told is None else told for told in (self.setting.rate, self.setting.decay))
        for name, optimiser in self.optimisers.items():
            if parameters[name].grad is None:
                continue
            optimiser.param_groups[0]["lr"] = rate * rates[name] * min(DECAYS.get(name, 1.0), left) ** progress
            optimiser.step()

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that the next iteration depends on."""
        return {
            "done": self.done,
            "spent": self.spent,
            "settings": dict(self.settings),
            "scene": self.representation.state(),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "direction": self.direction.state() if isinstance(self.direction, Learning) else {},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Be what `state` was."""
        self.done, self.spent = int(state["done"]), int(state["spent"])
        self.representation.restore(state["scene"])
        self.optimisers = {name: _adam(value) for name, value in self.representation.parameters().items()}
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        if isinstance(self.direction, Learning):
            self.direction.restore(state["direction"])


def mean_size(scene: Representation) -> Tensor:
    """The mean deviation of a scene's Gaussians, 0-dim, with its graph; 0 for what has none."""
    parameters = scene.parameters()
    return parameters["scales"].exp().mean() if "scales" in parameters else torch.zeros(())


def _adam(parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
    return torch.optim.Adam([parameter], lr=0.0, eps=EPS)
