"""`genbench train plugin=solids`: the whole recipe, stage by stage, from nothing or from where it stopped."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch

from genbench.errors import UsageError
from genbench.kinds import About, TrainJob
from genbench_solids.training.recipe import Recipe, default_folder, on_gpu, tiny
from genbench_solids.training.stages import MORE, STAGES


@dataclass(frozen=True)
class SolidsTrainer:
    """Make `solids` from nothing. Working data stays in the user's cache folder, so a stopped training goes on."""

    stage: str = "all"  # all; one of render, text, vae, reader, verifier, unet, ...; pixels makes solids32
    unet_steps: int = (
        0  # steps of the denoiser, also of solids32; 0 is the recipe's own number; may change when a training goes on
    )
    preset: Literal["full", "tiny"] = "full"  # tiny passes through every stage in seconds and learns nothing
    fresh: bool = False  # forget what an earlier training left

    about: ClassVar[About] = About(
        summary="trains the embedded model from rendered pictures; an hour and a half on two CPU cores",
        license="Apache-2.0",
        families=("sd",),
    )

    def recipe(self, job: TrainJob) -> Recipe:
        """The numbers of this training. Raises UsageError for an unknown stage."""
        if self.stage not in ("all", *STAGES, *MORE):
            raise UsageError(f"unknown stage {self.stage!r}; choose all, {', '.join((*STAGES, *MORE))}")
        folder = default_folder() if job.seed == 0 else default_folder().with_name(f"solids-train-{job.seed}")
        recipe = replace(tiny(folder / "tiny") if self.preset == "tiny" else Recipe(folder), seed=job.seed)
        if torch.cuda.is_available():
            recipe = on_gpu(recipe)
        steps = self.unet_steps
        return replace(recipe, unet_steps=steps, pixels_steps=steps) if steps else recipe

    def train(self, job: TrainJob) -> Path:
        """Run or continue the stages; return the folder of the result inside the run's folder."""
        recipe = self.recipe(job)
        torch.set_num_threads(1)  # work is spread over processes, and a resumed run has to add up alike
        if self.fresh and recipe.folder.exists():
            shutil.rmtree(recipe.folder)
        if self.stage in MORE:
            made = Path(str(MORE[self.stage](recipe)))
            return Path(shutil.copytree(made, job.run / "solids32", dirs_exist_ok=True))
        for name in STAGES if self.stage == "all" else (self.stage,):
            STAGES[name](recipe)
        result = job.run / "solids"
        if recipe.at("export").exists():
            shutil.copytree(recipe.at("export"), result, dirs_exist_ok=True)
        return result
