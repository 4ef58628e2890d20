"""The plugin `ism`: `genbench run plugin=ism prompt="..."`, a scene by interval score matching.

TSM whose target stands at s, with LucidDreamer's longer warm-up and no clipping (arXiv:2311.11284).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from genbench.kinds import About
from genbench.options import Range
from genbench_tsm.tsm import TSM, Bound


@dataclass(frozen=True)
class ISM(TSM):
    """Interval score matching: the guided prediction at t against the unguided one at s of the same trajectory."""

    ratio: Annotated[float, Range(0, 1)] | None = 0.0  # where the target stands: 0 at s
    clip_value: Bound | None = None  # bound of a pixel's gradient; none: no bound
    clip_depth_value: Bound | None = None  # bound of a depth's gradient, in mean Gaussian sizes; none: no bound

    about: ClassVar[About] = About(
        "Makes a scene by interval score matching: two points of the rendering's inverted trajectory, the target at "
        "the nearer one.",
        paper="Liang et al., LucidDreamer: Towards High-Fidelity Text-to-3D Generation via Interval Score Matching",
        url="https://arxiv.org/abs/2311.11284",
        families=("sd", "sdxl", "sd3", "flux", "pixart", "hunyuan", "toy"),
        cost="4 to 8 per camera and iteration",
    )
