"""The plugin `tsm`: `genbench run plugin=tsm prompt="..."`, a scene by trajectory score matching.

    z_0 -> z_s          by DDIM's inversion in strides of `stride`, told nothing
    z_mu, z_t           by one step each from z_s, with the same e_s = eps(z_s; s)
    gradient on z = guidance_weight sqrt((1 - alpha_bar_t) / alpha_bar_t) (eps_hat(z_t; t, y) - eps(z_mu; mu))

ISM (arXiv:2311.11284) subtracts e_s itself; TSM a prediction between s and t, mu = s + r (t - s) (Dreamer XL,
arXiv:2405.11252). The paper has r = gamma, its code r = sqrt(1 - gamma^2): with gamma = 0.3 one stands near s, the
other near t. `reading` chooses; `ratio` is r itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from genbench.kinds import About
from genbench.options import Range
from genbench.scenes.distillation import ScoreDistillation
from genbench.scenes.regularisers import disparity
from genbench.scenes.rendering import Rendered
from genbench.scenes.scores import Sight, guided
from genbench_tsm.clipping import clip_depth, clip_pixels
from genbench_tsm.trajectory import Times, inverted, times_of

Bound = Annotated[float, Range(0, low_open=True)]


@dataclass(frozen=True)
class TSM(ScoreDistillation):
    """Trajectory score matching: two points of the rendering's own inverted trajectory, one guided, one not."""

    reading: Literal["code", "paper"] = "code"  # of gamma: r = sqrt(1 - gamma^2), or r = gamma
    gamma: Annotated[float, Range(0, 1)] = 0.3  # where the target stands, as `reading` takes it
    ratio: Annotated[float, Range(0, 1)] | None = None  # r itself: 0 at s, which is ISM; 1 at t; none: by gamma
    interval: tuple[float, float] = (0.1, 0.08)  # t - s, share of the schedule: at first and after the warm-up
    warmup: Annotated[float, Range(0, 1)] = 0.3  # share of the iterations in which the largest time falls
    t_min: Annotated[float, Range(0, 1)] = 0.02  # least time, share of the schedule
    t_max: tuple[float, float] = (0.98, 0.5)  # largest time, at first and after the warm-up
    stride: Annotated[float, Range(0, 1)] = 0.2  # of the coarse inversion from z_0 to z_s
    strides: Annotated[int, Range(1)] = 5  # at most so many of them, else it begins later
    offset_noise: Annotated[float, Range(0)] = 0.1  # share of the first noise that a whole channel has in common
    guidance_weight: Annotated[float, Range(0)] = 0.1  # lambda, of the gradient
    lambda_tv: Annotated[float, Range(0)] = 1.0  # total variation of colours and nearness
    lambda_scale: Annotated[float, Range(0)] = 1.0  # mean size of the Gaussians
    clip_value: Bound | None = 0.05  # bound of a pixel's gradient; none: no bound
    clip_depth_value: Bound | None = 0.01  # bound of a depth's gradient, in mean Gaussian sizes; none: no bound
    flip: Annotated[float, Range(0, 1)] | None = None  # share of iterations seen in a mirror; none: the model's, or 0.5
    depth_share: Annotated[float, Range(0, 1)] | None = None  # of iterations that see the depth; none: likewise, or 0.2

    about: ClassVar[About] = About(
        "Makes a scene by trajectory score matching: two points of the rendering's inverted trajectory against "
        "each other, gradients clipped pixel by pixel.",
        paper="Miao et al., Dreamer XL: Towards High-Resolution Text-to-3D Generation via Trajectory Score Matching",
        url="https://arxiv.org/abs/2405.11252",
        families=("sd", "sdxl", "sd3", "flux", "pixart", "hunyuan", "toy"),
        cost="5 to 9 per camera and iteration",
    )
    recommended: ClassVar[Mapping[str, object]] = {"guidance_scale": 7.5}

    @property
    def r(self) -> float:
        """Where the target stands between s (0) and t (1)."""
        if self.ratio is not None:
            return self.ratio
        return self.gamma if self.reading == "paper" else (1 - self.gamma**2) ** 0.5

    def times(self, sight: Sight) -> Times:
        """The points of an iteration, the same for all its cameras."""
        warm = 1 - min(sight.progress / self.warmup, 1.0) if self.warmup else 0.0
        return times_of(sight, warm, self.r, self.interval, self.t_min, self.t_max)

    def direction(self, sight: Sight) -> Tensor:
        """lambda sqrt((1 - alpha_bar_t) / alpha_bar_t) (eps_hat - e*), not divided by the number of cameras."""
        prior, texts, at = sight.prior, sight.texts, self.times(sight)
        noise = self._first_noise(sight)
        z_s = inverted(sight, noise, at.s, self.stride, self.strides)
        s, mu, t = (torch.full((len(z_s),), index, device=z_s.device) for index in (at.s, at.mu, at.t))
        (e_s,) = prior.eps((z_s, s, texts.empty))
        z_mu, z_t = (prior.moved(z_s, e_s, s, there) for there in (mu, t))
        target = e_s if at.mu == at.s else prior.eps((z_mu, mu, texts.empty))[0]
        negative, prompt = prior.eps((z_t, t, texts.negative), (z_t, t, texts.prompt))
        weight = self.guidance_weight * prior.sigma(t) / prior.alpha(t)
        return weight * (guided(prompt, negative, sight.guidance_scale) - target)

    def _first_noise(self, sight: Sight) -> Tensor:
        shared = torch.randn((1, sight.z.shape[1], 1, 1), generator=sight.generator, dtype=sight.z.dtype)
        return sight.noise() + self.offset_noise * shared.to(sight.z)

    def pictures(self, rendered: Rendered, size: Tensor, generator: torch.Generator) -> Tensor:
        """Colours, or now and then depths, perhaps in a mirror; their gradients bounded on the way back."""
        flip = float(torch.rand(1, generator=generator)) < (self.flip or 0.0)
        depth = float(torch.rand(1, generator=generator)) < (self.depth_share or 0.0)
        rgb, near = rendered.rgb, disparity(rendered)
        if self.clip_value is not None and rgb.requires_grad:
            bound = self.clip_value
            rgb.register_hook(lambda gradient: clip_pixels(gradient, bound))
        if depth and self.clip_depth_value is not None and near.requires_grad:
            deep = self.clip_depth_value
            near.register_hook(lambda gradient: clip_depth(gradient, deep, size))
        seen = near.expand_as(rgb) if depth else rgb
        return seen.flip(-1) if flip else seen
