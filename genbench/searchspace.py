"""What a search sees: `kinds.Space` over the sampling core. Every diffusion operation of a search stands here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from genbench import cost, discovery, solvers, streams
from genbench.backbones import ADAPTERS
from genbench.backbones.caches import cached
from genbench.backbones.preparation import check_family
from genbench.chain import Chain, check_cache
from genbench.discovery import Plugin
from genbench.errors import UsageError
from genbench.judging import Panel
from genbench.kinds import Context, Level, Prediction, State, cat
from genbench.sampling import fresh_noise, launch, sample, trajectory

COSINE = 0.95


@dataclass
class TrajectorySpace:
    """`kinds.Space` over one prompt and one seed. `ctx` has one row.

    States of more rows than `batch` go through the network in chunks, so that candidates are limited by time and not
    by memory. Proposals are numbered through the life of the space; number 0 is the picture's own noise. `place`: see
    `among`.
    """

    chain: Chain
    ctx: Context
    shape: tuple[int, ...]
    panel: Panel
    batch: int
    row: Mapping[str, object]
    progress: Callable[[int], None] | None = None
    place: tuple[int, int] | None = None
    proposed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.ctx = cost.priced(self.chain, self.ctx)
        self._before = self.ctx.ledger.evaluations

    @property
    def spent(self) -> int:
        return self.ctx.ledger.evaluations - self._before

    @property
    def verifiers(self) -> tuple[str, ...]:
        return tuple(self.panel.verifiers)

    @property
    def draws_noise(self) -> bool:
        return draws_noise(self.ctx, self.shape)

    def price(self, since: int = 0, until: int | None = None) -> int:
        return cost.price(self.ctx, since, until)

    # --- noise ----------------------------------------------------------------------------------------------------

    def propose(
        self, n: int, around: Tensor | None = None, cosine: float | None = None
    ) -> tuple[Tensor, tuple[int, ...]]:
        numbers = range(self.proposed, self.proposed + n)
        self.proposed += n
        seeds = tuple(streams.derived_seed(self.ctx.seeds[0], number) for number in numbers)
        return self.redraw(seeds, around, cosine), seeds

    def redraw(self, seeds: Sequence[int], around: Tensor | None = None, cosine: float | None = None) -> Tensor:
        noise, _ = fresh_noise(replace(self.ctx, seeds=tuple(seeds)), self.shape)
        return noise if around is None else neighbours(around, noise, COSINE if cosine is None else cosine)

    # --- walks ----------------------------------------------------------------------------------------------------

    def start(self, noise: Tensor, seeds: Sequence[int]) -> State:
        chunks = self._chunks(len(noise))
        return cat([self._start(noise[rows], [seeds[i] for i in rows]).rows(keep) for rows, keep in chunks])

    def _start(self, noise: Tensor, seeds: Sequence[int]) -> State:
        ctx = replace(self.ctx.rows([0] * len(noise)), seeds=tuple(seeds))
        _, rng = fresh_noise(ctx, self.shape)
        return launch(self.chain, ctx, noise, rng)

    def run(self, state: State, until: int | None = None) -> State:
        stop = self.ctx.schedule.steps if until is None else until
        chunks = self._chunks(len(state.x))
        return cat([self._run(state.rows(rows), stop).rows(keep) for rows, keep in chunks])

    def _run(self, state: State, stop: int) -> State:
        ctx = self.ctx.rows([0] * len(state.x))
        return sample(state, trajectory(self.chain, ctx), ctx.denoiser(), stop, self.progress)

    def renoise(self, state: State, to: int) -> State:
        if to > state.index:
            raise UsageError(f"renoise goes back to an earlier step; step {to} lies after step {state.index}")
        here, there = self.ctx.schedule.levels[state.index], self.ctx.schedule.levels[to]
        noise, rng = streams.normal(state.rng, self.shape, state.x.dtype, state.x.device)
        x = solvers.renoise(state.x, noise, here.alpha, here.sigma, there.alpha, there.sigma)
        return State(x, to, {}, rng)

    def preview(self, state: State) -> Tensor:
        level = self.ctx.schedule.levels[state.index]
        chunks = [state.rows(rows).x for rows, _ in self._chunks(len(state.x))]
        denoised = [self.ctx.rows([0] * len(x)).denoiser()(x, level).x0 for x in chunks]
        return torch.cat([self.ctx.model.decode(x0) for x0 in denoised])

    def decode(self, state: State) -> Tensor:
        chunks = [state.rows(rows).x for rows, _ in self._chunks(len(state.x))]
        return torch.cat([self.ctx.model.decode(x) for x in chunks])

    # --- judges ---------------------------------------------------------------------------------------------------

    def score(self, images: Tensor) -> Tensor:
        judged = self.judge(images)
        if len(judged) > 1:
            raise UsageError(
                f"this search follows one score and verifier= names {', '.join(judged)}; name one, or "
                "verifier=ensemble for their weighted sum"
            )
        return next(iter(judged.values()))

    def judge(self, images: Tensor) -> Mapping[str, Tensor]:
        return self.panel.judge(images, self.ctx.prompts[0], self.row)

    def watch(self, images: Tensor) -> Mapping[str, Tensor]:
        return self.panel.watch(images, self.ctx.prompts[0], self.row)

    # --- other spaces ---------------------------------------------------------------------------------------------

    def draft(self, steps: int | None = None, cache: str | None = None) -> TrajectorySpace:
        if cache is not None:
            check_cache(self.chain.plugins, f"{cache} of drafts")
        return replace(self, ctx=drafted(self.ctx, steps, cache))

    def among(self, row: int, of: int) -> TrajectorySpace:
        first = row - row % self.batch
        return replace(self, place=(row - first, min(self.batch, of - first)))

    def _chunks(self, n: int) -> Iterator[tuple[list[int], list[int]]]:
        """Yield the rows of each network call, and which of them are kept: with `place`, one row fills a whole call."""
        if self.place is not None:
            position, width = self.place
            yield from (([i] * width, [position]) for i in range(n))
            return
        for first in range(0, n, self.batch):
            rows = list(range(first, min(first + self.batch, n)))
            yield rows, list(range(len(rows)))


def drafted(ctx: Context, steps: int | None = None, cache: str | None = None) -> Context:
    """Return the context of cheaper walks. Raises ModelError where the model takes no step cache."""
    model = ctx.model if cache is None else cached(ctx.model, cache)
    shape = model.latent_shape(ctx.height, ctx.width)
    schedule = ctx.schedule if steps is None else ctx.sampler.schedule(steps, model, shape)
    return replace(ctx, model=model, schedule=schedule)


def check_cache_beside(plugins: Sequence[str], cache: str) -> None:
    """Refuse a step cache (named `cache` in the message) beside plugins, given by their words, that it cannot run with;
    reads their classes alone. Raises PluginError.
    """
    found = [discovery.plugin_class(word) for word in plugins]
    check_cache([Plugin(each.name, each.cls, each.kinds, each.entry) for each in found], cache)


def check_cache_of(family: str, cache: str) -> None:
    """Refuse a step cache that a family of diffusers lacks, before its weights load. Raises ModelError."""
    for pipeline_class, place in ADAPTERS.items():
        if place.startswith(f"{family}:"):  # a family's adapters share one module, which has its name
            check_family(pipeline_class, cache, ())


def draws_noise(ctx: Context, shape: Sequence[int]) -> bool:
    """Say whether the sampler draws noise: one step is taken from zeros, with a network that says zero."""

    def silent(x: Tensor, level: Level) -> Prediction:
        return Prediction(torch.zeros_like(x), x, level, ctx.model.prediction_type)

    x = torch.zeros((1, *shape), dtype=ctx.model.dtype, device=ctx.model.device)
    state = State(x, rng=streams.seeded([0]))
    after = ctx.sampler.step(state, silent, ctx.rows([0]))
    return not torch.equal(after.rng[0], state.rng[0])


def neighbours(pivot: Tensor, noise: Tensor, cosine: float) -> Tensor:
    """Return points with the pivot's norm and the given cosine to it, (n, ...), one per row of Gaussian `noise`.

    r (rho u + sqrt(1 - rho^2) w), u the pivot's direction, w the noise's direction orthogonal to it, in float64
    (arXiv:2501.09732, zero-order search).
    """
    p = pivot.double().flatten(1)
    g = noise.double().flatten(1)
    r = p.square().sum(1, keepdim=True).sqrt()
    u = p / r
    w = torch.nn.functional.normalize(g - (g * u).sum(1, keepdim=True) * u, dim=1)
    return (r * (cosine * u + (1 - cosine**2) ** 0.5 * w)).to(noise.dtype).reshape(noise.shape)
