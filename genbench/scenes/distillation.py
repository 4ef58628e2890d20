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

from genbench.errors import UsageError
from genbench.kinds import About, SceneJob
from genbench.models import model_hash, source_of
from genbench.options import Range
from genbench.scenes import looking, prior as priors, regularisers
from genbench.scenes.cameras import CameraLaw, Cameras
from genbench.scenes.checkpoints import FILE
from genbench.scenes.densification import Densification
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.optimising import Optimisation
from genbench.scenes.output import DistilledScene
from genbench.scenes.prior import Prior
from genbench.scenes.prompting import Prompting, check_words
from genbench.scenes.rendering import Growth, Rendered, Representation, engine
from genbench.scenes.scores import Direction, Sight
from genbench.scenes.splats import Splats
from genbench.scenes.starts import start_of
from genbench.scenes.turntables import FRAMES, SIZE, VIEWS
from genbench.scenes.views import Stand

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
    sh_degree: Literal[0, 1, 2, 3] | None = None  # of colours that change with the view; none: the model's, or 0
    rate: Annotated[float, Range(0)] = 1.0  # factor of all learning rates
    growth: Literal["none", "densify"] = "none"  # densify: Gaussians split, double and vanish on the way
    densify_grad: Annotated[float, Range(0)] = 7.5e-4  # gradient of a centre from which a Gaussian grows
    densify_span: Span = (0.04, 0.6)  # share of the iterations in which they do
    densify_every: Annotated[int, Range(1)] = 100  # iterations between two changes
    densify_most: Annotated[int, Range(1)] = 100_000  # Gaussians from which none is added
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
    frames: Annotated[int, Range(8)] = FRAMES  # pictures of the turntable; a multiple of 8
    size: Annotated[int, Range(8)] = SIZE  # pixels of their sides

    about: ClassVar[About]
    published: ClassVar[Mapping[str, object]] = {
        "elevation_deg": (-10.0, 45.0),
        "azimuth_stops": (),
        "camera_distance": (3.5, 5.0),
        "fovy_deg": (18.0, 35.0),
        "background": "random",
        "sh_degree": 0,
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
        settled: ScoreDistillation = self.settled(model)
        priors.check_encoder(model, family)
        settled.law()
        check_words(settled.view_words or ())
        if self.representation == "nerf" and self.init != "sphere":
            raise UsageError(f"{self.name}.init={self.init} holds Gaussians; representation=nerf begins by itself")
        if self.frames % VIEWS:
            raise UsageError(f"{self.name}.frames={self.frames} is no multiple of {VIEWS}")
        if self.init != "sphere":
            settled.gaussians(0)
        engine(self.engine, "cuda" if self.engine == "gsplat" and torch.cuda.is_available() else "cpu")

    def settled(self, model: str) -> Any:
        """The method with every open option as the model's source recommends, else as published."""
        source = source_of(model)
        told: Mapping[str, object] = {**self.published, **getattr(source, "scene", {})}
        names = [each.name for each in fields(self) if getattr(self, each.name) is None and each.name in told]
        return replace(self, **{name: told[name] for name in names})

    def law(self) -> CameraLaw | looking.Stops:
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

    def optimize(self, job: SceneJob) -> DistilledScene:
        """Make or continue the scene. Raises GenbenchError, keeping what was reached."""
        settled: ScoreDistillation = self.settled(job.ctx.model.name)
        optimisation = settled.prepared(job)
        optimisation.run(job.progress, job.resume)
        return settled.finished(optimisation, job.prompt)

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

    def finished(self, optimisation: Optimisation, title: str) -> DistilledScene:
        """The scene as a run leaves it, shown from the middle of where the cameras stood."""
        law = self.law()
        base: CameraLaw = law.law if isinstance(law, looking.Stops) else law
        elevation, fovy = (sum(span) / 2 for span in (base.elevation_deg, base.fovy_deg))
        stand = Stand(max(elevation, 0.0), 0.0, base.camera_distance[1], fovy)
        behind = looking.backdrop(self.background or "random")
        shown = (stand, behind, title, optimisation.spent, self.size, self.frames)
        return DistilledScene(optimisation.representation, *shown)
