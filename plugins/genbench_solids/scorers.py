"""What `solids` offers to be chosen by name: two readers and a CLIP score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from genbench.errors import UsageError
from genbench.kinds import About
from genbench_solids import weights
from genbench_solids.captions import Attributes, parse
from genbench_solids.reader import Reading, named, read
from genbench_solids.tokenizer import LENGTH

IMAGE_MEAN, IMAGE_STD = 0.6, 0.3
PARTS = {"arrangement": (0,), "view": (1, 2), "colour": (3, 6, 9), "shape": (4, 7, 10), "size": (5, 8, 11)}
RESIZE = "to 64 x 64, bilinear, antialiased where both sides are larger"
Rows = Sequence[Mapping[str, object]]


def as_caption(prompt: str) -> Attributes:
    """What a prompt says. Raises UsageError for a prompt outside the grammar."""
    attributes = parse(prompt)
    if attributes is None:
        raise UsageError(
            f"the reader of solids cannot judge {prompt[:80]!r}: it reads captions such as "
            "'a red cube left of a blue sphere'; choose verifier=solids-clip for free text"
        )
    return attributes


def targets(prompts: Sequence[str]) -> Tensor:
    """What the prompts name, (b, 12), see `reader.named`. Raises UsageError for a prompt outside the grammar."""
    return torch.tensor([named(as_caption(prompt)) for prompt in prompts])


def _read(name: Literal["benchmark", "verifier"], images: Tensor, prompts: Sequence[str]) -> tuple[Reading, Tensor]:
    return read(weights.reader(name, str(images.device)), images), targets(prompts).to(images.device)


@dataclass(frozen=True)
class SolidsVerifier:
    """Log-probability in (-inf, 0] that the picture shows what its caption says, by the search verifier."""

    resize: ClassVar[str] = RESIZE
    about: ClassVar[About] = About(
        summary="graded reading of solids: log-probability of the caption's attributes", license="Apache-2.0"
    )

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Rows | None = None) -> Tensor:
        """(b,), differentiable in `images` (b, 3, h, w) in [0, 1]."""
        reading, wanted = _read("verifier", images, prompts)
        return reading.logp_of(wanted)

    def details(self, *, images: Tensor, prompts: Sequence[str], rows: Rows | None = None) -> dict[str, Tensor]:
        """The same, and by part: log-probability of arrangement, view, colours, shapes and sizes, each (b,)."""
        reading, wanted = _read("verifier", images, prompts)
        parts = {part: reading.logp_of(_only(wanted, columns)) for part, columns in PARTS.items()}
        return {"": reading.logp_of(wanted), **parts}


@dataclass(frozen=True)
class SolidsExact:
    """1 where the benchmark reader reads every attribute of the caption off the picture, else 0."""

    resize: ClassVar[str] = RESIZE
    about: ClassVar[About] = About(summary="exact reading of solids: 1 or 0", license="Apache-2.0")

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Rows | None = None) -> Tensor:
        """(b,) of `images` (b, 3, h, w) in [0, 1]."""
        reading, wanted = _read("benchmark", images, prompts)
        return reading.exact(wanted)

    def details(self, *, images: Tensor, prompts: Sequence[str], rows: Rows | None = None) -> dict[str, Tensor]:
        """The same, by part, and the benchmark reader's own log-probability as `logp`; each (b,)."""
        reading, wanted = _read("benchmark", images, prompts)
        parts = {part: reading.exact(_only(wanted, columns)) for part, columns in PARTS.items()}
        return {"": reading.exact(wanted), **parts, "logp": reading.logp_of(wanted)}


def _only(rows: Tensor, columns: tuple[int, ...]) -> Tensor:
    kept = torch.full_like(rows, -1)
    kept[:, columns] = rows[:, columns]
    return kept


@dataclass(frozen=True)
class SolidsClip:
    """Cosine of picture and text in [-1, 1] by the tiny CLIP; also the feature space of set metrics."""

    resize: ClassVar[str] = "to 64 x 64, bilinear antialiased"
    about: ClassVar[About] = About(summary="tiny CLIP of solids: score and encoder", license="Apache-2.0")

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Rows | None = None) -> Tensor:
        """(b,), differentiable in `images` (b, 3, h, w) in [0, 1]."""
        return (self.embed_images(images) * self.embed_texts(prompts).to(images.device)).sum(1)

    def embed_images(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, 128), unit length; differentiable."""
        model = weights.clip(str(images.device))
        if images.shape[-2:] != (64, 64):
            images = F.interpolate(images, (64, 64), mode="bilinear", antialias=True, align_corners=False)
        pixels = (images.float() - IMAGE_MEAN) / IMAGE_STD
        return F.normalize(model.visual_projection(model.vision_model(pixels).pooler_output), dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """n texts -> (n, 128), unit length."""
        model = weights.clip()
        ids = weights.tokenizer()(
            list(texts), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
        ).input_ids
        return F.normalize(model.text_projection(model.text_model(input_ids=ids).pooler_output), dim=1)
