"""The plugin `sds`: `genbench run plugin=sds prompt="..."`, a scene by score distillation sampling.

    t ~ U[t_min, t_max],  eps ~ N(0, I),  z_t = alpha_t z + sigma_t eps
    gradient on z = w(t) (eps_hat(z_t; t, y) - eps),   eps_hat with classifier-free guidance

(DreamFusion, arXiv:2209.14988, eq. 3). The noise that is subtracted is what gives it its variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from genbench.kinds import About, Context
from genbench.scenes.distillation import ScoreDistillation
from genbench.scenes.scores import Sight, Weighting, bounds, guided, weights


@dataclass(frozen=True)
class SDS(ScoreDistillation):
    """Score distillation sampling: the baseline of every method of this kind."""

    t_min: tuple[float, float] = (0.02, 0.02)  # least time, share of the schedule: first and last, linear between
    t_max: tuple[float, float] = (0.98, 0.98)  # largest time, likewise
    weighting: Weighting = "sds"  # w(t): sds is 1 - alpha_bar, fantasia3d sqrt(alpha_bar) times that

    about: ClassVar[About] = About(
        "Makes a scene by score distillation sampling: the prior's noise prediction against the noise that was added.",
        paper="Poole et al., DreamFusion: Text-to-3D using 2D Diffusion, ICLR 2023",
        url="https://arxiv.org/abs/2209.14988",
        families=("sd", "sdxl", "sd3", "flux", "pixart", "hunyuan", "toy"),
        cost="2 per camera and iteration",
    )
    recommended: ClassVar[Mapping[str, object]] = {"guidance_scale": 100.0}

    def direction(self, sight: Sight) -> Tensor:
        """w(t) (eps_hat - eps) / b."""
        z, prior, texts, noise = sight.z, sight.prior, sight.texts, sight.noise()
        t = sight.times(*bounds(sight, self.t_min, self.t_max))
        z_t = prior.noised(z, noise, t)
        negative, prompt = prior.eps((z_t, t, texts.negative), (z_t, t, texts.prompt))
        return weights(sight, t, self.weighting) * (guided(prompt, negative, sight.guidance_scale) - noise) / len(z)

    def evaluations(self, plain: int, ctx: Context) -> int:
        """Network evaluations of a scene."""
        return 2 * self.batch * self.iterations
