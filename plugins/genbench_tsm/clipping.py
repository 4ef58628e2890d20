"""Bounds on the gradient of what was rendered, before it reaches the renderer.

Of pixels by their own largest channel (pixel-wise gradient clipping, arXiv:2310.12474), so that a pixel's gradient
keeps its direction; of depths by the Gaussians' size (Dreamer XL, arXiv:2405.11252, its code).
"""

from __future__ import annotations

import torch
from torch import Tensor


def clip_pixels(gradient: Tensor, bound: float) -> Tensor:
    """Gradient (b, c, h, w) with no channel above `bound`; each pixel is scaled as a whole. 0 stays 0."""
    largest = gradient.abs().amax(1, keepdim=True)
    return gradient * (bound / largest).clamp(max=1)


def clip_depth(gradient: Tensor, bound: float, scale: Tensor | float) -> Tensor:
    """Gradient (b, 1, h, w) scaled as a whole, so that none is above `bound` times `scale`, the mean Gaussian's size.

    The code's law; the paper's text (eq. 12) bounds every pixel for itself.
    """
    largest = gradient.abs().amax()
    return gradient * (bound * torch.as_tensor(scale) / largest).clamp(max=1)
