"""Encoded prompts, kept: a run that draws a prompt with many seeds reads it once.

Every prompt is encoded by itself, so that what is kept does not depend on the batch in which it was first met.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from genbench.kinds import Conditioning, Model

LIMIT = 256 * 2**20
"""Bytes that are kept; the prompts met longest ago go first."""
Key = tuple[int, str, str, bool, int, int]


@dataclass
class Embeddings:
    """What models made of prompts; `encode` stands for `Model.encode_prompt`.

    A model is held as long as something of it is kept: the key names it by its id.
    """

    limit: int = LIMIT
    kept: OrderedDict[Key, tuple[Model, Conditioning]] = field(
        default_factory=OrderedDict[Key, tuple[Model, Conditioning]]
    )
    size: int = 0

    def encode(
        self,
        model: Model,
        prompts: Sequence[str],
        negative: Sequence[str] | None = None,
        *,
        guidance: bool = True,
        height: int = 0,
        width: int = 0,
    ) -> Conditioning:
        """Encode b prompts, each distinct one once; an empty negative prompt in a batch of others counts as none.

        Under autograd nothing is kept. Rows that cannot be joined (a family that pads to the longest prompt of a
        batch, or has a negative half only where a negative prompt is given) are encoded together, as the model does.
        """
        if torch.is_grad_enabled():
            return model.encode_prompt(prompts, negative, guidance=guidance, height=height, width=width)
        pairs = zip(prompts, negative or [""] * len(prompts), strict=True)
        keys = [(id(model), prompt, away, guidance, height, width) for prompt, away in pairs]
        rows = [self._row(model, key) for key in keys]
        if len({_layout(row) for row in rows}) > 1:
            return model.encode_prompt(prompts, negative, guidance=guidance, height=height, width=width)
        return _joined(rows)

    def _row(self, model: Model, key: Key) -> Conditioning:
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key][1]
        _, prompt, negative, guidance, height, width = key
        row = model.encode_prompt(
            [prompt], [negative] if negative else None, guidance=guidance, height=height, width=width
        )
        self.kept[key] = model, row
        self.size += _bytes(row)
        while self.size > self.limit:
            self.size -= _bytes(self.kept.popitem(last=False)[1][1])
        return row


def _parts(row: Conditioning) -> list[Mapping[str, Tensor]]:
    return [row.positive] if row.negative is None else [row.positive, row.negative]


def _bytes(row: Conditioning) -> int:
    return sum(tensor.nbytes for part in _parts(row) for tensor in part.values())


def _layout(row: Conditioning) -> tuple[tuple[tuple[str, torch.Size], ...], ...]:
    return tuple(tuple((name, tensor.shape) for name, tensor in sorted(part.items())) for part in _parts(row))


def _joined(rows: Sequence[Conditioning]) -> Conditioning:
    negatives = [row.negative for row in rows if row.negative is not None]
    return Conditioning(_cat(row.positive for row in rows), _cat(negatives) if negatives else None)


def _cat(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    all_parts = list(parts)
    return {name: torch.cat([part[name] for part in all_parts]) for name in all_parts[0]}
