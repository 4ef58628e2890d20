"""NPNet (arXiv:2411.09502, section 3.3): from noise z and prompt embedding e to golden noise, in one pass.

    golden = svd(z) + (2 sigmoid(alpha) - 1) t + beta r(z + t),   t = GroupNorm(z) (1 + scale(e)) + shift(e)

Three branches: `svd` keeps the singular vectors of the noise and predicts new singular values, `t` moves each channel
by the text, `r` is a Swin transformer. Module names and shapes are those of the published files, so that their
checkpoints load strictly; where the released code does something unexpected and its weights depend on it, so does this.
"""

# pyright: basic
# timm carries no types; it stops at this module's own signatures.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.normalization import AdaGroupNorm
from torch import Tensor, nn

SWIN_TINY: Mapping[str, Any] = {
    "img_size": 224, "patch_size": 4, "window_size": 7, "in_chans": 3, "num_classes": 1000,
    "embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24),
    "drop_path_rate": 0.0,
}  # fmt: skip
"""timm's `swin_tiny_patch4_window7_224`, the published one; its classifier is saved and never used."""

SWIN_SMALL: Mapping[str, Any] = {
    "img_size": 28, "patch_size": 2, "window_size": 7, "in_chans": 3, "num_classes": 0,
    "embed_dim": 64, "depths": (2, 4), "num_heads": (2, 4),
    "drop_path_rate": 0.0,
}  # fmt: skip
"""For latents of 16 x 16: widened by 1.75, as the published 128 to 224, and its last two grids of tokens, 14 and 7."""

ROWS = 7  # of the transformer's last tokens, which the released code takes for channels


@dataclass(frozen=True)
class Shape:
    """What one network is made for: latents (channels, size, size) and embeddings of `tokens` x `width`.

    `fixed_signs`: singular vectors get the sign that makes their largest entry positive, so that another linear-algebra
    library gives the same golden noise. The published weights were trained without.
    """

    channels: int
    size: int
    tokens: int
    width: int
    swin: Mapping[str, Any]
    fixed_signs: bool = False


class SelfAttention(nn.Module):
    """Eight heads over the rows of (b, n, side); no bias in qkv, no norm, no residual."""

    def __init__(self, side: int, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(side, 3 * side, bias=False)
        self.proj = nn.Linear(side, side)

    def forward(self, x: Tensor) -> Tensor:
        b, n, side = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, side // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, side))


class SingularValues(nn.Module):
    """z as one matrix U diag(s) V^T with singular values s + mlp4(mean(attention(mlp1(U^T) + mlp2(V^T) + mlp3(s))))."""

    def __init__(self, channels: int, size: int, fixed_signs: bool) -> None:
        super().__init__()
        self.tiles, self.fixed_signs = isqrt(channels), fixed_signs
        side = self.tiles * size
        self.mlp1 = nn.Sequential(nn.Linear(side, 64), nn.ReLU(), nn.Linear(64, side))
        self.mlp2 = nn.Sequential(nn.Linear(side, 64), nn.ReLU(), nn.Linear(64, side))
        self.mlp3 = nn.Sequential(nn.Linear(side, side))
        self.attention = SelfAttention(side)
        self.bn = nn.BatchNorm2d(side)  # in the published files, and never called
        self.mlp4 = nn.Sequential(nn.Linear(side, 1024), nn.ReLU(), nn.Linear(1024, side))

    def forward(self, z: Tensor) -> Tensor:
        u, s, vh = self.decomposed(to_matrix(z, self.tiles))
        hidden = self.mlp1(u.mT) + self.mlp2(vh) + self.mlp3(s)[:, None, :]
        s = self.mlp4(self.attention(hidden).mean(1)) + s
        return from_matrix(u * s[:, None, :] @ vh, self.tiles)

    def decomposed(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """SVD on the CPU wherever z lies: the network reads U and V, whose signs differ between CPU and CUDA."""
        u, s, vh = torch.linalg.svd(matrix.cpu())
        if self.fixed_signs:
            signs = u.gather(1, u.abs().argmax(1, keepdim=True)).sign()
            u, vh = u * signs, vh * signs.mT
        return u.to(matrix.device), s.to(matrix.device), vh.to(matrix.device)


class Residual(nn.Module):
    """r(y): a Swin transformer over the noise as a picture."""

    def __init__(self, channels: int, size: int, swin: Mapping[str, Any]) -> None:
        from timm.models.swin_transformer import SwinTransformer

        super().__init__()
        self.size, self.picture = size, int(swin["img_size"])
        self.upconv = nn.Conv2d(ROWS, channels, 1)
        self.downconv = nn.Conv2d(channels, 3, 1)
        self.swin = SwinTransformer(**swin)

    def forward(self, y: Tensor) -> Tensor:
        picture = F.interpolate(y, (self.picture, self.picture))
        return self.upconv(read_as_channels(self.swin.forward_features(self.downconv(picture)), self.size))


class NPNet(nn.Module):
    """Noise (b, channels, size, size) and embeddings (b, tokens, width) to golden noise of the noise's shape, float32.

    A new network gives back its noise: alpha and beta are 0, and so is the last layer of the singular values' branch.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.unet_svd = SingularValues(shape.channels, shape.size, shape.fixed_signs)
        self.unet_embedding = Residual(shape.channels, shape.size, shape.swin)
        self.embeeding = AdaGroupNorm(shape.tokens * shape.width, shape.channels, 1, eps=1e-6)  # spelt as published
        self.alpha = nn.Parameter(torch.zeros(1))
        self.beta = nn.Parameter(torch.zeros(1))
        for parameter in self.unet_svd.mlp4[2].parameters():
            nn.init.zeros_(parameter)

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):  # singular vectors in half precision would cost the noise
            return self.golden(z.float(), e.float())

    def golden(self, z: Tensor, e: Tensor) -> Tensor:
        """The formula, in the precision of z."""
        t = self.embeeding(z, e.flatten(1))
        gate = 2 * torch.sigmoid(self.alpha).view(1, 1, 1, 1) - 1
        return self.unet_svd(z) + gate * t + self.beta.view(1, 1, 1, 1) * self.unet_embedding(z + t)


def to_matrix(z: Tensor, tiles: int) -> Tensor:
    """(b, tiles^2, h, w) -> (b, tiles h, tiles w): channels as tiles, row by row from the top left."""
    b, _, h, w = z.shape
    return z.view(b, tiles, tiles, h, w).transpose(2, 3).reshape(b, tiles * h, tiles * w)


def from_matrix(matrix: Tensor, tiles: int) -> Tensor:
    """The inverse of `to_matrix`."""
    b, h, w = len(matrix), matrix.shape[1] // tiles, matrix.shape[2] // tiles
    return matrix.view(b, tiles, h, tiles, w).transpose(2, 3).reshape(b, tiles * tiles, h, w)


def read_as_channels(tokens: Tensor, size: int) -> Tensor:
    """Tokens (b, 7, 7, d), channels last, as (b, 7, size, size): the released code takes the first of the two grid axes
    for channels and the rest, (7, d), for a picture, of which it keeps the nearest entries. Its weights expect it.
    """
    return F.interpolate(tokens, (size, size))
