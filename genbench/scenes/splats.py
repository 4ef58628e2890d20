"""Gaussians as a scene that is optimised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genbench.scenes.cameras import Cameras
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.ply import write_ply
from genbench.scenes.rendering import Engine, Growth, Rendered

FILE = "scene.ply"
RATES: Mapping[str, float] = {
    "means": 1e-3,
    "quats": 5e-3,
    "scales": 5e-3,
    "opacities": 5e-2,
    "sh0": 1e-2,
    "sh_rest": 5e-4,
}
"""Of Adam, for a scene of radius about 0.5 (DreamGaussian, arXiv:2309.16653)."""


@dataclass
class Splats:
    """A `Representation`: the Gaussians it begins with, what draws them, and how they come and go.

    Raises SceneError for Gaussians that cannot be drawn.
    """

    start: Gaussians
    engine: Engine
    growth: Growth | None = None
    rates: Mapping[str, float] = field(default_factory=lambda: RATES)

    def __post_init__(self) -> None:
        self.start.check()
        self._parameters = _parameters(self.start.parameters())

    @property
    def gaussians(self) -> Gaussians:
        """What is there now, with its graph."""
        return Gaussians.of(self._parameters)

    def parameters(self) -> dict[str, nn.Parameter]:
        return self._parameters

    def render(self, cameras: Cameras, background: Tensor, generator: torch.Generator) -> Rendered:
        return self.engine(self.gaussians, cameras, background)

    def state(self) -> dict[str, Any]:
        own = {name: value.detach().clone() for name, value in self._parameters.items()}
        return {"parameters": own, "growth": {} if self.growth is None else self.growth.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        device = self._parameters["means"].device
        self._parameters = _parameters({name: value.to(device) for name, value in state["parameters"].items()})
        if self.growth is not None:
            self.growth.restore(state["growth"])

    def save(self, folder: Path) -> Path:
        write_ply(folder / FILE, self.gaussians.detach())
        return folder / FILE


def _parameters(values: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(value.detach().clone()) for name, value in values.items()}
