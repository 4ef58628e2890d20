"""A small network that reads a picture: arrangement, view, and colour, shape and size of each solid in order.

Scores against a caption are graded (`logp`: log-probability that the picture shows what the caption says) or exact
(every attribute that the caption names is the reader's first choice).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genbench_solids.captions import ARRANGEMENTS, AZIMUTHS, COLOURS, ELEVATIONS, SHAPES, SIZES, SLOTS, Attributes

COLUMNS = (len(ARRANGEMENTS), len(AZIMUTHS), len(ELEVATIONS), *(len(COLOURS), len(SHAPES), len(SIZES)) * SLOTS)
"""Number of choices in each column of `captions.Attributes.row`."""
IGNORED = -1


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut; the first may halve the picture."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inputs), nn.GroupNorm(8, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride) if (inputs, stride) != (outputs, 1) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + self.skip(x)


class Reader(nn.Module):
    """Pictures (b, 3, 64, 64) in [0, 1] to one row of logits per column, twelve tensors (b, choices)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.width = width
        self.stem = nn.Conv2d(3, width, 5, 2, 2)
        self.blocks = nn.Sequential(
            Block(width, 2 * width, 2), Block(2 * width, 3 * width, 2), Block(3 * width, 3 * width)
        )
        self.squeeze = nn.Sequential(nn.GroupNorm(8, 3 * width), nn.SiLU(), nn.Conv2d(3 * width, width, 1))
        self.head = nn.Sequential(nn.Linear(64 * width, 128), nn.SiLU(), nn.Linear(128, sum(COLUMNS)))

    def features(self, images: Tensor) -> list[Tensor]:
        """Activations at 32, 16 and 8 pixels, for a perceptual distance."""
        x = self.stem(images * 2 - 1)
        found = [x]
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        size = images.shape[-2:]
        if size != (64, 64):
            images = F.interpolate(images, (64, 64), mode="bilinear", antialias=min(size) > 64, align_corners=False)
        return self.head(self.squeeze(self.features(images)[-1]).flatten(1)).split(COLUMNS, dim=1)


def reading_loss(logits: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Cross-entropy summed over the columns that a row (b, 12) fills."""
    return sum(
        (F.cross_entropy(column, rows[:, i], ignore_index=IGNORED, reduction="sum") for i, column in enumerate(logits)),
        start=logits[0].new_zeros(()),
    ) / len(rows)


def named(attributes: Attributes | None) -> list[int]:
    """The columns that a caption names, the others -1; a caption outside the grammar names nothing."""
    if attributes is None:
        return [IGNORED] * len(COLUMNS)
    row = attributes.row()
    row[1] = IGNORED if attributes.azimuth is None else row[1]
    row[2] = IGNORED if attributes.elevation is None else row[2]
    for k, solid in enumerate(attributes.solids):
        row[5 + 3 * k] = IGNORED if solid.size is None else row[5 + 3 * k]
    return row


@dataclass(frozen=True)
class Reading:
    """What a reader says of b pictures."""

    logp: tuple[Tensor, ...]  # twelve log-probabilities (b, choices)

    def best(self) -> Tensor:
        """The first choices, (b, 12)."""
        return torch.stack([column.argmax(1) for column in self.logp], 1)

    def logp_of(self, rows: Tensor) -> Tensor:
        """Log-probability (b,) in (-inf, 0] of the named columns of rows (b, 12)."""
        per_column = [
            column.gather(1, rows[:, i, None].clamp(min=0))[:, 0] * (rows[:, i] >= 0)
            for i, column in enumerate(self.logp)
        ]
        return torch.stack(per_column, 1).sum(1)

    def exact(self, rows: Tensor) -> Tensor:
        """1 where every named column of rows (b, 12) is the first choice, else 0; (b,) float."""
        return ((self.best() == rows) | (rows < 0)).all(1).float()


def read(reader: Reader, images: Tensor) -> Reading:
    """Read pictures (b, 3, h, w) in [0, 1]; differentiable in the pictures."""
    return Reading(tuple(column.log_softmax(1) for column in reader(images.to(next(reader.parameters())))))
