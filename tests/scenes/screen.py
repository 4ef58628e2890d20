"""A representation without geometry, for tests of the loop: one picture that every camera sees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genbench.scenes.cameras import Cameras
from genbench.scenes.rendering import Growth, Rendered


class Screen:
    """A picture (3, 16, 16) in [0, 1] by its logits."""

    rates: Mapping[str, float] = {"logits": 0.05}
    growth: Growth | None = None

    def __init__(self) -> None:
        self.named = {"logits": nn.Parameter(torch.zeros(3, 16, 16))}

    def parameters(self) -> dict[str, nn.Parameter]:
        return self.named

    def render(self, cameras: Cameras, background: Tensor, generator: torch.Generator) -> Rendered:
        rgb = self.named["logits"].sigmoid().expand(len(cameras), 3, 16, 16)
        near = 1 + 0 * rgb[:, :1]  # flat, and still in the graph
        return Rendered(rgb, torch.ones_like(near), near)

    def state(self) -> dict[str, Any]:
        return {"logits": self.named["logits"].detach()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.named = {"logits": nn.Parameter(state["logits"].clone())}

    def save(self, folder: Path) -> Path:
        torch.save(self.state(), folder / "screen.pt")
        return folder / "screen.pt"
