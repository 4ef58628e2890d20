"""How far a LoRA moved a model: nearness to exemplars, and the share of a picture that is drawn on, of an eval folder.

    python -m genbench_dragon.measure out=outputs/dragon-large exemplars=outputs/large.txt witness=cosine

`out` is a folder of `genbench eval chains="none; dragon"`. Every chain is compared with the first, paired by prompt and
seed, with 95 % intervals clustered by prompt. Where exemplars are texts, pictures are centred on the first chain's and
texts on the prompts of the folder, as in training.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genbench.errors import UsageError
from genbench.evaluation.export import pictures as listed
from genbench.evaluation.scoring import load
from genbench.evaluation.statistics import Estimate, clustered_mean, paired_difference
from genbench.evaluation.store import Store
from genbench.options import convert, parse_words
from genbench.training.job import own_encoder
from genbench_dragon import exemplars
from genbench_dragon.witness import Witness, nearness

TOP, UNLIKE = 6, 0.3
"""Rows that are background, and the summed difference in colour from which a pixel is none of it."""


@dataclass(frozen=True)
class Drawn:
    """One chain's pictures (n, 3, h, w) with their prompts, in an order that is the same for every chain."""

    prompts: tuple[str, ...]
    images: Tensor


def share_drawn(images: Tensor) -> Tensor:
    """The share of pixels (n,) that are not of the background's colour, the mean of the topmost rows."""
    background = images[:, :, :TOP].mean((2, 3), keepdim=True)
    return ((images - background).abs().sum(1) > UNLIKE).double().mean((1, 2))


def chains(folder: Path) -> dict[str, Drawn]:
    """The finished pictures of an eval folder by chain. Raises UsageError where chains drew unlike prompts."""
    found: dict[str, dict[tuple[str, int], Path]] = {}
    with Store(folder, create=False) as store:
        for row in listed(store):
            key = str(row["prompt"]), int(str(row["seed"]))
            found.setdefault(str(row["chain"]), {})[key] = folder / str(row["path"])
    keys = sorted(next(iter(found.values()), {}))
    if not keys or any(sorted(files) != keys for files in found.values()):
        raise UsageError(f"out={folder} does not hold the same pictures of every chain; finish its eval")
    prompts = tuple(prompt for prompt, _ in keys)
    return {name: Drawn(prompts, torch.stack([load(files[key]) for key in keys])) for name, files in found.items()}


def lines(name: str, values: Mapping[str, Tensor], prompts: Sequence[str]) -> Iterator[str]:
    """One line for every chain: its mean, and its difference to the first."""
    first = next(iter(values.values()))
    for chain, value in values.items():
        mean, gain = clustered_mean(value.tolist(), prompts), paired_difference(first.tolist(), value.tolist(), prompts)
        yield f"{name:<10} {chain:<12} {_told(mean)}" + ("" if value is first else f"   {_told(gain, '+')}")


def _told(estimate: Estimate, sign: str = "") -> str:
    return f"{estimate.mean:{sign}.4f} [{estimate.low:{sign}.4f}, {estimate.high:{sign}.4f}]"


def main(argv: Sequence[str]) -> str:
    """Return the table. Raises UsageError for what is missing."""
    words: Mapping[str, Any] = parse_words(argv)
    drawn = chains(Path(words["out"]))
    base, encoder = next(iter(drawn.values())), own_encoder(words.get("model", "solids"))
    if encoder is None:
        raise UsageError("the model brings no encoder to measure with")
    known = exemplars.read(Path(words["exemplars"]), encoder, base.prompts, lambda: base.images)
    witness = convert(words.get("witness", "mahalanobis"), Witness, "witness")

    def near(images: Tensor) -> Tensor:
        return nearness(known.seen(encoder.embed_images(images).float()), known.features, witness, 0.1)

    with torch.no_grad():
        told = [
            *lines("nearness", {name: near(each.images) for name, each in drawn.items()}, base.prompts),
            *lines("drawn", {name: share_drawn(each.images) for name, each in drawn.items()}, base.prompts),
        ]
    return "\n".join([f"n = {len(base.prompts)} a chain", *told])


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1:]) + "\n")
