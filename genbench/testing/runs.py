"""What holds for plugins of a run: model, noise, sampler, step and search, measured on the toy model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genbench import sampling
from genbench.backbones.toy import ToyModel
from genbench.kinds import Start, State
from genbench.testing.case import Case, Check
from genbench.testing.toyrun import SIZE, chain_of, toy_context, toy_draw, toy_resources

SEEDS = (11, 12)
ROUNDING = 1e-5
"""Float32 sums over a batch may be ordered differently; latents are of order 1."""


def keeps_shape_dtype_device(case: Case) -> None:
    """The result has the shape, dtype and device of a plain run, and is finite."""
    with torch.no_grad():
        plain, made = toy_draw(seeds=SEEDS), toy_draw(case.build(), seeds=SEEDS)
    case.require(made.shape == plain.shape, f"the shape became {tuple(made.shape)}, was {tuple(plain.shape)}")
    case.require(made.dtype == plain.dtype, f"the dtype became {made.dtype}, was {plain.dtype}")
    case.require(made.device == plain.device, f"the device became {made.device}, was {plain.device}")
    case.require(torch.isfinite(made).all(), "the result is not finite")


def same_seed_same_result(case: Case) -> None:
    """Two runs of one plugin object, and of another built alike, agree bit by bit; global randomness is not used."""
    plugin = case.build()
    with torch.no_grad():
        torch.manual_seed(1)
        first = toy_draw(plugin, seeds=SEEDS)
        torch.manual_seed(2)
        case.equal(toy_draw(plugin, seeds=SEEDS), first, "a second run with the same seeds differs")
        case.equal(toy_draw(case.build(), seeds=SEEDS), first, "an equal plugin gives another result")


def batch_of_two_is_two_of_one(case: Case) -> None:
    """A picture does not depend on its batch."""
    with torch.no_grad():
        both = toy_draw(case.build(), seeds=SEEDS, prompts=("red", "blue"))
        first = toy_draw(case.build(), seeds=SEEDS[:1], prompts=("red",))
        second = toy_draw(case.build(), seeds=SEEDS[1:], prompts=("blue",))
    said = "a picture depends on its batch; compute every row from its own row"
    case.equal(both, torch.cat([first, second]), said, ROUNDING)


def runs_with_and_without_gradients(case: Case) -> None:
    """The result is the same under `no_grad` and with gradients on, where it can be differentiated if it claims so."""
    with torch.no_grad():
        plain = toy_draw(case.build(), seeds=SEEDS)
    with torch.enable_grad():
        case.equal(_from_leaf(case), plain, "the result differs when gradients are on")


def _from_leaf(case: Case) -> Tensor:
    """Draw with gradients on, from noise that asks for them where no search draws its own."""
    chain = chain_of(case.build())
    if chain.search is not None:
        return toy_draw(case.build(), seeds=SEEDS).detach()
    ctx = toy_context(SEEDS, chain=chain)
    noise, rng = sampling.fresh_noise(ctx, ctx.model.latent_shape(SIZE, SIZE))
    noise.requires_grad_()
    state = sampling.launch(chain, ctx, noise, rng)
    x = sampling.sample(state, sampling.trajectory(chain, ctx), ctx.denoiser(), ctx.schedule.steps).x
    if x.requires_grad:
        gradient: Tensor | None = torch.autograd.grad(x.sum(), noise, allow_unused=True)[0]
        case.require(gradient is None or torch.isfinite(gradient).all(), "the gradient is not finite")
    return x.detach()


def neutral_changes_nothing(case: Case) -> None:
    """At `about.neutral` a run is bit-identical to one without the plugin (skipped where it names none)."""
    if case.about.neutral is None:
        return
    with torch.no_grad():
        made = toy_draw(case.build(**case.about.neutral), seeds=SEEDS)
        case.equal(made, toy_draw(seeds=SEEDS), "its neutral setting is not bit-identical to no plugin")


def default_changes_something(case: Case) -> None:
    """As built here, it changes at least one of eight pictures."""
    seeds = tuple(range(8))
    with torch.no_grad():
        same = torch.equal(toy_draw(case.build(), seeds=seeds), toy_draw(seeds=seeds))
    case.require(not same, "it changes nothing; give contract_tests options at which it does")


# --- what goes in is not changed ----------------------------------------------------------------------------------


def model_is_left_alone(case: Case) -> None:
    """The model that goes in draws the same picture afterwards: a transform returns another model."""
    model = ToyModel()
    with torch.no_grad():
        before = toy_draw(model=model)
        case.build().transform_model(model, toy_resources())
        case.equal(toy_draw(model=model), before, "transform_model changed its input; copy what you change")


def start_is_left_alone(case: Case) -> None:
    """The noise that goes in is not written to."""
    ctx = toy_context(SEEDS)
    noise, _ = sampling.fresh_noise(ctx, ctx.model.latent_shape(SIZE, SIZE))
    before = noise.clone()
    with torch.no_grad():
        case.build().transform_noise(Start(noise), ctx)
    case.equal(noise, before, "transform_noise changed its input in place")


def state_is_left_alone(case: Case) -> None:
    """A step taken twice from the same states gives the same states: no in-place edit, no hidden counter."""
    chain = chain_of(case.build())
    ctx = toy_context(SEEDS, chain=chain)
    step, denoise = sampling.trajectory(chain, ctx), ctx.denoiser()
    with torch.no_grad():
        state = sampling.launch(chain, ctx, *sampling.fresh_noise(ctx, ctx.model.latent_shape(SIZE, SIZE)))
        for _ in range(ctx.schedule.steps):
            x, rng, memory = state.x.clone(), [s.clone() for s in state.rng], _tensors(state.memory)
            following = step(state, denoise)
            case.equal(state.x, x, "a step changed its input state in place")
            kept = all(torch.equal(one, other) for one, other in zip(state.rng, rng, strict=True))
            case.require(kept and _same(_tensors(state.memory), memory), "a step changed its input's memory or streams")
            case.require(following.index == state.index + 1, "a step has to raise the state's index by one")
            state = following


def step_is_pure(case: Case) -> None:
    """A step taken again from a past state, in a fresh trajectory, gives what it gave."""
    chain = chain_of(case.build())
    ctx = toy_context(SEEDS, chain=chain)
    with torch.no_grad():
        start = sampling.launch(chain, ctx, *sampling.fresh_noise(ctx, ctx.model.latent_shape(SIZE, SIZE)))
        ends = [_walk(chain_of(case.build()), ctx, start).x for _ in range(2)]
    case.equal(ends[0], ends[1], "the same walk from the same state differs; keep all state in State.memory")


def _walk(chain: sampling.Chain, ctx: sampling.Context, start: State) -> State:
    return sampling.sample(start, sampling.trajectory(chain, ctx), ctx.denoiser(), ctx.schedule.steps)


def _tensors(memory: Mapping[str, object]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in memory.items() if isinstance(value, Tensor)}


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


_DRAWN: tuple[Check, ...] = (
    keeps_shape_dtype_device,
    same_seed_same_result,
    batch_of_two_is_two_of_one,
    runs_with_and_without_gradients,
    neutral_changes_nothing,
    default_changes_something,
)
CHECKS: Mapping[str, tuple[Check, ...]] = {
    "model": (model_is_left_alone, *_DRAWN),
    "noise": (start_is_left_alone, *_DRAWN),
    "sampler": (*_DRAWN, state_is_left_alone, step_is_pure),
    "step": (*_DRAWN, state_is_left_alone, step_is_pure),
    "search": _DRAWN,
}
