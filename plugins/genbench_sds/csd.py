"""The plugin `csd`: `genbench run plugin=csd prompt="..."`, a scene by classifier score distillation.

    gradient on z = w(t) (eps(z_t; t, y) - eps(z_t; t, negative))

(Text-to-3D with Classifier Score Distillation, arXiv:2310.19415, eq. 7): what guidance adds, alone. A scale would
multiply the gradient and change nothing that Adam sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from genbench.kinds import About
from genbench.scenes.scores import Sight, bounds, weights
from genbench_sds.sds import SDS


@dataclass(frozen=True)
class CSD(SDS):
    """Classifier score distillation: the direction of guidance without the rest."""

    about: ClassVar[About] = About(
        "Makes a scene by classifier score distillation: what guidance adds to the prior's prediction, alone.",
        paper="Yu et al., Text-to-3D with Classifier Score Distillation, ICLR 2024",
        url="https://arxiv.org/abs/2310.19415",
        families=("sd", "sdxl", "sd3", "flux", "pixart", "hunyuan", "toy"),
        cost="2 per camera and iteration",
    )

    def direction(self, sight: Sight) -> Tensor:
        """w(t) (eps_y - eps_negative) / b."""
        noise, t = sight.noise(), sight.times(*bounds(sight, self.t_min, self.t_max))
        z_t = sight.prior.noised(sight.z, noise, t)
        negative, prompt = sight.prior.eps((z_t, t, sight.texts.negative), (z_t, t, sight.texts.prompt))
        return weights(sight, t, self.weighting) * (prompt - negative) / len(z_t)
