"""From pictures (b, 3, h, w) in [0, 1] to what a network sees; everything is differentiable.

The published scorers resize 8-bit pictures with PIL's bicubic filter. Here the same filter (antialiased, a = -0.5) runs
on floats, along the width and then the height, clipped to [0, 1] after each as in PIL; nothing is rounded to 8 bits, so
that gradients pass.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

CROPPED = "shorter side to the network's, middle cut out, bicubic antialiased"
PADDED = "longer side to the network's, black around the middle, bicubic antialiased"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def bicubic(images: Tensor, height: int, width: int) -> Tensor:
    """Resize to (b, 3, height, width), in [0, 1]; pictures of that size stay as they are."""
    images = images.float()
    if images.shape[-1] != width:
        images = _scaled(images, images.shape[-2], width)
    return images if images.shape[-2] == height else _scaled(images, height, width)


def _scaled(images: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(images, (height, width), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def cropped(images: Tensor, size: int) -> Tensor:
    """Scale the shorter side to `size`, cut the middle out: (b, 3, size, size). The rule of CLIP."""
    h, w = images.shape[-2:]
    short = min(h, w)
    scaled = bicubic(images, int(size * h / short), int(size * w / short))
    top, left = round((scaled.shape[-2] - size) / 2), round((scaled.shape[-1] - size) / 2)
    return scaled[..., top : top + size, left : left + size]


def padded(images: Tensor, size: int) -> Tensor:
    """Scale the longer side to `size`, fill with black around the middle: (b, 3, size, size). The rule of HPSv2."""
    h, w = images.shape[-2:]
    high, wide = (round(side * size / max(h, w)) for side in (h, w))
    down, across = size - high, size - wide
    return F.pad(bicubic(images, high, wide), (across // 2, across - across // 2, down // 2, down - down // 2))


def normalised(images: Tensor) -> Tensor:
    """(x - mean) / std by CLIP's constants, per channel."""
    mean, std = (images.new_tensor(each)[:, None, None] for each in (CLIP_MEAN, CLIP_STD))
    return (images - mean) / std
