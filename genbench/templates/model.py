"""The plugin `newname`: scales the weights of the denoising network."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from genbench.kinds import About, Model, Resources
from genbench.options import Range

NETWORKS = ("unet", "transformer", "network")


@dataclass(frozen=True)
class Newname:
    """Multiply every weight of the denoising network by 1 + strength."""

    strength: Annotated[float, Range(-1, 1)] = 0.1  # relative change of the weights; 0 is neutral

    about: ClassVar[About] = About(
        "One line: what this changes and why.",
        contract=1,
        paper="Author et al., Title",
        url="",
        license="",
        cost="1 x plain",
        neutral={"strength": 0.0},
    )

    def transform_model(self, model: Model, ctx: Resources) -> Model:
        """Return a model with another network; the one that came in stays as it is."""
        name = next(name for name in NETWORKS if name in model.modules)
        network = copy.deepcopy(model.modules[name])
        with torch.no_grad():
            for weight in [*network.parameters(), *network.buffers()]:
                weight.mul_(1 + self.strength)
        return model.replace(modules={name: network})
