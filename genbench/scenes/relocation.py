"""Gaussians as samples of a Markov chain (3DGS-MCMC, arXiv:2404.09591): dead ones move to live ones, all wander.

The semantics of gsplat's MCMCStrategy, whose step needs CUDA; this one runs anywhere, and its binomial sums in double
precision.
"""

# pyright: basic
# gsplat is not typed; the signatures of this module are.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genbench.errors import SceneError
from genbench.scenes.projection import gsplat_functions
from genbench.scenes.rendering import Rendered

MOST_COPIES = 51
"""Gaussians that one becomes at most in a move."""
STEEPNESS, NEARLY_CLEAR = 100.0, 0.995


@dataclass
class Relocation:
    """A `Growth` without thresholds on gradients."""

    most: int = 1_000_000  # Gaussians at most
    noise: float = 5e5  # of wandering, in units of the centres' learning rate
    start: int = 500  # step after which Gaussians move and come
    stop: int = 25_000  # step at which that ends; they wander on
    every: int = 100  # steps between two moves
    min_opacity: float = 0.005  # at which a Gaussian is dead
    growth: float = 1.05  # factor of their number at each move

    def before_backward(self, rendered: Rendered) -> None:
        pass

    def after_step(
        self,
        step: int,
        parameters: dict[str, nn.Parameter],
        optimisers: dict[str, Optimizer],
        rendered: Rendered,
        generator: torch.Generator,
    ) -> None:
        """Move, add, wander. Raises SceneError where every Gaussian is dead."""
        with torch.no_grad():
            if self.start < step < self.stop and step % self.every == 0:
                self._move(parameters, optimisers, generator)
                self._add(parameters, optimisers, generator)
            rate = optimisers["means"].param_groups[0]["lr"]
            parameters["means"].add_(wandering(parameters, rate * self.noise, generator))

    def _move(self, parameters: Any, optimisers: Any, generator: torch.Generator) -> None:
        opacities = parameters["opacities"].sigmoid()
        dead, alive = ((opacities <= self.min_opacity) == side for side in (True, False))
        if not dead.any():
            return
        if not alive.any():
            raise SceneError(f"no Gaussian is left: all {len(dead)} have opacities of at most {self.min_opacity}")
        chosen = alive.nonzero()[:, 0][_drawn(opacities[alive], int(dead.sum()), generator)]
        new = self._shared(parameters, chosen)

        def moved(name: str, value: Tensor) -> nn.Parameter:
            value = value.clone()
            if name in new:
                value[chosen] = new[name]
            value[dead] = value[chosen]
            return nn.Parameter(value, requires_grad=parameters[name].requires_grad)

        def forgotten(_: str, moment: Tensor) -> Tensor:
            return moment.index_fill(0, chosen, 0.0)

        _update()(moved, forgotten, parameters, optimisers)

    def _add(self, parameters: Any, optimisers: Any, generator: torch.Generator) -> None:
        count = len(parameters["means"])
        more = min(self.most, int(self.growth * count)) - count
        if more <= 0:
            return
        chosen = _drawn(parameters["opacities"].sigmoid(), more, generator)
        new = self._shared(parameters, chosen)

        def grown(name: str, value: Tensor) -> nn.Parameter:
            value = value.clone()
            if name in new:
                value[chosen] = new[name]
            return nn.Parameter(torch.cat([value, value[chosen]]), requires_grad=parameters[name].requires_grad)

        def longer(_: str, moment: Tensor) -> Tensor:
            return torch.cat([moment, moment.new_zeros(more, *moment.shape[1:])])

        _update()(grown, longer, parameters, optimisers)

    def _shared(self, parameters: Mapping[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
        """Raw opacities and scales of the chosen once each is as many as it was drawn, and itself."""
        copies = torch.bincount(chosen, minlength=len(parameters["means"]))[chosen] + 1
        opacities, widths = relocated(
            parameters["opacities"].sigmoid()[chosen], parameters["scales"].exp()[chosen], copies
        )
        opacities = opacities.clamp(self.min_opacity, 1 - torch.finfo(torch.float32).eps)
        return {"opacities": opacities.logit(), "scales": widths.log()}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass


def relocated(opacities: Tensor, scales: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacities (n,) in (0, 1) and deviations (n, 3) of each of `copies` (n,) that look as one did (eq. 9)."""
    copies = copies.clamp(1, MOST_COPIES)
    whole = opacities.double()
    shared = 1 - (1 - whole) ** (1 / copies)
    order = torch.arange(MOST_COPIES, device=copies.device)
    # sum_{i=k+1}^{n} C(i-1, k) = C(n, k+1)
    terms = _binomials(copies) * (-1.0) ** order / (order + 1).sqrt() * shared[:, None] ** (order + 1)
    return shared.to(opacities), (scales * (whole / terms.sum(1))[:, None]).to(scales)


def _binomials(copies: Tensor) -> Tensor:
    """C(n, k + 1) for k = 0 to 50, (len, 51)."""
    table = [[float(comb(n, k + 1)) for k in range(MOST_COPIES)] for n in range(MOST_COPIES + 1)]
    return torch.tensor(table, dtype=torch.float64, device=copies.device)[copies]


def wandering(parameters: Mapping[str, Tensor], scale: float, generator: torch.Generator) -> Tensor:
    """Steps (n, 3) along each Gaussian's own covariance, of those that are nearly transparent."""
    clear = 1 - parameters["opacities"].sigmoid()
    free = torch.sigmoid(STEEPNESS * (clear - NEARLY_CLEAR)) * scale
    means = parameters["means"]
    noise = torch.randn(means.shape, generator=generator).to(means) * free[:, None]
    covars, _ = gsplat_functions()._quat_scale_to_covar_preci(
        parameters["quats"], parameters["scales"].exp(), compute_preci=False
    )
    return torch.einsum("nij,nj->ni", covars, noise)


def _drawn(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of them, with replacement."""
    return torch.multinomial(weights.detach().cpu(), count, replacement=True, generator=generator).to(weights.device)


def _update() -> Any:
    from gsplat.strategy.ops import _update_param_with_optimizer

    return _update_param_with_optimizer
