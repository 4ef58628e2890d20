"""The name `solids` as a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from genbench.errors import UsageError
from genbench.kinds import About
from genbench_solids import weights
from genbench_solids.captions import parse


class Views(Mapping[str, Path]):
    """Further folders by name; `weak` is put together when it is asked for."""

    def __getitem__(self, name: str) -> Path:
        if name != "weak":
            raise KeyError(name)
        return weights.weak_pipeline()

    def __iter__(self) -> Iterator[str]:
        return iter(("weak",))

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True)
class Solids:
    """The embedded model: coloured geometric solids, 64x64; `solids/weak` is an earlier state of the same training."""

    about: ClassVar[About] = About(
        summary="embedded text-to-image model of coloured geometric solids, 64x64",
        license="Apache-2.0",
        families=("sd",),
        prediction_types=("v_prediction",),
    )
    recommended: ClassVar[Mapping[str, object]] = {
        "steps": 30, "guidance_scale": 2.0, "height": 64, "width": 64, "verifier": "solids",
        "batch_size": 8,
    }  # fmt: skip
    scene: ClassVar[Mapping[str, object]] = {
        "elevation_deg": (22.0, 29.0), "azimuth_stops": (0.0, 90.0, 180.0, 270.0), "camera_distance": (3.92, 4.16),
        "fovy_deg": (28.65, 28.65), "background": "grey", "view_words": (), "sh_degree": 0, "flip": 0.0,
        "depth_share": 0.0, "rate": 3.0, "decay": 0.05, "lambda_sparsity": 10.0,
    }  # fmt: skip
    """How a scene is looked at: as the pictures were, whose cubes all stand at one angle to the camera."""
    views: ClassVar[Mapping[str, Path]] = Views()
    encoder: ClassVar[str] = "solids-clip"

    def open(self) -> Path:
        """The pipeline's folder. Raises ModelError where it is missing."""
        return weights.require(weights.PIPELINE)

    def reference(self, prompts: Sequence[str], seed: int) -> Tensor:
        """True pictures of the prompts by the renderer, (n, 3, 64, 64) in [0, 1]; what set metrics compare with.

        Raises UsageError for a prompt outside the grammar.
        """
        from genbench_solids.training.data import render_rows

        shown = [parse(prompt) for prompt in prompts]
        unknown = [prompt for prompt, attributes in zip(prompts, shown, strict=True) if attributes is None]
        if unknown:
            raise UsageError(f"the renderer of solids cannot draw {unknown[0][:80]!r}; give pictures: reference=FOLDER")
        rows = torch.tensor([attributes.row() for attributes in shown if attributes is not None])
        images, _ = render_rows(rows, torch.Generator().manual_seed(seed))
        return images.float() / 255

    def captions(self, count: int, seed: int) -> list[dict[str, object]]:
        """Prompt rows to train on: what the model was trained on, nothing that it is tested with."""
        from genbench_solids.holdout import training_prompts

        return training_prompts(count, seed)


@dataclass(frozen=True)
class Solids32:
    """Renders of solids without a text, 32x32, in pixel space: shaped as models of CIFAR-10 are."""

    about: ClassVar[About] = About(
        summary="embedded unconditional model of renders, 32x32 in pixel space",
        license="Apache-2.0",
        families=("unconditional",),
        prediction_types=("v_prediction",),
    )
    recommended: ClassVar[Mapping[str, object]] = {
        "steps": 50, "guidance_scale": 1.0, "height": 32, "width": 32, "batch_size": 16,
    }  # fmt: skip
    encoder: ClassVar[str] = "solids-clip"

    def open(self) -> Path:
        """The pipeline's folder. Raises ModelError where it is missing."""
        return weights.require(weights.PIXELS)

    def reference(self, prompts: Sequence[str], seed: int) -> Tensor:
        """True pictures, one for each prompt whatever it says, (n, 3, 32, 32) in [0, 1]: what it was trained on."""
        from genbench_solids.training.data import draw_attributes, render_rows
        from genbench_solids.training.pixels import small

        shown = draw_attributes("train", -1 - seed, len(prompts))  # no shard of the training has such a number
        rows = torch.tensor([attributes.row() for attributes in shown])
        images, _ = render_rows(rows, torch.Generator().manual_seed(seed))
        return small(images) / 2 + 0.5
