"""Scenes by score distillation: the options that every such method shares, and what it leaves behind.

A method inherits `ScoreDistillation` and brings its `direction`: what the prior says of clean latents that a camera
sees.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from genbench.errors import UsageError
from genbench.kinds import About, SceneJob
from genbench.models import model_hash
from genbench.options import Range
from genbench.scenes import looking
from genbench.scenes.checkpoints import FILE
from genbench.scenes.densification import Densification
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.looking import Looking, Span
from genbench.scenes.optimising import Optimisation
from genbench.scenes.output import DistilledScene
from genbench.scenes.prior import Prior
from genbench.scenes.prompting import Prompting
from genbench.scenes.rendering import Growth, Rendered, Representation, engine
from genbench.scenes.scores import Direction, Sight
from genbench.scenes.splats import Splats
from genbench.scenes.starts import start_of
from genbench.scenes.turntables import FRAMES, SIZE, VIEWS


@dataclass(frozen=True)
class ScoreDistillation(Looking):
    """The options of every method that distils a prior into a scene."""

    iterations: Annotated[int, Range(1)] = 600  # updates of the scene
    representation: Literal["gaussians", "nerf"] = "gaussians"  # what the scene is made of
    init: str = "sphere"  # where Gaussians begin: sphere, or the path of a .ply of points or Gaussians
    count: Annotated[int, Range(1)] = 2000  # Gaussians of the sphere
    radius: Annotated[float, Range(0, low_open=True)] = 0.5  # of the sphere, world units
    sh_degree: Literal[0, 1, 2, 3] | None = None  # of colours that change with the view; none: the model's, or 0
    rate: Annotated[float, Range(0)] | None = None  # factor of all learning rates; none: the model's, or 1
    decay: Annotated[float, Range(0, 1)] | None = None  # most that is left of a rate at the end; none: likewise
    growth: Literal["none", "densify"] = "none"  # densify: Gaussians split, double and vanish on the way
    densify_grad: Annotated[float, Range(0)] = 7.5e-4  # gradient of a centre from which a Gaussian grows
    densify_span: Span = (0.04, 0.6)  # share of the iterations in which they do
    densify_every: Annotated[int, Range(1)] = 100  # iterations between two changes
    densify_most: Annotated[int, Range(1)] = 100_000  # Gaussians from which none is added
    frames: Annotated[int, Range(8)] = FRAMES  # pictures of the turntable; a multiple of 8
    size: Annotated[int, Range(8)] = SIZE  # pixels of their sides

    about: ClassVar[About]

    # --- what a method says -------------------------------------------------------------------------------------------

    def direction(self, sight: Sight) -> Tensor:
        """The gradient on latents (b, ...)."""
        raise NotImplementedError

    def begin(self, prior: Prior, job: SceneJob) -> Direction:
        """The direction of one scene; a method that learns as it goes makes its learner here."""
        return self.direction

    def pictures(self, rendered: Rendered, size: Tensor, generator: torch.Generator) -> Tensor:
        """What the prior is shown of renderings, (b, 3, h, w); `size` is the mean Gaussian's."""
        return rendered.rgb

    # --- what they share ----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What records call the method."""
        return type(self).__name__.lower()

    def check(self, model: str, family: str) -> None:
        """Refuse what cannot work, before weights load. Raises GenbenchError subclasses."""
        settled: ScoreDistillation = self.settled(model)
        self.check_looking(model, family)
        if self.representation == "nerf" and self.init != "sphere":
            raise UsageError(f"{self.name}.init={self.init} holds Gaussians; representation=nerf begins by itself")
        if self.frames % VIEWS:
            raise UsageError(f"{self.name}.frames={self.frames} is no multiple of {VIEWS}")
        if self.init != "sphere":
            settled.gaussians(0)

    def optimize(self, job: SceneJob) -> DistilledScene:
        """Make or continue the scene. Raises GenbenchError, keeping what was reached."""
        settled: ScoreDistillation = self.settled(job.ctx.model.name)
        optimisation = settled.prepared(job)
        optimisation.run(job.progress, job.resume)
        return settled.shown(optimisation.representation, job.prompt, optimisation.spent)

    def prepared(self, job: SceneJob) -> Optimisation:
        """Everything up to the first iteration."""
        ctx = job.ctx
        prior = Prior.of(ctx.model, ctx.height, ctx.width)
        negative = ctx.negative[0] if ctx.negative else ""
        prompting = Prompting.of(prior, job.prompt, negative, self.view_words or (), self.view_blend)
        return Optimisation(
            self,
            prior,
            prompting,
            self.scene(prior, job.seed),
            self.begin(prior, job),
            ctx.ledger,
            job.seed,
            ctx.guidance_scale,
            job.run / FILE,
            self.settings(job),
        )

    def settings(self, job: SceneJob) -> dict[str, object]:
        """What the result depends on besides chance."""
        ctx = job.ctx
        told = {
            "prompt": job.prompt,
            "seed": job.seed,
            "negative": str(ctx.negative or ""),
            "size": [ctx.height, ctx.width],
        }
        model = f"{ctx.model.name} {model_hash(ctx.model)[:12]}"
        return {**asdict(self), **told, "guidance_scale": ctx.guidance_scale, "model": model}

    def scene(self, prior: Prior, seed: int) -> Representation:
        """What is optimised, as it begins."""
        device = prior.model.device
        return Splats(self.gaussians(seed).to(device), engine(self.engine, device), self.grower())

    def gaussians(self, seed: int) -> Gaussians:
        """The Gaussians it begins with. Raises SceneError for a file that holds none."""
        generator = torch.Generator().manual_seed(seed)
        return start_of(self.init, self.count, self.radius, generator, self.sh_degree or 0)

    def grower(self) -> Growth | None:
        """What changes their number; opacities are reset three times while it does."""
        if self.growth == "none":
            return None
        start, stop = (round(share * self.iterations) for share in self.densify_span)
        return Densification(
            grow_grad2d=self.densify_grad,
            start=start,
            stop=stop,
            every=self.densify_every,
            reset_every=max(self.densify_every, (stop - start) // 4),
            most=self.densify_most,
            scene_scale=2 * self.radius,
        )

    def shown(self, scene: Representation, title: str, evaluations: int) -> DistilledScene:
        """The scene as a run leaves it, seen from the middle of where the cameras stood."""
        behind = looking.backdrop(self.background or "random")
        return DistilledScene(scene, self.stand(), behind, title, evaluations, self.size, self.frames)
