"""Gaussians as a `.splat` file (antimatter15/splat): 32 bytes each, no header, colour of degree 0 only.

float32 position, float32 scale (not its logarithm), bytes r g b alpha, bytes w x y z of a unit quaternion as
128 q + 128. The most visible come first, so that a half-loaded file shows most of the scene.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genbench.errors import SceneError
from genbench.files import write_whole
from genbench.scenes.gaussians import SH_C0, Gaussians
from genbench.scenes.ply import checked

LAYOUT = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])
SMALLEST = 1e-9
"""Scales of 0 are read as this: they have no logarithm."""


def prominence(gaussians: Gaussians) -> Tensor:
    """How much each one shows: volume times opacity, (n,)."""
    return gaussians.scales.double().sum(1).exp() * gaussians.opacities.double().sigmoid()


def unit_quats(quats: Tensor) -> Tensor:
    """Quaternions of length 1; one of length 0 turns nothing."""
    length = quats.square().sum(1, keepdim=True).sqrt()
    return torch.where(length > 0, quats / length, quats.new_tensor([1.0, 0.0, 0.0, 0.0]))


def splat_bytes(gaussians: Gaussians) -> bytes:
    """The file's content, the most visible first."""
    shown = gaussians.detach().to("cpu")
    shown = shown.rows(prominence(shown).argsort(descending=True, stable=True))
    rows = np.empty(len(shown), LAYOUT)
    rows["means"], rows["scales"] = shown.means.numpy(), shown.scales.exp().numpy()
    rows["rgba"][:, :3] = _byte(shown.colours * 255)
    rows["rgba"][:, 3] = _byte(shown.opacities.sigmoid() * 255)
    rows["quats"] = _byte(unit_quats(shown.quats) * 128 + 128)
    return rows.tobytes()


def _byte(values: Tensor) -> NDArray[np.uint8]:
    return values.round().clamp(0, 255).to(torch.uint8).numpy()


def write_splat(path: Path, gaussians: Gaussians) -> None:
    """Write them; the harmonics above degree 0 are left out.

    Raises SceneError for what cannot be drawn (`Gaussians.check`), OutputError where the file cannot be written.
    """
    gaussians.check()
    write_whole(path, splat_bytes(gaussians))


def read_splat(path: Path) -> Gaussians:
    """The Gaussians of a `.splat` file. Raises SceneError where it is none, is truncated or empty."""
    data = path.read_bytes()
    if len(data) % LAYOUT.itemsize:
        raise SceneError(f"{path} is no .splat file or is truncated: {len(data)} bytes are no multiple of 32")
    rows: NDArray[Any] = np.frombuffer(data, LAYOUT)
    if (rows["scales"] < 0).any():
        raise SceneError(f"{path} is no .splat file: it has scales below 0")
    rgba = torch.as_tensor(rows["rgba"].astype(np.float32))
    alpha = rgba[:, 3].clamp(0.5, 254.5) / 255
    found = Gaussians(
        means=torch.as_tensor(rows["means"].copy()),
        quats=(torch.as_tensor(rows["quats"].astype(np.float32)) - 128) / 128,
        scales=torch.as_tensor(rows["scales"].copy()).clamp(min=SMALLEST).log(),
        opacities=alpha.logit(),
        sh0=((rgba[:, None, :3] / 255 - 0.5) / SH_C0),
        sh_rest=torch.zeros(len(rows), 0, 3),
    )
    return checked(found, path)
