"""The plugin `fdistill`: `genbench run plugin=fdistill prompt="..."`, one network evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from genbench.distilled import Student
from genbench.kinds import About


@dataclass(frozen=True)
class FDistill(Student):
    """f-distill (arXiv:2502.15681), and DMD2 (arXiv:2405.14867), its reverse Kullback-Leibler case."""

    about: ClassVar[About] = About(
        "Draws in one step or a few, with a student distilled by an f-divergence between it and its teacher.",
        paper="Xu, Nie, Vahdat: One-step Diffusion Models with f-Divergence Distribution Matching",
        url="https://arxiv.org/abs/2502.15681",
        license="none published; those of DMD2: CC-BY-NC-SA-4.0",
        families=("sd", "sdxl", "sd3", "flux", "pixart", "hunyuan"),
        cost="1 per step; 1 step",
    )
    shipped: ClassVar[Path] = Path(__file__).parent / "weights"
