"""The loop: composition order, starts, batches, and what a search sees; on the toy model."""

from dataclasses import dataclass, replace

import pytest
import torch

from genbench import sampling, streams
from genbench.backbones.toy import Ancestral, ToyModel
from genbench.chain import Chain
from genbench.errors import UsageError
from genbench.kinds import Context, Ledger, Start, State

SHAPE = (3, 8, 8)


def context(
    prompts: tuple[str, ...] = ("red",), seeds: tuple[int, ...] = (7,), steps: int = 5, model: ToyModel | None = None
) -> Context:
    ledger = Ledger()
    model = (model or ToyModel()).replace(ledger=ledger)
    return Context(
        ledger=ledger,
        load_file=lambda source, build: build(source),
        open_model=lambda word: model,
        model=model,
        sampler=model.sampler,
        schedule=model.sampler.schedule(steps, model, SHAPE),
        conditioning=model.encode_prompt(prompts),
        prompts=prompts,
        seeds=seeds,
        guidance_scale=2.0,
    )


@dataclass(frozen=True)
class Add:
    """Marks the order in which wrappers ran by appending to the state's memory."""

    mark: str

    def wrap_step(self, step, ctx):
        def marked(state, denoise):
            after = step(state, denoise)
            return after.replace(memory={**after.memory, "marks": after.memory.get("marks", "") + self.mark})

        return marked


@dataclass(frozen=True)
class Scale:
    factor: float
    shift: float

    def transform_noise(self, start, ctx):
        return replace(start, noise=start.noise * self.factor + self.shift)


def test_wrappers_nest_leftmost_innermost() -> None:
    chain = Chain(steps=(Add("a"), Add("b")))
    assert sampling.draw(chain, context(steps=1), SHAPE).memory["marks"] == "ab"


def test_noise_transforms_apply_left_to_right() -> None:
    ctx = context()
    noise, rng = sampling.fresh_noise(ctx, SHAPE)
    state = sampling.launch(Chain(noise=(Scale(2, 0), Scale(1, 3))), ctx, noise, rng)
    assert torch.equal(state.x, noise * 2 + 3)


def test_the_first_noise_is_the_generators() -> None:
    noise, _ = sampling.fresh_noise(context(), SHAPE)
    assert torch.equal(noise, torch.randn((1, *SHAPE), generator=torch.Generator("cpu").manual_seed(7)))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_picture_does_not_depend_on_its_batch(eta: float) -> None:
    model = ToyModel(sampler=Ancestral(eta))
    together = sampling.draw(Chain(), context(("red", "blue", "green"), (1, 2, 3), model=model), SHAPE)
    alone = sampling.draw(Chain(), context(("blue",), (2,), model=model), SHAPE)
    assert torch.allclose(together.x[1], alone.x[0], atol=1e-5)


def test_the_ledger_counts_every_row_twice_under_guidance() -> None:
    ctx = context(("red", "blue"), (1, 2), steps=5)
    sampling.draw(Chain(), ctx, SHAPE)
    assert ctx.ledger.evaluations == 2 * 5 * 2 and ctx.ledger.calls == 5


def test_an_image_to_image_start_begins_on_the_schedule() -> None:
    ctx = context()
    noise, rng = sampling.fresh_noise(ctx, SHAPE)
    origin = torch.full((1, *SHAPE), 0.5)
    state = sampling.begin(Start(noise, index=3, origin=origin), ctx.schedule, rng)
    level = ctx.schedule.levels[3]
    assert state.index == 3 and torch.equal(state.x, level.alpha * origin + level.sigma * noise)
    with pytest.raises(UsageError, match="outside the schedule"):
        sampling.begin(Start(noise, index=5, origin=origin), ctx.schedule, rng)


def test_prescribed_step_noise_replaces_the_samplers_own() -> None:
    ctx = context(model=ToyModel(sampler=Ancestral(1.0)))
    noise, rng = sampling.fresh_noise(ctx, SHAPE)
    own = sampling.sample(
        sampling.begin(Start(noise), ctx.schedule, rng), sampling.trajectory(Chain(), ctx), ctx.denoiser(), 5
    )
    drawn, stream = [], rng
    for _ in range(5):
        step_noise, stream = streams.normal(stream, SHAPE)
        drawn.append(step_noise)
    start = Start(noise, step_noise=torch.stack(drawn))
    state = sampling.begin(start, ctx.schedule, streams.seeded([99]))
    told = sampling.sample(state, sampling.trajectory(Chain(), ctx), ctx.denoiser(), 5)
    assert torch.equal(told.x, own.x)


def test_sampling_passes_gradients() -> None:
    ctx = context()
    noise, rng = sampling.fresh_noise(ctx, SHAPE)
    noise.requires_grad_()
    state = sampling.launch(Chain(), ctx, noise, rng)
    out = sampling.sample(state, sampling.trajectory(Chain(), ctx), ctx.denoiser(), 5)
    (gradient,) = torch.autograd.grad(out.x.sum(), noise)
    assert gradient.abs().sum() > 0


def test_states_can_be_cut_and_joined_in_the_middle_of_a_walk() -> None:
    ctx = context(("red", "blue"), (1, 2), model=ToyModel(sampler=Ancestral(1.0)))
    noise, rng = sampling.fresh_noise(ctx, SHAPE)
    step, denoise = sampling.trajectory(Chain(), ctx), ctx.denoiser()
    half: State = sampling.sample(sampling.begin(Start(noise), ctx.schedule, rng), step, denoise, 2)
    whole = sampling.sample(half, step, denoise, 5)
    one = ctx.rows([1])
    alone = sampling.sample(half.rows([1]), sampling.trajectory(Chain(), one), one.denoiser(), 5)
    assert torch.allclose(whole.x[1], alone.x[0], atol=1e-5)
