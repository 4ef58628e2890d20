"""Gradients through sampling against a chain that is known on paper: eps(x) = theta x, five DDIM steps."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from genbench import solvers
from genbench.backbones.toy import ToyModel
from genbench.kinds import Conditioning, Context, Denoise, Ledger, Level, Prediction, Schedule, State
from genbench_alignprop import backprop, truncation
from genbench_alignprop.backprop import Divergence, last_steps, walk

T, THETA, START = 5, 0.3, 1.2
PICTURE = 3.117445
BY_LAST = {0: 0.0, 1: -1.128665, 2: -1.894971, 3: -2.696327, 4: -3.744903, 5: -5.899076}


class Line:
    """A sampler that does DDIM between given levels."""

    def schedule(self, steps: int, model: Any, shape: Any) -> Schedule:
        bars = torch.linspace(0.05, 0.98, T + 1, dtype=torch.float64)
        levels = tuple(Level(torch.tensor(float(i)), bar.sqrt(), (1 - bar).sqrt()) for i, bar in enumerate(bars))
        return Schedule(levels, tuple((level,) for level in levels[:-1]))

    def step(self, state: State, denoise: Denoise, ctx: Context) -> State:
        here, there = ctx.schedule.levels[state.index], ctx.schedule.levels[state.index + 1]
        eps = denoise(state.x, here).eps
        x = solvers.ddim(state.x, eps, here.alpha, here.sigma, there.alpha, there.sigma)
        return state.replace(x=x, index=state.index + 1)


class Linear:
    """A model whose network is one number."""

    def __init__(self, theta: Tensor) -> None:
        self.theta, self.calls = theta, 0

    def denoiser(self, conditioning: Any, guidance_scale: float) -> Denoise:
        def denoise(x: Tensor, level: Level) -> Prediction:
            self.calls += 1
            return Prediction(self.theta * x, x, level, "epsilon")

        return denoise


def chain(rows: int = 1, theta: float = THETA) -> tuple[Context, State, Tensor]:
    weight = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    model: Any = Linear(weight)
    sampler = Line()
    ctx = Context(
        ledger=Ledger(),
        load_file=lambda path, build: None,
        open_model=lambda word: model,
        model=model,
        sampler=sampler,
        schedule=sampler.schedule(T, model, ()),
        conditioning=Conditioning({}),
        prompts=("",) * rows,
        seeds=tuple(range(rows)),
        guidance_scale=1.0,
    )
    generators = tuple(torch.Generator().manual_seed(i).get_state() for i in range(rows))
    return ctx, State(torch.full((rows, 1), START, dtype=torch.float64), 0, {}, generators), weight


def gradient(kept: tuple[bool, ...]) -> tuple[float, float]:
    ctx, state, theta = chain()
    x = walk(ctx, state, kept).x
    found = torch.autograd.grad(x.sum(), theta)[0] if x.requires_grad else torch.zeros(())
    return float(x.detach()), float(found)


@pytest.mark.parametrize("last", range(6))
def test_the_last_steps_give_the_gradients_on_paper(last: int) -> None:
    picture, found = gradient(truncation.kept_steps("last", T, last, torch.Generator()))
    assert picture == pytest.approx(PICTURE, abs=1e-6) and found == pytest.approx(BY_LAST[last], abs=1e-6)


def test_all_steps_are_the_whole_chain() -> None:
    """K = T against autograd of the chain written out, and against finite differences."""

    def picture(theta: Tensor) -> Tensor:
        levels, x = Line().schedule(T, None, ()).levels, torch.tensor(START, dtype=torch.float64)
        for here, there in itertools.pairwise(levels):
            x = there.alpha * (x - here.sigma * theta * x) / here.alpha + there.sigma * theta * x
        return x

    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    (whole,) = torch.autograd.grad(picture(theta), theta)
    h = 1e-6
    numeric = (picture(theta.detach() + h) - picture(theta.detach() - h)) / (2 * h)
    assert gradient((True,) * T)[1] == pytest.approx(float(whole), abs=1e-9)
    assert float(numeric) == pytest.approx(float(whole), abs=1e-6)


@pytest.mark.parametrize("last", range(1, 6))
def test_a_prefix_without_a_graph_is_a_prefix_of_constants(last: int) -> None:
    """Cutting the network's outputs and keeping the latents' graph gives the same number."""
    ctx, state, theta = chain()
    own = ctx.denoiser()
    while state.index < T:
        keep = state.index >= T - last
        state = ctx.sampler.step(state, own if keep else backprop.constant(own), ctx)
    (found,) = torch.autograd.grad(state.x.sum(), theta)
    assert float(found) == gradient(truncation.kept_steps("last", T, last, torch.Generator()))[1]


def test_the_mean_over_masks() -> None:
    """The two random truncations are different estimators: their exact means over every mask."""
    per_step = 0.0
    for mask in itertools.product((False, True), repeat=T):
        chance = 1.0
        for i, keep in enumerate(mask):
            chance *= (i + 1) / (T + 1) if keep else 1 - (i + 1) / (T + 1)
        per_step += chance * gradient(mask)[1]
    per_rollout = sum(gradient(tuple(i >= u for i in range(T)))[1] for u in range(T + 1)) / (T + 1)
    assert per_step == pytest.approx(-2.672409, abs=1e-6) and per_rollout == pytest.approx(-2.560657, abs=1e-6)


@pytest.mark.parametrize("mode", ["per_rollout", "per_step_random"])
def test_masks_are_drawn_as_told(mode: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.tensor([truncation.kept_steps(mode, T, 1, generator) for _ in range(6000)]).float()
    expected = torch.arange(1, T + 1) / (T + 1)
    assert torch.allclose(masks.mean(0), expected, atol=0.02)
    suffixes = (masks[:, 1:] >= masks[:, :-1]).all(1).float().mean()
    assert (suffixes == 1.0) if mode == "per_rollout" else (suffixes < 0.7)


def test_kept_steps_are_computed_again_and_the_others_once() -> None:
    ctx, state, theta = chain()
    model: Any = ctx.model
    x = walk(ctx, state, (False, False, True, True, True)).x
    assert model.calls == T
    torch.autograd.grad(x.sum(), theta)
    assert model.calls == T + 3


def test_the_divergence_is_that_of_the_kept_steps() -> None:
    ctx, state, theta = chain(rows=2)
    base: Any = Linear(torch.tensor(0.1, dtype=torch.float64))
    divergence = Divergence(base.denoiser(None, 1.0))
    seen: list[Tensor] = []
    step = ctx.sampler.step

    class Watched(Line):
        def step(self, state: State, denoise: Denoise, ctx: Context) -> State:
            seen.append(state.x.detach())
            return step(state, denoise, ctx)

    walk(replace(ctx, sampler=Watched()), state, (False,) * 4 + (True,), divergence)
    expected = sum(((THETA - 0.1) * x).square().mean(1) for x in seen[4:])
    assert torch.allclose(divergence.sum(), torch.as_tensor(expected))
    (found,) = torch.autograd.grad(divergence.sum().sum(), theta)
    by_hand = sum(2 * (THETA - 0.1) * x.square().sum() for x in seen[4:])
    assert float(found) == pytest.approx(float(torch.as_tensor(by_hand)))


def test_nothing_has_diverged_before_the_first_update() -> None:
    ctx, state, _ = chain()
    divergence = Divergence(ctx.denoiser())
    walk(ctx, state, (True,) * T, divergence)
    assert float(divergence.sum().detach()) == 0.0


def test_draft_lv_is_unbiased_and_its_variance_falls() -> None:
    """The gradient of the last step at x_1' ~ N(alpha x0, sigma^2), whose mean is known for a linear network."""
    ctx, state, theta = chain(rows=400)
    with torch.no_grad():
        finished = walk(ctx, state, (False,) * T)
    here = ctx.schedule.levels[T - 1]
    there = ctx.schedule.levels[T]
    slope = there.sigma - there.alpha * here.sigma / here.alpha  # of the DDIM step by theta, per x
    mean = float(slope * here.alpha * finished.x[0])

    def estimates(draws: int) -> Tensor:
        x = last_steps(ctx, finished, draws).x.reshape(draws, 400).mean(0)
        return torch.stack([torch.autograd.grad(row, theta, retain_graph=True)[0] for row in x])

    one, four = estimates(1), estimates(4)
    error = 4 * float(one.std()) / 20
    assert float(one.mean()) == pytest.approx(mean, abs=error)
    assert float(four.mean()) == pytest.approx(mean, abs=error / 2)
    assert 2.5 < float(one.var() / four.var()) < 6.5


