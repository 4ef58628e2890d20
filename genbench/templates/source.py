"""The model source `newname`: `genbench run model=newname prompt="red"`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from genbench.backbones.toy import ToyModel
from genbench.kinds import About, Model


@dataclass(frozen=True)
class Newname:
    """Opens the toy model; give the path of a diffusers folder instead: `return Path(__file__).parent / "weights"`."""

    recommended: ClassVar[Mapping[str, object]] = {
        "steps": 10,
        "guidance_scale": 2.0,
        "height": 16,
        "width": 16,
        "verifier": "toy",
    }
    about: ClassVar[About] = About(
        "One line: what this model draws.",
        contract=1,
        paper="Author et al., Title",
        url="",
        license="",
    )

    def open(self) -> Model:
        """Return a ready model, or the Path of a diffusers folder."""
        return ToyModel(recommended=self.recommended)
