"""The loop: noise becomes an image one pure step at a time. Every kind of run-time plugin is visible in this file.

    noise -> noise transforms -> begin -> [ sampler.step wrapped by step wrappers ] x steps -> decode
                                 `------ a search repeats this over many noises: genbench.searchspace ------'

Nothing here switches gradients off: inference wraps these functions in `torch.no_grad()`, a trainer does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor

from genbench import streams
from genbench.chain import Chain
from genbench.errors import UsageError
from genbench.kinds import (
    Conditioning,
    Context,
    Denoise,
    Level,
    Model,
    Prediction,
    Resources,
    Sampler,
    Schedule,
    Start,
    State,
    Step,
    encode_prompt,
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
    encode: Callable[..., Conditioning] = encode_prompt,
) -> Context:
    """Encode prompts and lay out the schedule of one batch. Raises UsageError where a size does not fit the model.

    `negative_half`: encode the empty (or negative) prompts also where the run itself is unguided, for methods that ask
    for guidance of their own. `encode(model, prompts, ...)` stands for `encode_prompt` (see `genbench.embeddings`).
    """
    guided = model.guidance_weight(guidance_scale) > 1
    schedule = sampler.schedule(steps, model, model.latent_shape(height, width))
    conditioning = encode(model, prompts, negative, guidance=guided or negative_half, height=height, width=width)
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
        encode=encode,
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


def move(
    x: Tensor, denoise: Denoise, here: Level, there: Level, dtype: torch.dtype, label: Level | None = None
) -> Tensor:
    """Take x (b, ...) from level `here` to `there` along DDIM's path, down or back up; on flows it is Euler's step.

    The network is asked in `dtype` and about `label` (default: `here`); the arithmetic is x's own, float32 or better.
    """
    told = denoise(x.to(dtype), label or here)
    prediction = Prediction(told.raw.to(x.dtype), x, here, told.type)
    return there.alpha * prediction.x0 + there.sigma * prediction.eps


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
