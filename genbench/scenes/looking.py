"""How scenes are looked at while they are made: where cameras stand, what lies behind, what keeps scenes plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from genbench.errors import UsageError
from genbench.models import source_of
from genbench.options import Range
from genbench.scenes import prior as priors, regularisers
from genbench.scenes.cameras import CameraLaw, Cameras, orbit
from genbench.scenes.prior import Prior
from genbench.scenes.prompting import check_words
from genbench.scenes.rendering import Rendered, engine
from genbench.scenes.views import Stand

Span = tuple[float, float]

Backdrop = Literal["random", "white", "black", "grey"]
GREYS, TINT = (0.74, 0.84), 0.04
"""The lightness of grey backdrops, and how far each colour may lie from it."""


@dataclass(frozen=True)
class Stops:
    """Cameras at given azimuths, each somewhere within `jitter_deg`; otherwise as the law says."""

    law: CameraLaw
    azimuths: tuple[float, ...]
    jitter_deg: float

    def draw(self, count: int, width: int, height: int, generator: torch.Generator) -> Cameras:
        """`count` cameras, one stop after the other from a random one on, so that a batch looks around."""
        drawn = self.law.draw(count, width, height, generator)
        first = int(torch.randint(len(self.azimuths), (1,), generator=generator))
        stops = torch.tensor([self.azimuths[(first + i) % len(self.azimuths)] for i in range(count)])
        jitter = self.jitter_deg * (2 * torch.rand(count, generator=generator) - 1)
        return orbit(drawn.elevation_deg, stops + jitter, drawn.camera_distance, drawn.fovy_deg, width, height)


def law_of(
    elevation_deg: Sequence[float],
    azimuth_deg: Sequence[float],
    camera_distance: Sequence[float],
    fovy_deg: Sequence[float],
    stops: Sequence[float] = (),
    jitter_deg: float = 0.0,
) -> CameraLaw | Stops:
    """The law of a training. Raises UsageError where a range is none."""
    ranges = {
        "elevation_deg": elevation_deg,
        "azimuth_deg": azimuth_deg,
        "camera_distance": camera_distance,
        "fovy_deg": fovy_deg,
    }
    for name, span in ranges.items():
        if span[0] > span[1]:
            raise UsageError(f"{name}={span[0]:g},{span[1]:g} is no range; give the smaller number first")
    if camera_distance[0] <= 0 or not 0 < fovy_deg[0] <= fovy_deg[1] < 180 or max(map(abs, elevation_deg)) >= 90:
        raise UsageError("camera_distance is above 0, fovy_deg between 0 and 180, elevation_deg between -90 and 90")
    law = CameraLaw(*((float(span[0]), float(span[1])) for span in ranges.values()))
    return Stops(law, tuple(stops), jitter_deg) if stops else law


def backdrops(kind: Backdrop, count: int, generator: torch.Generator) -> Tensor:
    """A colour in [0, 1] behind each of `count` pictures, (count, 3). `grey` is a light one, hardly tinted."""
    if kind in ("white", "black"):
        return torch.full((count, 3), float(kind == "white"))
    if kind == "random":
        return torch.rand(count, 3, generator=generator)
    light = GREYS[0] + (GREYS[1] - GREYS[0]) * torch.rand(count, 1, generator=generator)
    return light + TINT * (2 * torch.rand(count, 3, generator=generator) - 1)


def backdrop(kind: Backdrop) -> Tensor:
    """The colour behind finished pictures, (3,): the middle of what is drawn; white where any colour may be."""
    level = {"random": 1.0, "white": 1.0, "black": 0.0, "grey": sum(GREYS) / 2}[kind]
    return torch.full((3,), level)


@dataclass(frozen=True)
class Looking:
    """The options of whatever is taught by a prior that sees its renderings.

    An option whose default is none takes what the model's source recommends for scenes (its mapping `scene`), else
    what is published.
    """

    batch: Annotated[int, Range(1)] = 4  # cameras of an iteration
    resolution: Annotated[int, Range(8)] | None = None  # pixels of a rendering's sides; none: what the prior sees
    engine: Literal["auto", "torch", "numba", "gsplat"] = "auto"  # renderer; auto: gsplat on a GPU, else torch
    elevation_deg: Span | None = None  # range of camera heights; none: as the model recommends, else -10,45
    azimuth_deg: Span = (-180.0, 180.0)  # range of camera directions; 0 is the front
    azimuth_stops: tuple[float, ...] | None = None  # directions that cameras keep to; none: the model's, else all
    azimuth_jitter_deg: Annotated[float, Range(0)] = 10.0  # how far from a stop they stand
    camera_distance: Span | None = None  # range of distances; none: as the model recommends, else 3.5,5
    fovy_deg: Span | None = None  # range of fields of view; none: as the model recommends, else 18,35
    background: Backdrop | None = None  # behind the scene; none: as the model recommends, else random
    view_words: tuple[str, ...] | None = None  # for front, side, back (and above); none: the model's own
    view_blend: bool = True  # blend the words' encodings by the azimuth; false: the nearest
    lambda_tv: Annotated[float, Range(0)] = 0.0  # total variation of colours and nearness
    lambda_scale: Annotated[float, Range(0)] = 0.0  # mean size of the Gaussians
    lambda_sparsity: Annotated[float, Range(0)] | None = None  # how much is covered; none: the model's, or 0
    lambda_opaque: Annotated[float, Range(0)] = 0.0  # what is half covered

    published: ClassVar[Mapping[str, object]] = {
        "elevation_deg": (-10.0, 45.0),
        "azimuth_stops": (),
        "camera_distance": (3.5, 5.0),
        "fovy_deg": (18.0, 35.0),
        "background": "random",
        "sh_degree": 0,
        "rate": 1.0,
        "decay": 1.0,
        "lambda_sparsity": 0.0,
        "view_words": ("front view", "side view", "back view"),
        "flip": 0.5,
        "depth_share": 0.2,
    }

    def check_looking(self, model: str, family: str) -> None:
        """Refuse a model that sees nothing, cameras and words that are none, a renderer that cannot run."""
        settled: Looking = self.settled(model)
        priors.check_encoder(model, family)
        settled.law()
        check_words(settled.view_words or ())
        engine(self.engine, "cuda" if self.engine == "gsplat" and torch.cuda.is_available() else "cpu")

    def settled(self, model: str) -> Any:
        """The method with every open option as the model's source recommends, else as published."""
        source = source_of(model)
        told: Mapping[str, object] = {**self.published, **getattr(source, "scene", {})}
        names = [each.name for each in fields(self) if getattr(self, each.name) is None and each.name in told]
        return replace(self, **{name: told[name] for name in names})

    def law(self) -> CameraLaw | Stops:
        """Where cameras stand. Raises UsageError."""
        spans = (self.elevation_deg, self.azimuth_deg, self.camera_distance, self.fovy_deg)
        known = [(0.0, 0.0) if span is None else span for span in spans]
        return law_of(*known, stops=self.azimuth_stops or (), jitter_deg=self.azimuth_jitter_deg)

    def stand(self) -> Stand:
        """From where a finished scene is shown: in front, the middle of where cameras stand, the farthest."""
        law = self.law()
        base = law.law if isinstance(law, Stops) else law
        elevation, fovy = (sum(span) / 2 for span in (base.elevation_deg, base.fovy_deg))
        return Stand(max(elevation, 0.0), 0.0, base.camera_distance[1], fovy)

    def cameras(self, prior: Prior, generator: torch.Generator) -> Cameras:
        """The cameras of an iteration."""
        width, height = (self.resolution or size for size in (prior.width, prior.height))
        return self.law().draw(self.batch, width, height, generator)

    def backdrops(self, generator: torch.Generator) -> Tensor:
        """What lies behind each picture of an iteration, (b, 3)."""
        return backdrops(self.background or "random", self.batch, generator)

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
