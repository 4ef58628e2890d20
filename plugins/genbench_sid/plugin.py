"""The plugin `sid`: `genbench run plugin=sid prompt="..."`, one network evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from genbench.distilled import Student
from genbench.kinds import About


@dataclass(frozen=True)
class SiD(Student):
    """SiD (arXiv:2404.04057; text to image arXiv:2406.01561; few steps arXiv:2505.12674; flows arXiv:2509.25127)."""

    about: ClassVar[About] = About(
        "Draws in one step or a few, with a student distilled by matching its teacher's scores.",
        paper="Zhou et al., Score identity Distillation, ICML 2024; Long and Short Guidance in Score identity "
        "Distillation for One-Step Text-to-Image Generation, ICLR 2025",
        url="https://arxiv.org/abs/2406.01561",
        license="Apache-2.0",
        families=("sd", "sdxl", "sd3", "flux", "pixart", "hunyuan"),
        cost="1 per step; 1 step",
    )
    shipped: ClassVar[Path] = Path(__file__).parent / "weights"
    pickles: ClassVar[str] = "convert it: python -m genbench_sid.convert FILE.pkl STUDENT.safetensors --base MODEL"
