"""A cloud of 3D Gaussians with spherical harmonics (3D Gaussian Splatting, arXiv:2308.04079), raw as in its files.

The world is that of the files: x to the right, y down, z away from the camera in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from genbench.errors import SceneError

SH_C0 = 0.28209479177387814
"""The constant harmonic: colour = 0.5 + SH_C0 * sh0."""
REST = (0, 3, 8, 15)
"""How many further coefficients a degree has, degrees 0 to 3."""


@dataclass(frozen=True)
class Gaussians:
    """n Gaussians by their raw parameters, which any optimiser may move freely.

    `means` (n, 3); `quats` (n, 4), w x y z of any length; `scales` (n, 3), the logarithm of the deviations;
    `opacities` (n,), the logit; `sh0` (n, 1, 3) and `sh_rest` (n, K, 3) colour coefficients, K = 0, 3, 8 or 15.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh0: Tensor
    sh_rest: Tensor

    @staticmethod
    def of(parameters: Mapping[str, Tensor]) -> Gaussians:
        """From tensors by name."""
        return Gaussians(**{field.name: parameters[field.name] for field in fields(Gaussians)})

    def parameters(self) -> dict[str, Tensor]:
        """The tensors by name, not copied."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __len__(self) -> int:
        return len(self.means)

    @property
    def degree(self) -> int:
        """The degree of the harmonics, 0 to 3."""
        return REST.index(self.sh_rest.shape[1])

    @property
    def sh(self) -> Tensor:
        """All coefficients, (n, 1 + K, 3)."""
        return torch.cat([self.sh0, self.sh_rest], 1)

    @property
    def colours(self) -> Tensor:
        """The colour without the part that depends on the direction, (n, 3), at least 0."""
        return (0.5 + SH_C0 * self.sh0[:, 0]).clamp(min=0)

    def detach(self) -> Gaussians:
        """The same numbers without a graph."""
        return Gaussians.of({name: value.detach() for name, value in self.parameters().items()})

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Gaussians:
        """Elsewhere, or at another precision."""
        return Gaussians.of({name: value.to(device, dtype) for name, value in self.parameters().items()})

    def rows(self, index: Tensor) -> Gaussians:
        """Some of them, by number or by mask."""
        return Gaussians.of({name: value[index] for name, value in self.parameters().items()})

    def check(self) -> None:
        """Refuse what cannot be drawn: none at all, or numbers that are none. Raises SceneError."""
        if not len(self):
            raise SceneError("no Gaussian is left")
        for name, value in self.parameters().items():
            bad = int((~torch.isfinite(value)).flatten(1).any(1).sum() if value.ndim > 1 else (~value.isfinite()).sum())
            if bad:
                raise SceneError(f"{bad} of {len(self)} Gaussians have {name} that are no numbers")
