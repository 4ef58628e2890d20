"""Random streams: one CPU generator per picture, kept as plain state tensors, so that randomness is data.

A stream is the `(5056,) uint8` state of a `torch.Generator`. Drawing returns the advanced stream and changes nothing
in place: a step taken twice from the same state draws the same noise twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Streams = tuple[Tensor, ...]


def seeded(seeds: Sequence[int]) -> Streams:
    """Return one stream per seed, each exactly `torch.Generator("cpu").manual_seed(seed)`."""
    return tuple(torch.Generator("cpu").manual_seed(seed).get_state() for seed in seeds)


def generators(streams: Streams) -> list[torch.Generator]:
    """Open streams as generators, for code that draws by itself; close them again with `states`."""
    opened = [torch.Generator("cpu") for _ in streams]
    for generator, state in zip(opened, streams, strict=True):
        generator.set_state(state)
    return opened


def states(opened: Sequence[torch.Generator]) -> Streams:
    """Return the streams that stand behind opened generators."""
    return tuple(generator.get_state() for generator in opened)


def normal(
    streams: Streams, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[Tensor, Streams]:
    """Draw N(0, 1) of `(len(streams), *shape)`, each row from its own stream; return it and the advanced streams."""
    opened = generators(streams)
    rows = [torch.randn((1, *shape), generator=generator, dtype=dtype) for generator in opened]
    return torch.cat(rows).to(device), states(opened)


def fork(streams: Streams, rows: Sequence[int]) -> Streams:
    """Select rows of streams; the first copy of a row goes on with its stream, every further copy gets its own."""
    seen: dict[int, torch.Generator] = {}
    forked: list[Tensor] = []
    for row in rows:
        if row not in seen:
            seen[row] = generators((streams[row],))[0]
            forked.append(streams[row])
            continue
        seed = int(torch.randint(2**63 - 1, (1,), generator=seen[row]))
        forked.append(torch.Generator("cpu").manual_seed(seed).get_state())
    return tuple(forked)


def derived_seed(seed: int, index: int) -> int:
    """Return the seed of proposal `index` of a picture with `seed`; proposal 0 is the picture's own seed.

    The others are 63-bit draws from a stream that no picture uses, so neighbouring seeds share no proposal.
    """
    if index == 0:
        return seed
    mixer = torch.Generator("cpu").manual_seed((seed * 1_000_003 + 0x9E3779B97F4A7C15) % 2**63)
    draws = torch.randint(2**63 - 1, (index,), generator=mixer)
    return int(draws[-1])
