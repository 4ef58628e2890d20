"""Every supported scheduler as a pure sampler: the stock loop's numbers, twice in a row, row by row, with gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import diffusers
import pytest
import torch
from torch import Tensor

from genbench import solvers, streams
from genbench.errors import UsageError
from genbench.kinds import (
    Conditioning,
    Context,
    Denoise,
    Ledger,
    Level,
    Prediction,
    PredictionType,
    Schedule,
    State,
    cat,
)
from genbench.sampler_names import CLASSES, SAMPLERS, SHORT, normalised, sampler_name
from genbench.schedulers import TRAITS, SchedulerSampler, named_sampler, scheduler_prediction_type

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
LEADING = {"steps_offset": 1, "timestep_spacing": "leading"}


@dataclass(frozen=True)
class Case:
    """One scheduler with one configuration; `eta` is what the stock loop passes to its step."""

    name: str
    scheduler: str
    config: dict[str, object]
    eta: float = 0.0

    def make(self) -> SchedulerSampler:
        shared = {} if self.scheduler.startswith("FlowMatch") else SD
        return SchedulerSampler(getattr(diffusers, self.scheduler)(**shared, **self.config), self.eta)


DPM = "DPMSolverMultistepScheduler"
CASES = (
    Case("ddim", "DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, **LEADING}),
    Case("ddim_eta", "DDIMScheduler", {"clip_sample": False, **LEADING}, eta=0.7),
    Case("ddim_v_trailing", "DDIMScheduler", {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    Case("ddpm", "DDPMScheduler", {"clip_sample": False, **LEADING}),
    Case("pndm", "PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False, **LEADING}),
    Case("pndm_prk", "PNDMScheduler", {"skip_prk_steps": False}),
    Case("lcm", "LCMScheduler", {"original_inference_steps": 50}),
    Case("tcd", "TCDScheduler", {}, eta=0.3),
    Case("euler", "EulerDiscreteScheduler", {**LEADING}),
    Case("euler_karras", "EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    Case("euler_v", "EulerDiscreteScheduler", {"prediction_type": "v_prediction"}),
    Case("euler_a", "EulerAncestralDiscreteScheduler", {**LEADING}),
    Case("heun", "HeunDiscreteScheduler", {}),
    Case("lms", "LMSDiscreteScheduler", {}),
    Case("dpm2", "KDPM2DiscreteScheduler", {}),
    Case("dpm2_a", "KDPM2AncestralDiscreteScheduler", {}),
    Case("dpmpp_2m", DPM, {**LEADING}),
    Case("dpmpp_2m_karras", DPM, {"use_karras_sigmas": True}),
    Case("dpmpp_2m_sde", DPM, {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    Case("dpmpp_3m", DPM, {"solver_order": 3}),
    Case("dpmpp_2m_flow", DPM, {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}),
    Case("dpmpp_2s", "DPMSolverSinglestepScheduler", {}),
    Case("dpmpp_sde", "DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    Case("deis", "DEISMultistepScheduler", {}),
    Case("unipc", "UniPCMultistepScheduler", {}),
    Case("unipc_3", "UniPCMultistepScheduler", {"solver_order": 3, "prediction_type": "v_prediction"}),
    Case("flow_euler", "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    Case("flow_heun", "FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
)
STEPS = 8
SHAPE = (4, 6, 6)


class PlainModel:
    """All that a schedule asks of a model."""

    device = torch.device("cpu")


def network(x: Tensor, t: Tensor) -> Tensor:
    """A smooth stand-in for a network: every output row depends on its own row and on t alone."""
    return torch.tanh(0.7 * x.flip(1) + 0.1 * torch.cos(t.float() / 100))


def denoiser(sampler: SchedulerSampler, calls: list[Level] | None = None) -> Denoise:
    kind = scheduler_prediction_type(sampler.scheduler)

    def denoise(x: Tensor, level: Level) -> Prediction:
        if calls is not None:
            calls.append(level)
        return Prediction(network(x / level.scale, level.t), x, level, kind)

    return denoise


def context(sampler: SchedulerSampler, schedule: Schedule) -> Context:
    return Context(
        ledger=Ledger(),
        load_file=lambda source, build: None,
        open_model=lambda word: None,  # type: ignore[arg-type, return-value]
        model=PlainModel(),  # type: ignore[arg-type]
        sampler=sampler,
        schedule=schedule,
        conditioning=Conditioning({}),
        prompts=("",),
        seeds=(0,),
        guidance_scale=1.0,
    )


def planned(sampler: SchedulerSampler, steps: int = STEPS) -> Context:
    return context(sampler, sampler.schedule(steps, PlainModel(), SHAPE))  # type: ignore[arg-type]


def begun(ctx: Context, seeds: list[int]) -> State:
    noise, rng = streams.normal(streams.seeded(seeds), SHAPE)
    return State(noise * ctx.schedule.init_scale, 0, {}, rng)


def walk(ctx: Context, state: State, denoise: Denoise, until: int | None = None) -> State:
    while state.index < (ctx.schedule.steps if until is None else until):
        state = ctx.sampler.step(state, denoise, ctx)
    return state


def stock(case: Case, seed: int) -> Tensor:
    """The loop of a stock pipeline, in its own order of calls."""
    scheduler = case.make().scheduler
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator("cpu").manual_seed(seed)
    x = torch.randn((1, *SHAPE), generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    parameters = scheduler.step.__code__.co_varnames[: scheduler.step.__code__.co_argcount]
    extra = {"eta": case.eta} if "eta" in parameters else {}
    extra |= {"generator": generator} if "generator" in parameters else {}
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(given, t), t, x, return_dict=False, **extra)[0]
    return x


each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_every_supported_class_is_tested() -> None:
    assert {case.scheduler for case in CASES} == set(TRAITS)
    assert set(CLASSES) == set(TRAITS)


@each
def test_bit_equal_to_the_stock_loop_twice_in_a_row(case: Case) -> None:
    reference = stock(case, 3)
    assert not torch.equal(reference, stock(case, 4))
    sampler = case.make()
    ctx = planned(sampler)
    state = begun(ctx, [3])
    assert ctx.schedule.steps == STEPS == len(ctx.schedule.levels) - 1
    for _ in range(2):
        assert torch.equal(walk(ctx, state, denoiser(sampler)).x, reference)


@each
def test_a_step_changes_nothing_of_its_input(case: Case) -> None:
    sampler = case.make()
    ctx = planned(sampler)
    state = walk(ctx, begun(ctx, [1]), denoiser(sampler), 4)
    before = state.x.clone()
    first, second = (ctx.sampler.step(state, denoiser(sampler), ctx) for _ in range(2))
    third = ctx.sampler.step(first, denoiser(sampler), ctx)
    again = ctx.sampler.step(second, denoiser(sampler), ctx)
    assert torch.equal(state.x, before)
    assert torch.equal(first.x, second.x)
    assert torch.equal(third.x, again.x)
    assert not torch.equal(first.x, third.x)


@each
def test_rows_select_and_join_at_any_step(case: Case) -> None:
    sampler = case.make()
    ctx = planned(sampler)
    denoise = denoiser(sampler)
    together = walk(ctx, begun(ctx, [5, 6, 7]), denoise, 3)
    alone = [walk(ctx, begun(ctx, [seed]), denoise, 3) for seed in (5, 6, 7)]
    assert torch.allclose(together.x, torch.cat([state.x for state in alone]), atol=1e-5)
    finished = walk(ctx, together, denoise).x
    joined = walk(ctx, cat([alone[2], alone[0]]), denoise).x
    picked = walk(ctx, together.rows([2, 0]), denoise).x
    assert torch.allclose(joined, finished[[2, 0]], atol=1e-5)
    assert torch.allclose(picked, finished[[2, 0]], atol=1e-5)


@each
def test_forked_rows_part_where_the_sampler_draws(case: Case) -> None:
    sampler = case.make()
    ctx = planned(sampler)
    state = walk(ctx, begun(ctx, [5]), denoiser(sampler), 4)
    first, second = walk(ctx, state.fork([0, 0]), denoiser(sampler)).x
    draws = case.name in ("ddim_eta", "ddpm", "lcm", "tcd", "euler_a", "dpm2_a", "dpmpp_2m_sde", "dpmpp_sde")
    assert torch.equal(first, second) is not draws


@each
def test_gradients_flow_to_the_noise(case: Case) -> None:
    sampler = case.make()
    ctx = planned(sampler)
    state = begun(ctx, [2])
    noise = state.x.clone().requires_grad_()
    walk(ctx, state.replace(x=noise), denoiser(sampler)).x.square().sum().backward()
    assert noise.grad is not None
    assert torch.isfinite(noise.grad).all()
    assert noise.grad.abs().sum() > 0


@each
def test_evaluations_are_the_calls_that_a_step_makes(case: Case) -> None:
    sampler = case.make()
    ctx = planned(sampler)
    calls: list[Level] = []
    state = begun(ctx, [2])
    for levels in ctx.schedule.evaluations:
        calls.clear()
        state = ctx.sampler.step(state, denoiser(sampler, calls), ctx)
        assert tuple(calls) == levels
    total = sum(len(levels) for levels in ctx.schedule.evaluations)
    expected = {"pndm": STEPS + 1, "pndm_prk": STEPS + 9}
    second_order = case.name in ("heun", "dpm2", "dpm2_a", "flow_heun")
    assert total == expected.get(case.name, 2 * STEPS - 1 if second_order else STEPS)


DETERMINISTIC = tuple(
    case
    for case in CASES
    if case.name not in ("ddim_eta", "ddpm", "lcm", "tcd", "euler_a", "dpm2_a", "dpmpp_2m_sde", "dpmpp_sde")
    and case.name not in ("ddim_v_trailing", "pndm_prk")
)


def exact_output(kind: PredictionType, x0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """What a network says that knows the one clean point x0 and its noise eps."""
    if kind == "flow_prediction":
        return eps - x0
    x = level.alpha * x0 + level.sigma * eps
    return eps if kind == "epsilon" else solvers.eps_to_v(eps, x, level.alpha, level.sigma)


@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
def test_levels_say_where_the_walk_is(case: Case) -> None:
    """With an exact network for one point, x is alpha x0 + sigma eps at every level the schedule names."""
    sampler = case.make()
    ctx = planned(sampler)
    kind = scheduler_prediction_type(sampler.scheduler)
    x0, eps = torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(0))

    def exact(x: Tensor, level: Level) -> Prediction:
        return Prediction(exact_output(kind, x0, eps, level), x, level, kind)

    levels = ctx.schedule.levels
    state = State(levels[0].alpha * x0 + levels[0].sigma * eps)
    for level in levels[1:]:
        state = ctx.sampler.step(state, exact, ctx)
        assert torch.allclose(state.x, level.alpha * x0 + level.sigma * eps, atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
@pytest.mark.parametrize("start", [3, STEPS - 1])
def test_a_walk_may_begin_in_the_middle(case: Case, start: int) -> None:
    """Image-to-image and renoising start with no memory; an exact network must still be followed exactly."""
    sampler = case.make()
    ctx = planned(sampler)
    kind = scheduler_prediction_type(sampler.scheduler)
    x0, eps = torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(1))

    def exact(x: Tensor, level: Level) -> Prediction:
        return Prediction(exact_output(kind, x0, eps, level), x, level, kind)

    level, last = ctx.schedule.levels[start], ctx.schedule.levels[-1]
    end = walk(ctx, State(level.alpha * x0 + level.sigma * eps, start), exact)
    assert torch.allclose(end.x, last.alpha * x0 + last.sigma * eps, atol=3e-4, rtol=1e-4)


def test_pndm_with_runge_kutta_refuses_to_begin_in_the_middle() -> None:
    sampler = next(case for case in CASES if case.name == "pndm_prk").make()
    ctx = planned(sampler)
    with pytest.raises(UsageError, match="plms"):
        walk(ctx, State(torch.zeros(1, *SHAPE), 4), denoiser(sampler))


@pytest.mark.parametrize("name", ["ddim_eta", "dpmpp_2m_sde"])
def test_prescribed_step_noise_takes_the_place_of_the_draws(name: str) -> None:
    sampler = next(case for case in CASES if case.name == name).make()
    ctx = planned(sampler)
    state = begun(ctx, [9])
    drawn, _ = streams.normal(state.rng, (STEPS, *SHAPE))
    rng, kept = state.rng, []
    for _ in range(STEPS):
        noise, rng = streams.normal(rng, SHAPE)
        kept.append(noise)
    noisy = state.replace(memory={"step_noise": torch.stack(kept, 1)})
    assert torch.equal(walk(ctx, noisy, denoiser(sampler)).x, walk(ctx, state, denoiser(sampler)).x)
    other = state.replace(memory={"step_noise": drawn.flip(1)})
    assert not torch.equal(walk(ctx, other, denoiser(sampler)).x, walk(ctx, state, denoiser(sampler)).x)


@pytest.mark.parametrize("name", ["euler", "euler_a", "ddim", "ddpm"])
def test_prescribed_step_noise_is_refused_where_it_cannot_be_honoured(name: str) -> None:
    sampler = next(case for case in CASES if case.name == name).make()
    ctx = planned(sampler)
    state = begun(ctx, [9]).replace(memory={"step_noise": torch.zeros(1, STEPS, *SHAPE)})
    with pytest.raises(UsageError, match="prescribed step noise"):
        walk(ctx, state, denoiser(sampler))


def test_one_step_and_many_steps() -> None:
    for case in CASES:
        if case.name == "pndm_prk":
            continue
        for steps in (1, 2, 25):
            ctx = planned(case.make(), steps)
            state = begun(ctx, [1])
            assert torch.isfinite(walk(ctx, state, denoiser(ctx.sampler)).x).all(), (case.name, steps)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("refused", "says"),
    [
        (lambda: SchedulerSampler(diffusers.RePaintScheduler()), "RePaintScheduler is not a supported scheduler"),
        (lambda: SchedulerSampler(diffusers.DDPMScheduler(variance_type="learned_range")), "sampler=ddim"),
        (lambda: named_sampler("eulr", diffusers.DDIMScheduler()), "did you mean 'euler'"),
        (lambda: named_sampler("ddim_karras", diffusers.DDIMScheduler()), "use sampler=ddim"),
        (lambda: named_sampler("ddim", diffusers.FlowMatchEulerDiscreteScheduler()), "does not walk rectified flow"),
        (lambda: named_sampler("FlowMatchEulerDiscreteScheduler", diffusers.DDIMScheduler()), "rectified-flow model"),
    ],
)
def test_refusals_say_what_to_do(refused: Callable[[], object], says: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        refused()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("word", SAMPLERS)
def test_every_shown_name_builds_on_a_diffusion_model(word: str) -> None:
    if word.startswith("FlowMatch"):
        return
    base = diffusers.PNDMScheduler(**SD, skip_prk_steps=True, steps_offset=1)
    sampler = named_sampler(word, base)
    assert sampler.scheduler.config.beta_start == SD["beta_start"]
    assert sampler.scheduler.config.steps_offset == 1 or "steps_offset" not in sampler.scheduler.config


@pytest.mark.parametrize("word", ["euler", "heun", "dpmpp_2m", "unipc", "FlowMatchEulerDiscreteScheduler"])
def test_flow_models_keep_their_shift(word: str) -> None:
    sampler = named_sampler(word, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert sampler.prediction_type == "flow_prediction"
    sigmas = [float(level.sigma) for level in planned(sampler).schedule.levels]
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[STEPS // 2] > 0.6


@pytest.mark.parametrize(
    ("label", "short"),
    [
        ("Euler a", "euler_a"),
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M SDE Karras", "dpmpp_2m_sde_karras"),
        ("DPM2 a", "dpm2_a"),
        ("UniPC", "unipc"),
        ("LMS Karras", "lms_karras"),
        ("EulerDiscreteScheduler", "eulerdiscretescheduler"),
    ],
)
def test_labels_of_other_tools(label: str, short: str) -> None:
    assert normalised(label) == short
    assert sampler_name(label) == sampler_name(short)


def test_karras_is_a_setting_of_the_solver() -> None:
    assert sampler_name("DPM++ 2M Karras").overrides["use_karras_sigmas"] is True
    assert "use_karras_sigmas" not in SHORT["dpmpp_2m"].overrides
