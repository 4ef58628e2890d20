"""The loop: noise becomes an image one pure step at a time. Every kind of run-time plugin is visible in this file.

    noise -> noise transforms -> begin -> [ sampler.step wrapped by step wrappers ] x steps -> decode
                                 `------------ a search repeats this over many noises ------------'

Nothing here switches gradients off: inference wraps these functions in `torch.no_grad()`, a trainer does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from genbench import solvers, streams
from genbench.chain import Chain
from genbench.errors import UsageError
from genbench.kinds import (
    Conditioning,
    Context,
    Denoise,
    Model,
    Resources,
    Sampler,
    Schedule,
    Scorer,
    Start,
    State,
    Step,
    cat,
)


def context(
    resources: Resources,
    model: Model,
    sampler: Sampler,
    *,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    guidance_scale: float,
    height: int,
    width: int,
    negative: Sequence[str] | None = None,
    negative_half: bool = False,
    encode: Callable[..., Conditioning] | None = None,
) -> Context:
    """Encode prompts and lay out the schedule of one batch. Raises UsageError where a size does not fit the model.

    `negative_half`: encode the empty (or negative) prompts also where the run itself is unguided, for methods that ask
    for guidance of their own. `encode` stands in for the model's `encode_prompt` (see `genbench.embeddings`).
    """
    encode = encode or model.encode_prompt
    guided = model.guidance_weight(guidance_scale) > 1
    schedule = sampler.schedule(steps, model, model.latent_shape(height, width))
    conditioning = encode(prompts, negative, guidance=guided or negative_half, height=height, width=width)
    return Context(
        ledger=resources.ledger,
        load_file=resources.load_file,
        open_model=resources.open_model,
        model=model,
        sampler=sampler,
        schedule=schedule,
        conditioning=conditioning,
        prompts=tuple(prompts),
        seeds=tuple(seeds),
        guidance_scale=guidance_scale if guided or conditioning.negative is None else 1.0,
        negative=None if negative is None else tuple(negative),
        height=height,
        width=width,
    )


def trajectory(chain: Chain, ctx: Context) -> Step:
    """Return one outer step: the sampler's, wrapped by the chain's step wrappers, leftmost innermost."""
    innermost: Step = lambda state, denoise: ctx.sampler.step(state, denoise, ctx)  # noqa: E731
    return reduce(lambda step, wrapper: wrapper.wrap_step(step, ctx), chain.steps, innermost)


def sample(
    state: State, step: Step, denoise: Denoise, until: int, progress: Callable[[int], None] | None = None
) -> State:
    """Walk from `state.index` to outer step `until`; `progress(rows)` is told after each step."""
    while state.index < until:
        state = step(state, denoise)
        if progress is not None:
            progress(len(state.x))
    return state


def begin(start: Start, schedule: Schedule, rng: streams.Streams) -> State:
    """Turn a start into a state: `init_scale * noise`, or `alpha * origin + sigma * noise` at a later step.

    Raises UsageError where `start.index` lies outside the schedule.
    """
    if not 0 <= start.index < schedule.steps:
        raise UsageError(f"a start at step {start.index} is outside the schedule of {schedule.steps} steps")
    if start.origin is None:
        x = start.noise * schedule.init_scale
    else:
        level = schedule.levels[start.index]
        x = level.alpha * start.origin + level.sigma * start.noise
    memory = {} if start.step_noise is None else {"step_noise": start.step_noise.transpose(0, 1)}
    return State(x, start.index, memory, rng)


def launch(chain: Chain, ctx: Context, noise: Tensor, rng: streams.Streams) -> State:
    """Apply the noise transforms to fresh noise and begin."""
    start = reduce(lambda value, plugin: plugin.transform_noise(value, ctx), chain.noise, Start(noise))
    return begin(start, ctx.schedule, rng)


def fresh_noise(ctx: Context, shape: Sequence[int]) -> tuple[Tensor, streams.Streams]:
    """Draw the initial noise of each picture from its own CPU stream, in the model's dtype."""
    return streams.normal(streams.seeded(ctx.seeds), shape, ctx.model.dtype, ctx.model.device)


