"""Which prompts an update takes: every epoch is another order of all rows, whoever draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

import torch

from genbench.training.optimise import Turn

Rows = Sequence[Mapping[str, object]]


def chosen(rows: Rows, turn: Turn) -> list[Mapping[str, object]]:
    """The prompt rows of a turn's samples."""
    at = [divmod(turn.step * turn.batch + item, len(rows)) for item in turn.items]
    orders = {epoch: _order(turn.training, epoch, len(rows)) for epoch, _ in at}
    return [rows[orders[epoch][place]] for epoch, place in at]


def _order(training: str, epoch: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(int(sha256(f"{training} {epoch}".encode()).hexdigest()[:8], 16))
    return [int(row) for row in torch.randperm(count, generator=generator)]
