"""LAION's aesthetic predictors: affine maps on the unit-length picture features of OpenAI's CLIP ViT-L/14.

Both published layouts are read. The improved predictor (`sac+logos+ava1-l14-linearMSE.pth`) holds five layers,
`layers.0` ... `layers.7`, with dropout and no activation between them; the first one (`sa_0_4_vit_l_14_linear.pth`) one
layer, `weight` and `bias`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from genbench.errors import ModelError
from genbench.kinds import About
from genbench_scorers import clip, weights
from genbench_scorers.batches import in_batches
from genbench_scorers.clip import Pictures, Rows
from genbench_scorers.pixels import CROPPED

Layers = tuple[tuple[Tensor, Tensor], ...]
PUBLISHED = (
    "hf:trl-lib/ddpo-aesthetic-predictor/aesthetic-model.pth"  # sac+logos+ava1-l14-linearMSE.pth, as TRL names it
)


def layers_of(state: Mapping[str, Tensor]) -> Layers:
    """The affine maps (weight, bias) in order, of either layout. Raises KeyError for a third one."""
    if set(state) == {"weight", "bias"}:
        return ((state["weight"], state["bias"]),)
    numbers = sorted({int(name.split(".")[1]) for name in state if name.startswith("layers.")})
    if not numbers or set(state) != {f"layers.{n}.{part}" for n in numbers for part in ("weight", "bias")}:
        raise KeyError("layers.0.weight")
    return tuple((state[f"layers.{n}.weight"], state[f"layers.{n}.bias"]) for n in numbers)


def rated(layers: Layers, features: Tensor) -> Tensor:
    """Unit-length features (n, d) -> ratings (n,)."""
    return reduce(lambda x, layer: F.linear(x, *layer), layers, features)[:, 0]


@cache
def opened(file: Path, device: str) -> Layers:
    """The layers of a file, on a device. Raises ModelError for an unknown layout."""
    try:
        found = layers_of(weights.state_dict(file))
    except KeyError as error:
        raise ModelError(f"{file} has neither layout of the aesthetic predictor: it lacks weight or {error}") from error
    return tuple((weight.float().to(device), bias.float().to(device)) for weight, bias in found)


@dataclass(frozen=True)
class Aesthetic:
    """How much people would like the picture, about 1 to 10; the prompt plays no part."""

    weights: str = PUBLISHED  # the predictor: a file of either layout, or hf:org/name/file
    clip: str = "openai/clip-vit-large-patch14"  # the CLIP it was trained on: Hub id or transformers folder
    batch: Pictures = 32  # pictures through the network at once

    resize: ClassVar[str] = CROPPED
    about: ClassVar[About] = About(
        "LAION aesthetic predictor: a rating of the picture alone, about 1 to 10.",
        paper="Schuhmann et al., LAION-5B: An open large-scale dataset, NeurIPS 2022 (improved-aesthetic-predictor)",
        url="https://github.com/christophschuhmann/improved-aesthetic-predictor",
        license="Apache-2.0 (improved predictor), MIT (first predictor; CLIP)",
        cost="one ViT-L/14 forward per picture",
    )

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Rows | None = None) -> Tensor:
        """(b,), differentiable in `images` (b, 3, h, w) in [0, 1]."""
        file, folder = self._files()
        model, layers = clip.opened(folder, images.device), opened(file, str(images.device))
        takes, gives = layers[0][0].shape[1], model.config.projection_dim
        if takes != gives:
            raise ModelError(f"{file} rates features of {takes} numbers and aesthetic.clip={self.clip} gives {gives}")
        judge = lambda x, _: rated(layers, clip.image_features(model, x))  # noqa: E731
        return in_batches(images, prompts, self.batch, judge)

    def version(self) -> str:
        """What predictor and CLIP hash to."""
        return weights.version(*self._files())

    def _files(self) -> tuple[Path, Path]:
        file = weights.found_file(self.weights, "aesthetic.weights")
        return file, weights.found_folder(self.clip, "aesthetic.clip")
