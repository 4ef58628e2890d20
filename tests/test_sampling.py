"""The loop: composition order, starts, batches, and what a search sees; on the toy model."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from genbench import sampling, streams
from genbench.backbones.toy import Ancestral, ToyModel, ToyScorer
from genbench.chain import Chain
from genbench.errors import UsageError
from genbench.judging import Panel
from genbench.kinds import Context, Ledger, Start, State
from genbench.searchspace import TrajectorySpace, neighbours

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


def space(chain: Chain | None = None, batch: int = 4, scorer: Any = None, **words: Any) -> TrajectorySpace:
    return TrajectorySpace(chain or Chain(), context(**words), SHAPE, Panel({"toy": scorer or ToyScorer()}), batch, {})


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


class TestSpace:
    def test_its_first_proposal_run_to_the_end_is_the_plain_picture(self) -> None:
        searched = space(model=ToyModel(sampler=Ancestral(1.0)))
        state = searched.run(searched.start(*searched.propose(1)))
        plain = sampling.draw(Chain(), context(model=ToyModel(sampler=Ancestral(1.0))), SHAPE)
        assert torch.equal(state.x, plain.x)

    def test_proposals_are_nested(self) -> None:
        few, many = space(), space()
        first, _ = few.propose(2)
        second, _ = few.propose(2)
        noise, seeds = many.propose(4)
        assert torch.equal(torch.cat([first, second]), noise)
        assert seeds[0] == 7 and len(set(seeds)) == 4

    def test_neighbours_keep_norm_and_cosine(self) -> None:
        pivot = torch.randn(1, 4, 32, 32, dtype=torch.float64)
        near = neighbours(pivot, torch.randn(8, 4, 32, 32, dtype=torch.float64), 0.9)
        norms = near.flatten(1).norm(dim=1) / pivot.norm()
        cosines = torch.cosine_similarity(near.flatten(1), pivot.flatten(1))
        assert torch.allclose(norms, torch.ones_like(norms), atol=1e-12)
        assert torch.allclose(cosines, torch.full_like(cosines, 0.9), atol=1e-12)
        between = torch.cosine_similarity(near[0].flatten(), near[1].flatten(), dim=0)
        assert float(between) == pytest.approx(0.81, abs=0.03)

    def test_chunks_do_not_change_the_result(self) -> None:
        whole, cut = space(batch=8), space(batch=3)
        a, b = (s.run(s.start(*s.propose(8))) for s in (whole, cut))
        assert torch.allclose(a.x, b.x, atol=1e-5)
        assert whole.spent == cut.spent == 8 * 5 * 2

    def test_renoise_goes_back_with_the_marginal_of_that_level(self) -> None:
        searched = space()
        state = searched.run(searched.start(*searched.propose(1)), until=4)
        many = searched.renoise(state.fork([0] * 400), 2)
        here, there = searched.ctx.schedule.levels[4], searched.ctx.schedule.levels[2]
        ratio = there.alpha / here.alpha
        spread = (there.sigma**2 - (ratio * here.sigma) ** 2) ** 0.5
        assert many.index == 2
        assert torch.allclose(many.x.mean(0), ratio * state.x[0], atol=5 * float(spread) / 20)
        assert float(many.x.std(0).mean()) == pytest.approx(float(spread), rel=0.02)
        with pytest.raises(UsageError, match="earlier"):
            searched.renoise(state, 5)

    def test_preview_is_the_x0_prediction_and_is_paid_for(self) -> None:
        searched = space()
        state = searched.run(searched.start(*searched.propose(2)), until=3)
        before = searched.spent
        images = searched.preview(state)
        level = searched.ctx.schedule.levels[3]
        x0 = searched.ctx.rows([0, 0]).denoiser()(state.x, level).x0
        assert torch.allclose(images, searched.ctx.model.decode(x0))
        assert before == 2 * 3 * 2 and images.shape == (2, *SHAPE)

    def test_scoring_without_a_verifier_says_what_to_do(self) -> None:
        lonely = TrajectorySpace(Chain(), context(), SHAPE, Panel(), 4, {})
        with pytest.raises(UsageError, match="verifier="):
            lonely.score(torch.zeros(1, *SHAPE))


def test_states_can_be_cut_and_joined_in_the_middle_of_a_walk() -> None:
    ctx = context(("red", "blue"), (1, 2), model=ToyModel(sampler=Ancestral(1.0)))
    noise, rng = sampling.fresh_noise(ctx, SHAPE)
    step, denoise = sampling.trajectory(Chain(), ctx), ctx.denoiser()
    half: State = sampling.sample(sampling.begin(Start(noise), ctx.schedule, rng), step, denoise, 2)
    whole = sampling.sample(half, step, denoise, 5)
    one = ctx.rows([1])
    alone = sampling.sample(half.rows([1]), sampling.trajectory(Chain(), one), one.denoiser(), 5)
    assert torch.allclose(whole.x[1], alone.x[0], atol=1e-5)
