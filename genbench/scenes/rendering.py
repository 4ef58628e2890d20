"""One interface for every renderer, `render(gaussians, cameras, background) -> Rendered`, and what a scene is made of.

A loop that optimises a scene knows a `Representation`, which answers what cameras see, and its `Growth`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from genbench.errors import MissingDependency, UsageError, did_you_mean
from genbench.scenes.cameras import Cameras
from genbench.scenes.gaussians import Gaussians


@dataclass(frozen=True)
class Rendered:
    """What cameras see. c cameras, n Gaussians.

    `rgb` (c, 3, h, w) over the background, `alpha` (c, 1, h, w) in [0, 1), `depth` (c, 1, h, w) the expected distance
    along the camera's axis, 0 where nothing is. `means2d` (c, n, 2) in pixels keeps its gradient for densification,
    `radii` (c, n, 2) in pixels per axis is 0 for what is not seen; both None for what has no Gaussians.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    means2d: Tensor | None = None
    radii: Tensor | None = None


Engine = Callable[[Gaussians, Cameras, Tensor], Rendered]
"""(gaussians, cameras, background (3,) or (c, 3) in [0, 1]) -> Rendered; differentiable in Gaussians and background."""
ENGINES = ("auto", "torch", "numba", "gsplat")


def engine(name: str = "auto", device: torch.device | str = "cpu") -> Engine:
    """The renderer of that name; `auto` is gsplat on a CUDA device and torch elsewhere.

    Raises UsageError for a name or device that does not fit, MissingDependency where its package is not installed.
    """
    if name not in ENGINES:
        raise UsageError(f"engine={name} is none{did_you_mean(name, ENGINES)}")
    cuda = torch.device(device).type == "cuda"
    if name == "gsplat" or (name == "auto" and cuda):
        from genbench.scenes.cuda import gsplat_engine

        return gsplat_engine(device)
    if name == "numba":
        return _numba(cuda)
    from genbench.scenes.tiles import torch_engine

    return torch_engine


def _numba(cuda: bool) -> Engine:
    if cuda:
        raise UsageError("engine=numba draws on the processor; on a GPU there are engine=gsplat and engine=torch")
    try:
        from genbench.scenes.kernels import numba_engine
    except ImportError:
        raise MissingDependency("engine=numba needs numba; install it: pip install 'genbench[numba]'") from None
    return numba_engine


class Growth(Protocol):
    """What changes a scene besides its gradients: Gaussians that come and go, a grid that follows a field.

    A step is: render, `before_backward`, backward, optimisers' steps, `after_step`, then gradients to zero.
    """

    def before_backward(self, rendered: Rendered) -> None:
        """Ask for the gradients that `after_step` reads."""
        ...

    def after_step(
        self,
        step: int,
        parameters: dict[str, nn.Parameter],
        optimisers: dict[str, torch.optim.Optimizer],
        rendered: Rendered,
        generator: torch.Generator,
    ) -> None:
        """Change `parameters` and the state of their `optimisers` in place; `step` is counted from 0.

        There is one optimiser of one group for each parameter, by its name.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Representation(Protocol):
    """What a scene is made of while it is optimised: Gaussians, or a radiance field."""

    @property
    def rates(self) -> Mapping[str, float]:
        """Learning rates of Adam, by the names of the parameters."""
        ...

    @property
    def growth(self) -> Growth | None: ...

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is optimised: the live dictionary, in which growth puts new tensors; look a name up at each step."""
        ...

    def render(self, cameras: Cameras, background: Tensor, generator: torch.Generator) -> Rendered:
        """What the cameras see over `background` (3,) or (c, 3); the generator is for samples along rays."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of parameters and growth; optimisers are their owner's."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Be what `state` was; the parameters are new tensors, also in number."""
        ...

    def save(self, folder: Path) -> Path:
        """Write the scene's file into the folder. Raises SceneError for a scene that cannot be drawn."""
        ...
