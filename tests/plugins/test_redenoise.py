"""Re-denoise sampling against exact scores, on every family, and its neutral setting."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from genbench import generate, sampling
from genbench.backbones import adapt
from genbench.backbones.toy import ToyModel
from genbench.chain import Chain
from genbench.errors import UsageError
from genbench.generation import plan, resolve
from genbench.judging import Panel
from genbench.kinds import Conditioning, Context, Ledger, Level, Prediction, Resources, Schedule, Start
from genbench.searchspace import TrajectorySpace
from genbench.testing import contract_tests, toy_context
from genbench_npnet import Redenoise
from genbench_npnet.redenoise import golden_target, move
from tests.tiny import FAMILIES, tiny

test_contract = contract_tests(Redenoise, "noise", high=3.0)


def levels(step: float) -> Schedule:
    """Two variance-preserving levels, `step` of angle apart, in float64."""
    angles = [torch.tensor(1.2, dtype=torch.float64), torch.tensor(1.2 - step, dtype=torch.float64)]
    made = tuple(Level(angle * 600, angle.cos(), angle.sin()) for angle in angles)
    return Schedule(made, ((made[0],),))


def toy() -> tuple[ToyModel, Conditioning, Tensor]:
    """The mixture with its exact score in float64, a prompt of one component, and noise."""
    model = ToyModel()
    model.modules["network"].double()
    red, nothing = (model.encode_prompt([text]).positive["weights"].double() for text in ("red", ""))
    conditioning = Conditioning({"weights": red}, {"weights": nothing})
    return model, conditioning, torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def displacement(step: float, high: float, low: float) -> Tensor:
    model, text, noise = toy()
    target = golden_target(noise, levels(step), model.denoiser(text, high), model.denoiser(text, low))
    return target - noise


def test_equal_guidance_comes_back_up_to_the_square_of_the_step() -> None:
    errors = [float(displacement(step, 1.0, 1.0).norm()) for step in (0.1, 0.05, 0.025)]
    assert 3.2 < errors[0] / errors[1] < 4.8 and 3.5 < errors[1] / errors[2] < 4.5


def test_displacement_is_linear_in_the_difference_of_guidance() -> None:
    one, two, four = (displacement(1e-4, 1.0 + by, 1.0) for by in (1.0, 2.0, 4.0))
    assert (two / 2 - one).norm() / one.norm() < 1e-3
    assert (four / 4 - one).norm() / one.norm() < 1e-3
    shifted = displacement(1e-4, 4.0, 3.0)  # the same difference at another guidance
    assert (shifted - one).norm() / one.norm() < 1e-2


def test_displacement_is_along_the_direction_of_guidance() -> None:
    model, text, noise = toy()
    prediction = model.denoiser(text, 2.0)(noise, levels(0.1).levels[0])
    assert prediction.cond is not None and prediction.uncond is not None
    direction = prediction.cond.eps - prediction.uncond.eps
    cosines: list[float] = []
    for step in (0.2, 0.02, 0.002):
        moved = displacement(step, 2.0, 1.0)
        cosines.append(float((moved * direction).sum() / moved.norm() / direction.norm()))
    assert abs(cosines[2]) > 1 - 1e-4 and abs(cosines[0]) <= abs(cosines[1]) <= abs(cosines[2])


def test_the_scalar_of_the_first_order_formula() -> None:
    """x_0' - x_0 = C (w_l - w_w) (eps_c - eps_u) with C = sin(step) / cos(angle - step), from DDIM's two lines."""
    model, text, noise = toy()
    step, schedule = 1e-4, levels(1e-4)
    prediction = model.denoiser(text, 2.0)(noise, schedule.levels[0])
    direction = prediction.cond.eps - prediction.uncond.eps  # type: ignore[union-attr]
    # down: x_1 = (cos b / cos a) (x - sin a eps) + sin b eps, so eps weighs (sin b cos a - cos b sin a) / cos a.
    down = -math.sin(step) / math.cos(1.2)
    expected = down * math.cos(1.2) / math.cos(1.2 - step) * direction  # and back: times cos a / cos b
    moved = displacement(step, 2.0, 1.0)
    assert (moved - expected).norm() / expected.norm() < 1e-2


def test_a_move_is_eulers_step_for_rectified_flow() -> None:
    noise = torch.randn(2, 3, 8, 8)
    model = ToyModel(prediction_type="flow_prediction")
    here, there = (Level(torch.tensor(s * 1000), torch.tensor(1 - s), torch.tensor(s)) for s in (0.9, 0.7))
    denoise = model.denoiser(model.encode_prompt(["red", "blue"]), 2.0)
    flow = denoise(noise, here).flow
    assert torch.allclose(move(noise, denoise, here, there, noise.dtype), noise + (0.7 - 0.9) * flow, atol=1e-5)


def test_rounds_repeat() -> None:
    ctx = toy_context(seeds=[1])
    noise = torch.randn(1, 3, 8, 8)
    once = Redenoise(high=3.0)
    assert torch.allclose(
        Redenoise(high=3.0, rounds=2).target(noise, ctx), once.target(once.target(noise, ctx), ctx), atol=1e-6
    )


def test_half_precision_costs_little() -> None:
    """The network is asked in half precision, the steps are taken in float32."""
    model, text, noise = toy()

    def half(x: Tensor, level: Level) -> Prediction:
        assert x.dtype == torch.bfloat16
        raw = model.denoiser(text, 5.5)(x.double(), level).eps
        return Prediction(raw.bfloat16(), x, level, "epsilon")

    exact = golden_target(noise.bfloat16().double(), levels(0.1), *(model.denoiser(text, 5.5),) * 2)
    rounded = golden_target(noise.bfloat16(), levels(0.1), half, half)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).square().mean() < 4e-6  # all of it in bfloat16: 2e-5


def test_unconditional_models_have_no_guidance() -> None:
    ledger = Ledger()
    model = adapt(tiny("ddpm"), ledger)
    resources = Resources(ledger, lambda path, build: build(path), lambda word: model)  # type: ignore[arg-type]
    ctx = sampling.context(
        resources, model, model.sampler, prompts=[""], seeds=[1], steps=4, guidance_scale=1.0, height=16, width=16
    )  # fmt: skip
    with torch.no_grad(), pytest.raises(UsageError, match="choose a model with guidance"):
        Redenoise().transform_noise(Start(torch.randn(1, 3, 16, 16)), ctx)


def test_candidates_of_a_search_go_through_in_batches() -> None:
    calls: list[int] = []

    class Watched(Redenoise):
        def transform_noise(self, start: Start, ctx: Context) -> Start:
            calls.append(len(start.noise))
            return super().transform_noise(start, ctx)

    ctx = toy_context(seeds=[1])
    space = TrajectorySpace(Chain(noise=(Watched(),)), ctx, (3, 8, 8), Panel(), 2, {})
    noise, seeds = space.propose(5)
    state = space.start(noise, seeds)
    assert calls == [2, 2, 1] and len(state.x) == len(state.rng) == 5


def test_the_plan_counts_it() -> None:
    words = {"model": "toy", "prompt": "red", "plugin": "redenoise,search", "options": {"search": {"candidates": 2}}}
    told = plan(resolve(words))
    assert told["evaluations_per_picture"] == generate(**words)[0].nfe and told["not_counted"] == []


def test_what_it_costs() -> None:
    plain = generate(model="toy", prompt="red", seed=1)[0]
    golden = generate(model="toy", prompt="red", seed=1, plugin="redenoise")[0]
    both = generate(model="toy", prompt="red", seed=1, plugin="redenoise", options={"redenoise": {"low": 2.0}})[0]
    assert golden.nfe == plain.nfe + 3 and both.nfe == plain.nfe + 4


def test_unguided_runs_get_their_negative_half_from_the_method() -> None:
    golden = generate(model="toy", prompt="red", seed=1, guidance_scale=1, plugin="redenoise")[0]
    plain = generate(model="toy", prompt="red", seed=1, guidance_scale=1)[0]
    assert not torch.equal(golden.latents, plain.latents)


def test_a_walk_of_one_step_has_no_level_to_come_back_from() -> None:
    ctx = toy_context(seeds=[1])

    class OneStep:
        def schedule(self, steps: int, model: Any, shape: tuple[int, ...]) -> Schedule:
            return levels(0.1)

    with pytest.raises(UsageError, match="redenoise.steps=10 gives a walk of one step"):
        Redenoise().transform_noise(Start(torch.zeros(1, 3, 8, 8)), ctx_with(ctx, OneStep()))


def ctx_with(ctx: Context, sampler: Any) -> Context:
    from dataclasses import replace

    return replace(ctx, sampler=sampler)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("ddpm", "ddim", "class_conditional")])
def test_every_family_with_a_prompt(family: str) -> None:
    ledger = Ledger()
    model = adapt(tiny(family), ledger)
    known = dict(model.recommended)
    height, width = int(str(known["height"])), int(str(known["width"]))
    ctx = sampling.context(
        Resources(ledger, lambda path, build: build(path), lambda word: model),  # type: ignore[arg-type]
        model,  # type: ignore[arg-type]
        model.sampler,
        prompts=["red cube", "blue cat"],
        seeds=[1, 2],
        steps=4,
        guidance_scale=float(str(known["guidance_scale"])),
        height=height,
        width=width,
    )
    with torch.no_grad():
        noise, _ = sampling.fresh_noise(ctx, model.latent_shape(height, width))
        start = Start(noise)
        assert Redenoise(strength=0).transform_noise(start, ctx) is start
        if family == "flux_schnell":
            with pytest.raises(UsageError, match="redenoise follows guidance, and model=flux predicts the same"):
                Redenoise(steps=4).transform_noise(start, ctx)
            return
        golden, same = (Redenoise(steps=4, high=high).transform_noise(start, ctx).noise for high in (5.5, 1.0))
    assert torch.isfinite(golden).all() and golden.dtype == noise.dtype
    assert (golden - same).abs().mean() > 1e-4  # more than the error of a step