def draw(chain: Chain, ctx: Context, shape: Sequence[int], progress: Callable[[int], None] | None = None) -> State:
    """Sample one batch without a search: noise in, final states out."""
    noise, rng = fresh_noise(ctx, shape)
    state = launch(chain, ctx, noise, rng)
    return sample(state, trajectory(chain, ctx), ctx.denoiser(), ctx.schedule.steps, progress)


@dataclass
class TrajectorySpace:
    """`kinds.Space` over one prompt and one seed: all that a search sees. `ctx` has one row.

    States of more rows than `batch` go through the network in chunks, so that candidates are limited by time and not
    by memory. Proposals are numbered through the life of the space; number 0 is the picture's own noise.
    """

    chain: Chain
    ctx: Context
    shape: tuple[int, ...]
    scorer: Scorer | None
    batch: int
    row: Mapping[str, object]
    progress: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        self._proposed = 0
        self._before = self.ctx.ledger.evaluations

    @property
    def spent(self) -> int:
        return self.ctx.ledger.evaluations - self._before

    def propose(
        self, n: int, around: Tensor | None = None, cosine: float | None = None
    ) -> tuple[Tensor, tuple[int, ...]]:
        numbers = range(self._proposed, self._proposed + n)
        self._proposed += n
        seeds = tuple(streams.derived_seed(self.ctx.seeds[0], number) for number in numbers)
        noise, _ = fresh_noise(replace(self.ctx, seeds=seeds), self.shape)
        if around is None:
            return noise, seeds
        return neighbours(around, noise, 0.95 if cosine is None else cosine), seeds

    def start(self, noise: Tensor, seeds: Sequence[int]) -> State:
        return cat([self._start(noise[rows], [seeds[row] for row in rows]) for rows in _chunks(len(noise), self.batch)])

    def _start(self, noise: Tensor, seeds: Sequence[int]) -> State:
        ctx = replace(self.ctx.rows([0] * len(noise)), seeds=tuple(seeds))
        _, rng = fresh_noise(ctx, self.shape)
        return launch(self.chain, ctx, noise, rng)

    def run(self, state: State, until: int | None = None) -> State:
        stop = self.ctx.schedule.steps if until is None else until
        return cat([self._run(state.rows(rows), stop) for rows in _chunks(len(state.x), self.batch)])

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
        chunks = [state.rows(rows).x for rows in _chunks(len(state.x), self.batch)]
        denoised = [self.ctx.rows([0] * len(x)).denoiser()(x, level).x0 for x in chunks]
        return torch.cat([self.ctx.model.decode(x0) for x0 in denoised])

    def decode(self, state: State) -> Tensor:
        chunks = [state.rows(rows).x for rows in _chunks(len(state.x), self.batch)]
        return torch.cat([self.ctx.model.decode(x) for x in chunks])

    def score(self, images: Tensor) -> Tensor:
        if self.scorer is None:
            raise UsageError("this search needs a verifier; name one with verifier=, `genbench plugins` lists scorers")
        n = len(images)
        return self.scorer.score(images=images, prompts=[self.ctx.prompts[0]] * n, rows=[self.row] * n)


def neighbours(pivot: Tensor, noise: Tensor, cosine: float) -> Tensor:
    """Return points with the pivot's norm and the given cosine to it, (n, ...), one per row of Gaussian `noise`.

    r (rho u + sqrt(1 - rho^2) w), u the pivot's direction, w the noise's direction orthogonal to it, in float64
    (arXiv:2501.09732, zero-order search).
    """
    p = pivot.double().flatten(1)
    g = noise.double().flatten(1)
    r = p.norm(dim=1, keepdim=True)
    u = p / r
    w = torch.nn.functional.normalize(g - (g * u).sum(1, keepdim=True) * u, dim=1)
    return (r * (cosine * u + (1 - cosine**2) ** 0.5 * w)).to(noise.dtype).reshape(noise.shape)


def _chunks(n: int, size: int) -> list[list[int]]:
    return [list(range(first, min(first + size, n))) for first in range(0, n, size)]
