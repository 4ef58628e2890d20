"""A finished scene: what its run's folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from genbench.scenes.cameras import Cameras
from genbench.scenes.checkpoints import FILE
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.rendering import Rendered, Representation
from genbench.scenes.turntables import FRAMES, SIZE, write_turntable
from genbench.scenes.viewer import write_viewer
from genbench.scenes.views import Stand

VIEWER = "viewer.html"


@dataclass(frozen=True)
class DistilledScene:
    """`kinds.Scene`: what was optimised, from where it is looked at, the colour behind it (3,) and its cost."""

    representation: Representation
    stand: Stand
    background: Tensor
    title: str
    evaluations: int
    size: int = SIZE
    frames: int = FRAMES

    def draw(self, cameras: Cameras) -> Rendered:
        """What cameras see."""
        with torch.no_grad():
            return self.representation.render(cameras, self.background, torch.Generator().manual_seed(0))

    def render(self, cameras: Cameras) -> Tensor:
        """What cameras see, (c, 3, h, w) in [0, 1]."""
        return self.draw(cameras).rgb.clamp(0, 1)

    def save(self, folder: Path) -> Sequence[Path]:
        """Write the scene's file, the turntable, and for Gaussians the viewer; the checkpoint goes.

        Raises SceneError for a scene that cannot be drawn.
        """
        paths = [self.representation.save(folder)]
        paths += write_turntable(folder, self.draw, self.stand, self.size, self.frames)
        gaussians: Gaussians | None = getattr(self.representation, "gaussians", None)
        if gaussians is not None:
            write_viewer(folder / VIEWER, gaussians, self.title, self.stand, [float(part) for part in self.background])
            paths.append(folder / VIEWER)
        (folder / FILE).unlink(missing_ok=True)
        return paths
