"""Where the halo is."""

import torch
from torch import Tensor


def ring(height: int, width: int) -> Tensor:
    """Return (height, width): 1 within an eighth of the shorter side from the border, else 0."""
    depth = max(1, min(height, width) // 8)
    mask = torch.ones(height, width)
    mask[depth:-depth, depth:-depth] = 0
    return mask
