"""Whether an encoder finds a picture's own prompt among many (R-precision), and whether views of a scene agree.

Both look with a named encoder, such as clip or solids-clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

import genbench
from genbench.errors import UsageError
from genbench.kinds import About, Encoder
from genbench.prompts import read_rows
from genbench_scorers.clip import Rows

AS_ENCODER = "as its encoder"


@cache
def looker(name: str) -> Encoder:
    """The encoder of that name. Raises PluginError where there is none."""
    build: Any = genbench.build  # the package's front says no types
    return build(name, {}, ("encoder",))


def version_of(name: str) -> str:
    """What an encoder says of weights that lie outside its package, else its name."""
    told: Callable[[], str] | None = getattr(looker(name), "version", None)
    return name if told is None else f"{name} {told()}"


@cache
def pool(file: Path) -> tuple[str, ...]:
    """The distinct prompts of a file. Raises UsageError for a file that cannot be read."""
    return tuple(dict.fromkeys(str(row["prompt"]) for row in read_rows(str(file))))


@dataclass(frozen=True)
class RPrecision:
    """1 where the text nearest to a picture, among those of a file, is its own prompt (arXiv:2112.01455)."""

    prompts: Path | None = None  # file of the texts to choose among; its size sets how hard it is
    encoder: str = "clip"  # what pictures and texts are compared by

    resize: ClassVar[str] = AS_ENCODER
    about: ClassVar[About] = About(
        "Whether an encoder finds a picture's own prompt among those of a file.",
        paper="Jain et al., Zero-Shot Text-Guided Object Generation with Dream Fields, CVPR 2022",
        url="https://arxiv.org/abs/2112.01455",
        license="Apache-2.0",
        cost="one pass of the encoder per picture",
    )

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Rows = None) -> Tensor:
        """1.0 or 0.0 (b,) of images (b, 3, h, w) in [0, 1]. Raises UsageError without a file, or for another prompt."""
        if self.prompts is None:
            raise UsageError("r-precision chooses among prompts; give their file: r-precision.prompts=FILE")
        texts = pool(self.prompts)
        strange = [prompt for prompt in prompts if prompt not in texts]
        if strange:
            raise UsageError(f"r-precision.prompts={self.prompts} does not hold '{strange[0]}'")
        with torch.no_grad():
            pictures, words = looker(self.encoder).embed_images(images), looker(self.encoder).embed_texts(texts)
        nearest = (normalize(pictures.float(), dim=1) @ normalize(words.float(), dim=1).T).argmax(1)
        return torch.tensor([float(texts[i] == prompt) for i, prompt in zip(nearest.tolist(), prompts, strict=True)])

    def version(self) -> str:
        """Which encoder it is."""
        return version_of(self.encoder)


@dataclass(frozen=True)
class ViewAgreement:
    """How alike an encoder finds neighbouring views of one scene: the mean cosine of their features."""

    encoder: str = "clip"  # whose features are compared

    resize: ClassVar[str] = AS_ENCODER
    about: ClassVar[About] = About(
        "How alike neighbouring views of a scene are to an encoder, in [-1, 1]; for scenes alone.",
        license="Apache-2.0",
        cost="one pass of the encoder per view",
    )

    def version(self) -> str:
        """Which encoder it is."""
        return version_of(self.encoder)

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Rows = None) -> Tensor:
        """Raises UsageError: one picture has no neighbours."""
        raise UsageError("view-agreement compares the views of a scene; a single picture has none")

    def score_views(self, *, views: Tensor, prompts: Sequence[str], rows: Rows = None) -> Tensor:
        """(b,) of scenes seen from v directions once around, (b, v, 3, h, w) in [0, 1]."""
        if views.shape[1] < 2:
            return self.score(images=views[:, 0], prompts=prompts)
        with torch.no_grad():
            flat = looker(self.encoder).embed_images(views.flatten(0, 1))
        features = normalize(flat.float(), dim=1).unflatten(0, views.shape[:2])
        return (features * features.roll(1, 1)).sum(-1).mean(1).cpu()
