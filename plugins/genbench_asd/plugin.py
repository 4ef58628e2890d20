"""The plugin `asd`: `genbench run plugin=asd prompt="..."`, a scene by asynchronous score distillation.

With `asd.weights=` a generator that was trained on many prompts by the same gradient answers in one pass instead.

    t ~ U{T_min .. T_max},  t+ = t + floor(u plus_ratio (t - T_min)),  u ~ U(0, 1)
    z_t, z_t+ from the same noise
    gradient on z = w(t) (eps_hat(z_t; t, y) - eps(z_t+; t+, y))

The frozen network at a noisier level stands for the copy of it that VSD trains on renderings: earlier in the sampling
process is later in t. T_min and T_max fall linearly over the run, and the shift is measured from the T_min of the
moment. Guidance is in the first term alone (ScaleDreamer, arXiv:2407.02040, and its code, which goes beyond eq. 9).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from genbench.errors import UsageError
from genbench.hashes import file_hash
from genbench.kinds import About, Context, SceneJob
from genbench.options import Range
from genbench.scenes.distillation import ScoreDistillation
from genbench.scenes.output import DistilledScene
from genbench.scenes.rendering import engine
from genbench.scenes.scores import Sight, Weighting, bounds, guided, weights
from genbench.scenes.splats import Splats
from genbench_asd.generator import AUTO, NONE, answered, file_of, opened, place_of, read_about

ABOUT = About(
    "Makes a scene by asynchronous score distillation: the prior's prediction against its own at a noisier level.",
    paper="Ma et al., ScaleDreamer: Scalable Text-to-3D Synthesis with Asynchronous Score Distillation, ECCV 2024",
    url="https://arxiv.org/abs/2407.02040",
    license="Apache-2.0",
    families=("sd", "sdxl", "sd3", "flux", "pixart", "hunyuan", "toy"),
    cost="3 per camera and iteration",
)


@dataclass(frozen=True)
class Asynchronous:
    """The gradient itself, and what it depends on."""

    t_min: tuple[float, float] = (0.5, 0.02)  # least time, share of the schedule: first and last, linear between
    t_max: tuple[float, float] = (0.98, 0.5)  # largest time, likewise
    plus_ratio: Annotated[float, Range(0)] = 0.1  # eta: the largest shift, as a share of t - T_min; 0: none
    plus_random: bool = True  # draw the shift evenly up to that, which matters more than its size
    joint: bool = False  # one time for all cameras of an iteration, as for priors of several views
    weighting: Weighting = "sds"  # w(t): sds is 1 - alpha_bar, fantasia3d sqrt(alpha_bar) times that

    def direction(self, sight: Sight) -> Tensor:
        """w(t) (eps_hat(z_t) - eps_y(z_t+)) / b; rows of the one call: prompt, negative, prompt at t+."""
        prior, texts, noise = sight.prior, sight.texts, sight.noise()
        low, high = bounds(sight, self.t_min, self.t_max)
        t = sight.times(low, high)
        t = t[:1].expand_as(t) if self.joint else t
        later = self.shifted(t, low, prior.count, sight.generator)
        z_t, z_later = (prior.noised(sight.z, noise, at) for at in (t, later))
        prompt, negative, second = prior.eps(
            (z_t, t, texts.prompt), (z_t, t, texts.negative), (z_later, later, texts.prompt)
        )
        first = guided(prompt, negative, sight.guidance_scale)
        return weights(sight, t, self.weighting) * (first - second) / len(z_t)

    def shifted(self, t: Tensor, low: int, count: int, generator: torch.Generator) -> Tensor:
        """t+ of timesteps t (b,): never below t, at most count - 1, t itself at the least time `low`."""
        most = (self.plus_ratio * (t - low)).clamp(min=torch.zeros_like(t), max=count - 1 - t)
        share = torch.rand(1 if self.joint else len(t), generator=generator).to(t.device) if self.plus_random else 1.0
        return (t + (share * most).floor().long()).clamp(1, count - 1)


@dataclass(frozen=True)
class ASD(Asynchronous, ScoreDistillation):
    """Asynchronous score distillation: the prior against itself at a noisier level, in one call of the network."""

    weights: str = "none"  # a generator that answers at once: a file, a training's folder, auto (by the model); or none

    about: ClassVar[About] = ABOUT
    recommended: ClassVar[Mapping[str, object]] = {"guidance_scale": 7.5}

    def check(self, model: str, family: str) -> None:
        """Refuse what cannot work, before weights load. Raises GenbenchError subclasses."""
        if self.weights == NONE:
            return super().check(model, family)
        names = [each.name for each in fields(self) if each.name not in ANSWERED]
        given = [name for name in names if getattr(self, name) != getattr(ASD, name)]
        if given:
            raise UsageError(f"asd.{given[0]}= is about optimising a scene; asd.weights={self.weights} answers at once")
        read_about(place_of(self.weights, model), model)
        engine(self.engine)

    def optimize(self, job: SceneJob) -> DistilledScene:
        """Make or continue the scene, or ask the generator. Raises GenbenchError, keeping what was reached."""
        if self.weights == NONE:
            return super().optimize(job)
        model = job.ctx.model
        settled: ASD = self.settled(model.name)
        network = job.ctx.load(str(place_of(self.weights, model.name)), lambda path: opened(path, model))
        gaussians = answered(network, model, job.prompt)
        if job.progress is not None:
            job.progress(self.iterations)
        return settled.shown(Splats(gaussians, engine(self.engine, gaussians.means.device)), job.prompt, 0)

    def version(self) -> str:
        """Which generator this is: its file's hash, as far as the words tell."""
        files = [] if self.weights in (NONE, AUTO) else [file_of(self.weights)]
        return " ".join([self.weights, *(file_hash(file)[:12] for file in files if file.is_file())])

    def evaluations(self, plain: int, ctx: Context) -> int:
        """Network evaluations of a scene; a generator asks the prior nothing."""
        return 3 * self.batch * self.iterations if self.weights == NONE else 0


ANSWERED = ("weights", "engine", "background", "elevation_deg", "camera_distance", "fovy_deg", "frames", "size")
"""Options that an answer at once knows: how it is drawn and shown."""
