"""Scenes by score distillation: the options that every such method shares, and what it leaves behind.

A method inherits `ScoreDistillation` and brings its `direction`: what the prior says of clean latents that a camera
sees. An option whose default is none takes what the model's source recommends for scenes (its mapping `scene`), else
what is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from genbench.kinds import About, SceneJob
from genbench.models import model_hash, source_of
from genbench.options import Range
from genbench.scenes import looking, prior as priors, regularisers
from genbench.scenes.cameras import Cameras
from genbench.scenes.checkpoints import FILE
from genbench.scenes.optimising import Optimisation
from genbench.scenes.prior import Prior
from genbench.scenes.prompting import Prompting
from genbench.scenes.rendering import Rendered, Representation
from genbench.scenes.scores import Direction, Sight

Span = tuple[float, float]


@dataclass(frozen=True)
class ScoreDistillation:
    """The options of every method that distils a prior into a scene."""

    iterations: Annotated[int, Range(1)] = 600  # updates of the scene
    batch: Annotated[int, Range(1)] = 4  # cameras of an iteration
    resolution: Annotated[int, Range(8)] | None = None  # pixels of a rendering's sides; none: what the prior sees
    engine: Literal["auto", "torch", "numba", "gsplat"] = "auto"  # renderer; auto: gsplat on a GPU, else torch
    representation: Literal["gaussians", "nerf"] = "gaussians"  # what the scene is made of
    init: str = "sphere"  # where Gaussians begin: sphere, or the path of a .ply of points or Gaussians
    count: Annotated[int, Range(1)] = 2000  # Gaussians of the sphere
    radius: Annotated[float, Range(0, low_open=True)] = 0.5  # of the sphere, world units
    rate: Annotated[float, Range(0)] = 1.0  # factor of all learning rates
    elevation_deg: Span | None = None  # range of camera heights; none: as the model recommends, else -10,45
    azimuth_deg: Span = (-180.0, 180.0)  # range of camera directions; 0 is the front
    azimuth_stops: tuple[float, ...] | None = None  # directions that cameras keep to; none: the model's, else all
    azimuth_jitter_deg: Annotated[float, Range(0)] = 10.0  # how far from a stop they stand
    camera_distance: Span | None = None  # range of distances; none: as the model recommends, else 3.5,5
    fovy_deg: Span | None = None  # range of fields of view; none: as the model recommends, else 18,35
    background: looking.Backdrop | None = None  # behind the scene; none: as the model recommends, else random
    view_words: tuple[str, ...] | None = None  # for front, side, back (and above); none: the model's own
    view_blend: bool = True  # blend the words' encodings by the azimuth; false: the nearest
    lambda_tv: Annotated[float, Range(0)] = 0.0  # total variation of colours and nearness
    lambda_scale: Annotated[float, Range(0)] = 0.0  # mean size of the Gaussians
    lambda_sparsity: Annotated[float, Range(0)] = 0.0  # how much of a picture is covered
    lambda_opaque: Annotated[float, Range(0)] = 0.0  # what is half covered

    about: ClassVar[About]
    published: ClassVar[Mapping[str, object]] = {
        "elevation_deg": (-10.0, 45.0),
        "azimuth_stops": (),
        "camera_distance": (3.5, 5.0),
        "fovy_deg": (18.0, 35.0),
        "background": "random",
        "view_words": ("front view", "side view", "back view"),
        "flip": 0.5,
        "depth_share": 0.2,
    }

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

    def penalty(self, rendered: Rendered, size: Tensor, progress: float) -> Tensor:
        """What keeps the scene plain, added to the loss."""
        loss = self.lambda_scale * size
        if self.lambda_tv:
            near = regularisers.disparity(rendered)
            loss = loss + self.lambda_tv * sum(map(regularisers.total_variation, (rendered.rgb, near)), torch.zeros(()))
        if self.lambda_sparsity:
            loss = loss + self.lambda_sparsity * regularisers.sparsity(rendered.alpha)
        if self.lambda_opaque:
            loss = loss + self.lambda_opaque * regularisers.opaqueness(rendered.alpha)
        return loss

    # --- what they share ----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What records call the method."""
        return type(self).__name__.lower()

    def check(self, model: str, family: str) -> None:
        """Refuse what cannot work, before weights load. Raises GenbenchError subclasses."""
        priors.check_encoder(model, family)
        self.settled(model).law()

    def settled(self, model: str) -> Any:
        """The method with every open option as the model's source recommends, else as published."""
        source = source_of(model)
        told: Mapping[str, object] = {**self.published, **getattr(source, "scene", {})}
        names = [each.name for each in fields(self) if getattr(self, each.name) is None and each.name in told]
        return replace(self, **{name: told[name] for name in names})

    def law(self) -> Any:
        """Where cameras stand. Raises UsageError."""
        spans = (self.elevation_deg, self.azimuth_deg, self.camera_distance, self.fovy_deg)
        known = [(0.0, 0.0) if span is None else span for span in spans]
        return looking.law_of(*known, stops=self.azimuth_stops or (), jitter_deg=self.azimuth_jitter_deg)

    def cameras(self, prior: Prior, generator: torch.Generator) -> Cameras:
        """The cameras of an iteration."""
        width, height = (self.resolution or size for size in (prior.width, prior.height))
        return self.law().draw(self.batch, width, height, generator)

    def backdrops(self, generator: torch.Generator) -> Tensor:
        """What lies behind each picture of an iteration, (b, 3)."""
        return looking.backdrops(self.background or "random", self.batch, generator)

    def optimize(self, job: SceneJob) -> Any:
        """Make or continue the scene. Raises GenbenchError, keeping what was reached."""
        settled: ScoreDistillation = self.settled(job.ctx.model.name)
        optimisation = settled.prepared(job)
        optimisation.run(job.progress, job.resume)
        return settled.finished(optimisation)

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
        raise NotImplementedError

    def finished(self, optimisation: Optimisation) -> Any:
        """The scene as a run leaves it."""
        raise NotImplementedError
