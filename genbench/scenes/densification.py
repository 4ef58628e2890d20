"""Gaussians that split, double and vanish while a scene is optimised: gsplat's strategy, driven by what we render.

Adaptive density control as in arXiv:2308.04079. gsplat 1.5.3 never resets opacities (its `0 & step > 0` is no
condition, nerfstudio-project/gsplat#776), so that is done here.
"""

# pyright: basic
# gsplat is not typed; the signatures of this module are.

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from genbench.errors import MissingDependency, SceneError
from genbench.scenes.rendering import Rendered


@dataclass
class Densification:
    """A `Growth`. Thresholds are those of reconstruction; a distilled scene's gradients ask for others."""

    grow_grad2d: float = 2e-4  # mean length of a centre's gradient, picture of side 2, from which a Gaussian grows
    grow_scale3d: float = 0.01  # deviation, share of `scene_scale`, up to which it doubles, above which it splits
    prune_opa: float = 0.005  # opacity below which it vanishes
    prune_scale3d: float = 0.1  # deviation above which it vanishes, after the first reset
    start: int = 500  # step after which it begins
    stop: int = 15_000  # step at which it ends
    every: int = 100  # steps between two changes
    reset_every: int = 3000  # steps between two resets of all opacities to at most twice `prune_opa`; 0: never
    most: int = 1_000_000  # Gaussians from which none is added
    scene_scale: float = 1.0  # the scene's radius, in world units
    _state: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            from gsplat import DefaultStrategy
        except ImportError:
            raise MissingDependency("densification needs gsplat; install it: pip install 'genbench[3d]'") from None
        self._strategy = DefaultStrategy(
            prune_opa=self.prune_opa,
            grow_grad2d=self.grow_grad2d,
            grow_scale3d=self.grow_scale3d,
            prune_scale3d=self.prune_scale3d,
            refine_start_iter=self.start,
            refine_stop_iter=self.stop,
            refine_every=self.every,
            reset_every=self.reset_every or 10**9,
        )
        self._state = self._strategy.initialize_state(self.scene_scale)

    def before_backward(self, rendered: Rendered) -> None:
        assert rendered.means2d is not None
        rendered.means2d.retain_grad()

    def after_step(
        self,
        step: int,
        parameters: dict[str, nn.Parameter],
        optimisers: dict[str, Optimizer],
        rendered: Rendered,
        generator: torch.Generator,
    ) -> None:
        """Grow, prune and reset where it is time. Raises SceneError, changing no Gaussian, if none would be left."""
        before = dict(parameters)
        strategy = self._strategy
        if len(parameters["means"]) >= self.most:
            strategy = replace(strategy, grow_grad2d=float("inf"))
        with seeded(generator, parameters["means"].device):
            strategy.step_post_backward(parameters, optimisers, self._state, step, info_of(rendered))
        if not len(parameters["means"]):
            parameters.update(before)
            raise SceneError(
                f"step {step + 1} prunes the last Gaussian: all {len(before['means'])} have opacities below "
                f"{self.prune_opa} or deviations above {self.prune_scale3d * self.scene_scale:g}; they are kept"
            )
        if self.reset_every and 0 < step < self.stop and step % self.reset_every == 0:
            self._reset(parameters, optimisers)

    def _reset(self, parameters: dict[str, nn.Parameter], optimisers: dict[str, Optimizer]) -> None:
        from gsplat.strategy.ops import reset_opa

        reset_opa(parameters, optimisers, self._state, 2 * self.prune_opa)

    def state(self) -> dict[str, Any]:
        return {name: value.clone() if torch.is_tensor(value) else value for name, value in self._state.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._state = dict(state)


def info_of(rendered: Rendered) -> dict[str, Any]:
    """What gsplat's strategies read of a rendering."""
    cameras, _, height, width = rendered.rgb.shape
    return {
        "means2d": rendered.means2d,
        "radii": rendered.radii,
        "width": width,
        "height": height,
        "n_cameras": cameras,
        "gaussian_ids": None,
    }


@contextmanager
def seeded(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Let torch's own chance, which gsplat draws from, follow the generator; afterwards it is as before."""
    seed = int(torch.randint(2**62, (1,), generator=generator))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield
