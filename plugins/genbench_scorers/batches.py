"""Long lists through a network in pieces, and every distinct text once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def in_batches(images: Tensor, texts: Sequence[T], size: int, judge: Callable[[Tensor, Sequence[T]], Tensor]) -> Tensor:
    """`judge(images, texts)` on `size` rows at a time, joined; images and texts have the same n >= 1 rows."""
    return torch.cat([judge(images[i : i + size], texts[i : i + size]) for i in range(0, len(images), size)])


def of_distinct(texts: Sequence[str], embed: Callable[[Sequence[str]], Tensor]) -> Tensor:
    """`embed(texts)`, (n, ...), asked of each distinct text once."""
    distinct = list(dict.fromkeys(texts))
    place = {text: row for row, text in enumerate(distinct)}
    return embed(distinct)[[place[text] for text in texts]]
