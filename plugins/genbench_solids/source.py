"""The name `solids` as a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from genbench.kinds import About

from genbench_solids import weights


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
    """The embedded model: coloured geometric solids at 64x64; `solids/weak` is an earlier state of the same training."""

    about: ClassVar[About] = About(
        summary="embedded text-to-image model of coloured geometric solids, 64x64",
        license="Apache-2.0",
        families=("sd",),
        prediction_types=("v_prediction",),
    )
    recommended: ClassVar[Mapping[str, object]] = {
        "steps": 30, "guidance_scale": 4.0, "height": 64, "width": 64, "verifier": "solids",
    }  # fmt: skip
    views: ClassVar[Mapping[str, Path]] = Views()

    def open(self) -> Path:
        """The pipeline's folder. Raises ModelError where it is missing."""
        return weights.require(weights.PIPELINE)
