"""A radiance field as a scene that is optimised: three planes of features and a small network (arXiv:2112.07945).

Its density begins as a soft ball (DreamFusion, arXiv:2209.14988), and a grid of occupied cells follows it.
"""

# pyright: basic
# nerfacc is not typed; the signatures of this module are.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import grid_sample, linear, relu, softplus
from torch.optim import Optimizer

from genbench.errors import SceneError
from genbench.files import write_whole
from genbench.scenes.cameras import Cameras
from genbench.scenes.densification import seeded
from genbench.scenes.rays import march, nerfacc, rays_of
from genbench.scenes.rendering import Rendered

FILE = "scene.safetensors"
KIND = "genbench radiance field"
RATES: Mapping[str, float] = {"planes": 1e-2, "inner": 5e-3, "inner_bias": 5e-3, "outer": 5e-3, "outer_bias": 5e-3}
"""Of Adam."""
SHARPNESS = 10.0
"""Raw density in the middle of the ball, from which it falls to 0 at half the box."""
EMPTY = 0.01
"""Opacity of a step below which a cell of the grid counts as empty."""


@dataclass
class RadianceField:
    """A `Representation` in the box [-radius, radius]^3. Raises MissingDependency without nerfacc."""

    generator: torch.Generator  # draws the weights
    device: torch.device | str = "cpu"
    radius: float = 0.8  # world units
    samples: int = 64  # steps across the box
    resolution: int = 128  # of the planes
    features: int = 8  # of each plane
    hidden: int = 32  # units of the network
    cells: int = 32  # of the grid, along a side
    rates: Mapping[str, float] = field(default_factory=lambda: RATES)

    def __post_init__(self) -> None:
        self._parameters = {name: nn.Parameter(value.to(self.device)) for name, value in self._weights().items()}
        self.growth = Occupancy(self)

    def _weights(self) -> dict[str, Tensor]:
        width = 3 * self.features
        shapes = {"planes": (3, self.features, self.resolution, self.resolution), "inner": (self.hidden, width)}
        shapes |= {"inner_bias": (self.hidden,), "outer": (4, self.hidden), "outer_bias": (4,)}
        scale = {"planes": 0.1, "inner": width**-0.5, "outer": 0.1 * self.hidden**-0.5}
        return {n: scale.get(n, 0.0) * torch.randn(shape, generator=self.generator) for n, shape in shapes.items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        return self._parameters

    def medium(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Density per world unit (m,) and colour (m, 3) in [0, 1] at places (m, 3)."""
        own, (x, y, z) = self._parameters, (places / self.radius).unbind(-1)
        pairs = torch.stack([torch.stack(pair, -1) for pair in ((x, y), (x, z), (y, z))])[:, None]
        features = grid_sample(own["planes"], pairs, align_corners=True, padding_mode="border")[:, :, 0]
        inner = relu(linear(features.flatten(0, 1).T, own["inner"], own["inner_bias"]))
        raw = linear(inner, own["outer"], own["outer_bias"])
        ball = SHARPNESS * (1 - 2 * places.norm(dim=-1) / self.radius)
        return softplus(raw[:, 0] + ball) / self.radius, raw[:, 1:].sigmoid()

    def render(self, cameras: Cameras, background: Tensor, generator: torch.Generator) -> Rendered:
        rays = rays_of(cameras, self.device)
        colour, alpha, away = march(rays, self.medium, self.growth.grid, self.samples, generator)
        shape = (len(cameras), cameras.height, cameras.width, -1)
        rgb, alpha, depth = (
            part.reshape(shape).permute(0, 3, 1, 2) for part in (colour, alpha, away * rays.cosines[:, None])
        )
        over = background.to(rgb).expand(len(cameras), 3)[..., None, None]
        return Rendered(rgb + (1 - alpha) * over, alpha, depth)

    def state(self) -> dict[str, Any]:
        own = {name: value.detach().clone() for name, value in self._parameters.items()}
        return {"parameters": own, "growth": self.growth.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._parameters = {name: nn.Parameter(v.to(self.device)) for name, v in state["parameters"].items()}
        self.growth.restore(state["growth"])

    def save(self, folder: Path) -> Path:
        broken = [name for name, value in self._parameters.items() if not bool(value.isfinite().all())]
        if broken:
            raise SceneError(f"the field's {', '.join(broken)} have numbers that are none")
        own = {name: value.detach().cpu().contiguous() for name, value in self._parameters.items()}
        about = {"kind": KIND, "radius": str(self.radius), "samples": str(self.samples)}
        write_whole(folder / FILE, save(own, about))
        return folder / FILE


def read_field(path: Path, device: torch.device | str = "cpu") -> RadianceField:
    """A field from its file. Raises SceneError for a file that is none."""
    try:
        with safe_open(path, "pt") as file:
            about, own = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SceneError(f"{path} cannot be read: {error}") from error
    if about.get("kind") != KIND:
        raise SceneError(f"{path} is no radiance field")
    _, features, resolution, _ = own["planes"].shape
    sizes = {"resolution": resolution, "features": features, "hidden": len(own["inner"])}
    found = RadianceField(torch.Generator(), device, float(about["radius"]), int(about["samples"]), **sizes)
    found.restore({"parameters": own, "growth": {}})
    return found


class Occupancy:
    """A `Growth`: nerfacc's grid of the cells in which a field has anything to draw."""

    def __init__(self, of: RadianceField) -> None:
        box, self.of = [-of.radius] * 3 + [of.radius] * 3, of
        self.grid = nerfacc().OccGridEstimator(box, of.cells).to(of.device)
        self._update(0, torch.Generator().manual_seed(0))

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
        """Look again, every 16 steps."""
        self._update(step + 1, generator)

    def _update(self, step: int, generator: torch.Generator) -> None:
        length = 2 * self.of.radius / self.of.samples
        with seeded(generator, torch.device(self.of.device)):
            self.grid.update_every_n_steps(step, lambda places: self.of.medium(places)[0][:, None] * length, EMPTY)

    def state(self) -> dict[str, Any]:
        return {name: getattr(self.grid, name).clone() for name in ("occs", "binaries")}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The grid as it was; without a state, as the field now fills it."""
        if not state:
            self.grid.occs.zero_()
            return self._update(0, torch.Generator().manual_seed(0))
        for name in ("occs", "binaries"):
            getattr(self.grid, name).copy_(state[name])
