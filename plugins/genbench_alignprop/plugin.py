"""The plugin `alignprop`: `genbench run plugin=alignprop prompt="..."`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from genbench.finetuned import Finetuned, drawing
from genbench.kinds import About

ABOUT = About(
    summary="Reward finetuning by the gradient of a picture's reward through its sampling chain.",
    paper="Prabhudesai et al., Aligning Text-to-Image Diffusion Models with Reward Backpropagation",
    url="https://arxiv.org/abs/2310.03739",
    license="Apache-2.0",
    families=("sd", "sdxl", "sd3", "flux"),
)


@dataclass(frozen=True)
class AlignProp(Finetuned):
    """AlignProp (arXiv:2310.03739): a LoRA that raised a reward by its gradient through sampling."""

    about: ClassVar[About] = drawing(ABOUT, "Draws with a LoRA that raised a reward by its gradient through sampling.")
    shipped: ClassVar[Path] = Path(__file__).parent / "weights"
