"""The plugin `dragon`: `genbench run plugin=dragon prompt="..."`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from genbench.finetuned import Finetuned, drawing
from genbench.kinds import About

ABOUT = About(
    summary="Reward finetuning by contrast of sets: rewards of pictures or of whole distributions, no gradient needed.",
    paper="Bai et al., DRAGON: Distributional Rewards Optimize Diffusion Generative Models, TMLR",
    url="https://arxiv.org/abs/2504.15217",
    license="Apache-2.0",
    families=("sd", "sdxl", "sd3", "flux"),
)


@dataclass(frozen=True)
class Dragon(Finetuned):
    """DRAGON (arXiv:2504.15217): a LoRA made by contrast of the sets that a reward prefers and rejects."""

    about: ClassVar[About] = drawing(
        ABOUT, "Draws with a LoRA made by contrast of the sets that a reward prefers and rejects."
    )
    shipped: ClassVar[Path] = Path(__file__).parent / "weights"
