"""What golden noise looks like: `python -m genbench_npnet.measure prompts=prompts/solids.jsonl plugin=npnet`.

Nobody re-normalises golden noise. This prints how far it is from white noise: mean, standard deviation, excess
kurtosis, correlation of neighbours, how far it moved, and the time it took, over all prompts and seeds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from genbench import sampling
from genbench.generation import Session, resolve
from genbench.options import parse_words

BATCH = 8


def statistics(golden: Tensor, noise: Tensor) -> dict[str, float]:
    """Of golden noise (n, c, h, w) and the noise that it was made of; all are 0, 0, 1, 0, 0, 0, 0 for white noise.

    `channel_mean`: root mean square over noises and channels of a channel's mean, above what chance gives white noise.
    `right` and `below`: correlation with the neighbour. `moved`: root mean square of the difference.
    """
    cells = golden[0, 0].numel()
    centred = golden - golden.mean()
    std = float(centred.std())
    return {
        "moved": float((golden - noise).square().mean().sqrt()),
        "mean": float(golden.mean()),
        "std": std,
        "channel_mean": float((golden.mean((2, 3)).square().mean() - 1 / cells).clamp(min=0).sqrt()),
        "excess_kurtosis": float((centred / std).pow(4).mean() - 3),
        "right": _correlation(centred[..., :, 1:], centred[..., :, :-1]),
        "below": _correlation(centred[..., 1:, :], centred[..., :-1, :]),
    }


def _correlation(a: Tensor, b: Tensor) -> float:
    return float((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt())


def noises(words: dict[str, object]) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Noise, golden noise (b, c, h, w) and its seconds, for every prompt and seed of a run, batch by batch."""
    session = Session.open(resolve(words))
    items = list(session.resolved.items())
    for first in range(0, len(items), BATCH):
        ctx, shape = session.context(items[first : first + BATCH], session.resolved)
        noise, rng = sampling.fresh_noise(ctx, shape)
        began = time.perf_counter()
        state = sampling.launch(session.chain, ctx, noise, rng)
        yield noise.float(), state.x.float() / ctx.schedule.init_scale, time.perf_counter() - began


def main(words: Sequence[str]) -> None:
    """Print one line of JSON."""
    asked = parse_words(words)
    with torch.no_grad():
        drawn, made, seconds = zip(*noises(dict(asked)), strict=True)
    noise, golden = torch.cat(drawn), torch.cat(made)
    told = {name: round(value, 4) for name, value in statistics(golden, noise).items()}
    if len(noise) > BATCH:  # the first batch also loads
        told["ms_per_picture"] = round(1000 * sum(seconds[1:]) / (len(noise) - BATCH), 2)
    print(json.dumps({"plugin": asked.get("plugin", "none"), "n": len(noise), **told}))  # noqa: T201  # its purpose


if __name__ == "__main__":
    main(sys.argv[1:])
