"""The trainer `newname`: `genbench train plugin=newname`; climbs the reward of one latent picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from safetensors.torch import load_file, save_file

from genbench.errors import UsageError
from genbench.kinds import About, TrainJob
from genbench.options import Range


@dataclass(frozen=True)
class Newname:
    """Gradient ascent on the reward; a stand-in for the training of a network."""

    updates: Annotated[int, Range(1)] = 20  # optimiser steps
    rate: Annotated[float, Range(0)] = 0.05  # learning rate

    about: ClassVar[About] = About(
        "One line: what this trains, and with what.",
        contract=1,
        paper="Author et al., Title",
        url="",
        license="",
    )

    def train(self, job: TrainJob) -> Path:
        """Train into `job.run` and return the file that was made; with `job.resume` go on from it."""
        if job.model is None or job.reward is None:
            raise UsageError("newname needs model= and reward=")
        made = job.run / "newname.safetensors"
        shape = (1, *job.model.latent_shape(16, 16))
        fresh = torch.randn(shape, generator=torch.Generator().manual_seed(job.seed))
        x = (load_file(made)["x"] if job.resume and made.is_file() else fresh).requires_grad_()
        optimiser = torch.optim.Adam([x], self.rate)
        for update in range(self.updates):
            prompt = job.prompts[update % len(job.prompts)] if job.prompts else ""
            optimiser.zero_grad()
            (-job.reward.score(images=job.model.decode(x), prompts=[prompt]).sum()).backward()
            optimiser.step()
        save_file({"x": x.detach()}, made)
        return made
