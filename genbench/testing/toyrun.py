"""Runs on the toy model without command line, files or records: what the contract checks measure plugins with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genbench import sampling
from genbench.backbones.toy import ToyModel, ToyScorer
from genbench.chain import Chain, compose
from genbench.discovery import Plugin
from genbench.judging import Panel
from genbench.kinds import RUN_KINDS, Context, Ledger, Model, Resources, Scorer
from genbench.pluginfile import kinds_of
from genbench.searchspace import TrajectorySpace

STEPS = 6
SIZE = 8
GUIDANCE = 2.0
PROMPTS = ("red", "blue, green", "yellow", "")


def toy_resources(ledger: Ledger | None = None) -> Resources:
    """Return resources whose second models are toys, whatever their word, and whose files are read anew each time."""
    ledger = ledger or Ledger()
    load: Callable[[str | Path, Callable[[Path], Any]], Any] = lambda source, build: build(Path(source))  # noqa: E731
    return Resources(ledger, load, lambda word: ToyModel(ledger=ledger))


def toy_context(
    seeds: Sequence[int] = (1, 2),
    *,
    prompts: Sequence[str] | None = None,
    model: Model | None = None,
    chain: Chain | None = None,
    steps: int = STEPS,
    size: int = SIZE,
    guidance_scale: float = GUIDANCE,
) -> Context:
    """Return the context of one batch: a picture per seed, prompts cycling through colours where none are given.

    With a `chain`, its model transforms and its sampler are in force.
    """
    ledger, chain = Ledger(), chain or Chain()
    resources = toy_resources(ledger)
    model = model or ToyModel(ledger=ledger)
    for transform in chain.model:
        model = transform.transform_model(model, resources)
    sampler = chain.sampler or model.sampler
    words = tuple(prompts or (PROMPTS[i % len(PROMPTS)] for i in range(len(seeds))))
    return Context(
        ledger=ledger,
        load_file=resources.load_file,
        open_model=resources.open_model,
        model=model,
        sampler=sampler,
        schedule=sampler.schedule(steps, model, model.latent_shape(size, size)),
        conditioning=model.encode_prompt(words, height=size, width=size),
        prompts=words,
        seeds=tuple(seeds),
        guidance_scale=guidance_scale,
        height=size,
        width=size,
    )


def chain_of(*plugins: object) -> Chain:
    """Compose built plugin objects, in order; their methods say their kinds."""
    return compose([Plugin(type(p).__name__, p, run_kinds(type(p))) for p in plugins])


def run_kinds(cls: type) -> tuple[str, ...]:
    return tuple(kind for kind in kinds_of(cls) if kind in RUN_KINDS)


def toy_draw(
    *plugins: object,
    seeds: Sequence[int] = (1, 2),
    prompts: Sequence[str] | None = None,
    model: Model | None = None,
    steps: int = STEPS,
    size: int = SIZE,
    guidance_scale: float = GUIDANCE,
    scorer: Scorer | None = None,
) -> Tensor:
    """Sample one latent per seed, (b, 3, size, size), with these plugin objects (none: the plain run).

    A search works on each seed by itself, with `scorer` as its verifier (default: the toy's own).
    """
    chain = chain_of(*plugins)
    wanted = {"model": model, "chain": chain, "steps": steps, "size": size, "guidance_scale": guidance_scale}
    ctx = toy_context(seeds, prompts=prompts, **wanted)  # pyright: ignore[reportArgumentType]
    shape = ctx.model.latent_shape(size, size)
    if chain.search is None:
        return sampling.draw(chain, ctx, shape).x
    panel = Panel({"toy": scorer or ToyScorer()})
    rows = [ctx.rows([i]) for i in range(len(seeds))]
    spaces = [TrajectorySpace(chain, row, shape, panel, 4, {}) for row in rows]
    return torch.cat([chain.search.search(space).state.x for space in spaces])


def toy_images(seeds: Sequence[int] = (1, 2), size: int = SIZE) -> Tensor:
    """Return pictures of the plain toy run, (b, 3, size, size) in [0, 1]."""
    with torch.no_grad():
        return ToyModel().decode(toy_draw(seeds=seeds, size=size))