def test_the_toy_model_takes_gradients_too() -> None:
    """On the mixture: every step's gradient with respect to the initial noise agrees with an ordinary graph."""
    from genbench.training.rollouts import Rollout
    from tests.training.rolling import resources

    model = ToyModel(ledger=Ledger())
    rollout = Rollout(resources(model), model, steps=3, height=8, width=8)
    ctx = rollout.context(("red",), (1,))
    state = rollout.begin(ctx)
    x = state.x.requires_grad_()
    (found,) = torch.autograd.grad(walk(ctx, state.replace(x=x), (True,) * 3).x.square().sum(), x)
    plain = state.replace(x=x)
    while plain.index < 3:
        plain = ctx.sampler.step(plain, ctx.denoiser(), ctx)
    (expected,) = torch.autograd.grad(plain.x.square().sum(), x)
    assert torch.allclose(found, expected, atol=1e-6)


def stored(last: int, steps: int, *, cut: bool) -> tuple[int, Tensor]:
    """Bytes that autograd keeps of a walk on the mixture whose last steps pass gradients, and its gradient.

    `cut`: the first steps without a graph, as `walk` does it; else with one, and only the network's outputs cut.
    """
    from genbench.training.rollouts import Rollout
    from tests.training.rolling import resources

    model = ToyModel(ledger=Ledger())
    network: Any = model.modules["network"]
    means: Tensor = network.means.requires_grad_()  # what learns
    rollout = Rollout(resources(model), model, steps=steps, height=8, width=8)
    ctx = rollout.context(("red", "blue"), (1, 2))
    state, kept = rollout.begin(ctx), truncation.kept_steps("last", steps, last, torch.Generator())
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if cut:
            x = walk(ctx, state, kept).x
        else:
            own, state = ctx.denoiser(), state.replace(x=state.x.requires_grad_())
            again = backprop.checkpointed(own)
            while state.index < steps:
                state = ctx.sampler.step(state, again if kept[state.index] else backprop.constant(own), ctx)
            x = state.x
    (found,) = torch.autograd.grad(x.square().sum(), means)
    return sum(sizes), found


def test_memory_does_not_grow_with_steps_that_are_not_kept() -> None:
    """Flat in the number of steps for a fixed K, with the gradient of the whole graph; a step's share for each kept."""
    flat = {steps: stored(2, steps, cut=True) for steps in (4, 8, 16, 32)}
    assert len({size for size, _ in flat.values()}) == 1
    graphs = {steps: stored(2, steps, cut=False) for steps in (4, 8, 16, 32)}
    assert all(torch.equal(flat[steps][1], graphs[steps][1]) for steps in flat)
    assert graphs[32][0] > graphs[16][0] > graphs[8][0] > flat[8][0]
    by_last = [stored(last, 16, cut=True)[0] for last in (1, 2, 3, 4)]
    shares = {more - less for less, more in itertools.pairwise(by_last)}
    assert len(shares) == 1 and shares.pop() > 0
