"""The walk of a student: its levels in every family, the formula in its plainest form, against diffusers' own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from genbench import sampling, streams
from genbench.backbones import adapt
from genbench.backbones.toy import Ancestral, ToyModel
from genbench.chain import Chain
from genbench.errors import UsageError
from genbench.fewstep import FewStep, levels_of
from genbench.kinds import Context, Ledger, Level, Model, Schedule, State
from tests.tiny import tiny
from tests.training.rolling import resources

DIFFUSION = ("sd", "sd_v", "sd_lcm", "sdxl", "pixart_alpha", "pixart_sigma", "hunyuan")
FLOWS = ("sd3", "sd35", "flux", "flux_schnell")
SIZE = 32
PROMPTS, SEEDS = ("red cube", "blue"), (3, 4)


def model_of(family: str, **pipeline: Any) -> Model:
    pipe = tiny(family)
    for name, part in pipeline.items():
        setattr(pipe, name, part)
    opened: Any = adapt(pipe, Ledger())
    return opened.replace(name="tiny")


def context(
    model: Model, steps: int, seeds: tuple[int, ...] = SEEDS, prompts: tuple[str, ...] = PROMPTS, guidance: float = 1.0
) -> Context:
    return sampling.context(
        resources(model),
        model,
        model.sampler,
        prompts=prompts,
        seeds=seeds,
        steps=steps,
        guidance_scale=guidance,
        height=SIZE,
        width=SIZE,
    )


def drawn(model: Model, steps: int, **words: Any) -> Tensor:
    ctx = context(model, steps, **words)
    return sampling.draw(Chain(), ctx, model.latent_shape(SIZE, SIZE)).x


def rows_noise(model: Model, draws: int, seeds: tuple[int, ...] = SEEDS) -> list[Tensor]:
    """What each row's generator gives, draw after draw."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = (1, *model.latent_shape(SIZE, SIZE))
    return [torch.cat([torch.randn(shape, generator=each) for each in generators]) for _ in range(draws)]


def plain_x0(model: Model, ctx: Context, x: Tensor, level: Level) -> Tensor:
    """x0 by the textbook, in float64, of what the bare network says."""
    raw = ctx.denoiser()(x, level).raw.double()
    a, s, x = level.alpha.double(), level.sigma.double(), x.double()
    match model.prediction_type:
        case "epsilon":
            return (x - s * raw) / a
        case "v_prediction":
            return a * x - s * raw
        case _:
            return x - s * raw


# --- levels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", DIFFUSION)
def test_a_time_is_the_training_timestep_whatever_the_models_own_solver_skips(family: str) -> None:
    model = model_of(family)
    alphas: Tensor = model.pipeline.scheduler.alphas_cumprod  # type: ignore[attr-defined]
    times = {0.999: 999, 0.749: 749, 0.625: 625, 0.399: 399, 0.001: 1, 1.0: 999, 0.0001: 0}
    for level, t in zip(levels_of(model, model.latent_shape(SIZE, SIZE), tuple(times)), times.values(), strict=True):
        assert int(level.t) == t and level.scale == 1.0
        assert float(level.alpha) == pytest.approx(float(alphas[t]) ** 0.5)
        assert float(level.sigma) == pytest.approx((1 - float(alphas[t])) ** 0.5)


@pytest.mark.parametrize("family", FLOWS)
def test_a_time_of_a_flow_is_its_share_of_the_shifted_schedule_or_as_told_sigma(family: str) -> None:
    model = model_of(family)
    shape = model.latent_shape(SIZE, SIZE)
    own = model.sampler.schedule(1000, model, shape).levels
    times = (1.0, 0.75, 0.5, 0.001)
    for level, place in zip(levels_of(model, shape, times), (0, 250, 500, 999), strict=True):
        assert torch.equal(level.sigma, own[place].sigma) and torch.equal(level.t, own[place].t)
    for level, time in zip(levels_of(model, shape, times, as_told=True), times, strict=True):
        assert float(level.sigma) == pytest.approx(time) and float(level.t) == pytest.approx(1000 * time)
        assert float(level.alpha + level.sigma) == pytest.approx(1)


def test_without_a_shift_the_two_are_one() -> None:
    model = model_of("sd3", scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0))
    shape, times = model.latent_shape(SIZE, SIZE), (1.0, 0.75, 0.5, 0.25)
    shares, told = levels_of(model, shape, times), levels_of(model, shape, times, as_told=True)
    assert [float(a.sigma) for a in shares] == pytest.approx([float(b.sigma) for b in told], abs=1e-6)


def test_pure_noise_is_left_out_where_the_network_predicts_it() -> None:
    zero = {"rescale_betas_zero_snr": True, "beta_schedule": "scaled_linear"}
    eps = model_of("sd", scheduler=diffusers.DDIMScheduler(**zero))
    v = model_of("sd_v", scheduler=diffusers.DDIMScheduler(**zero, prediction_type="v_prediction"))
    shape = eps.latent_shape(SIZE, SIZE)
    assert int(levels_of(eps, shape, (1.0,))[0].t) == 998 and float(levels_of(eps, shape, (1.0,))[0].alpha) > 0
    assert int(levels_of(v, shape, (1.0,))[0].t) == 999 and float(levels_of(v, shape, (1.0,))[0].alpha) == 0


def test_a_sampler_in_the_models_place_keeps_the_schedule() -> None:
    for model in (model_of("sd"), ToyModel()):
        shape, times = model.latent_shape(SIZE, SIZE), (0.9, 0.4)
        walking = model.replace(sampler=FewStep(times, own=FewStep((0.1,), own=model.sampler)))
        for one, two in zip(levels_of(model, shape, times), levels_of(walking, shape, times), strict=True):
            assert torch.equal(one.sigma, two.sigma) and torch.equal(one.t, two.t)
    pipeline = model_of("sd").replace(sampler=FewStep((0.9,)))
    assert int(levels_of(pipeline, shape, (0.9,))[0].t) == 900
    with pytest.raises(ValueError, match="own=model.sampler"):
        levels_of(ToyModel().replace(sampler=FewStep((0.9,))), (3, 8, 8), (0.9,))


# --- the walk -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", (*DIFFUSION, *FLOWS))
def test_one_step_is_the_plain_prediction_of_scaled_noise(family: str) -> None:
    model = model_of(family)
    time = 1.0 if family in FLOWS else 0.625
    walking = model.replace(sampler=FewStep((time,)))
    (level,) = levels_of(model, model.latent_shape(SIZE, SIZE), (time,))
    (z,) = rows_noise(model, 1)
    with torch.no_grad():
        expected = plain_x0(model, context(model, 1), level.sigma * z, level)
        assert torch.allclose(drawn(walking, 1).double(), expected, atol=1e-4, rtol=1e-4)
    assert walking.ledger.evaluations == 2 * len(SEEDS)  # type: ignore[attr-defined]  # ours and the plain one


@pytest.mark.parametrize("family", ("sd", "sd_v", "sdxl", "pixart_sigma", "sd3"))
def test_two_steps_noise_the_first_prediction_with_the_rows_own_next_noise(family: str) -> None:
    model = model_of(family)
    walking = model.replace(sampler=FewStep((0.8, 0.4)))
    one, two = levels_of(model, model.latent_shape(SIZE, SIZE), (0.8, 0.4))
    z1, z2 = rows_noise(model, 2)
    with torch.no_grad():
        ctx = context(model, 1)
        x0 = plain_x0(model, ctx, one.sigma * z1, one)
        x0 = plain_x0(model, ctx, (two.alpha * x0 + two.sigma * z2).float(), two)
        assert torch.allclose(drawn(walking, 2).double(), x0, atol=1e-3, rtol=1e-3)
        of_one = model.replace(sampler=FewStep((0.8,)))
        assert torch.equal(drawn(walking, 1), drawn(of_one, 1))  # a walk of fewer steps takes the first times


def test_a_picture_does_not_depend_on_its_batch() -> None:
    model = model_of("sd").replace(sampler=FewStep((0.9, 0.6, 0.3)))
    with torch.no_grad():
        both = drawn(model, 3)
        alone = [drawn(model, 3, seeds=(seed,), prompts=(text,)) for seed, text in zip(SEEDS, PROMPTS, strict=True)]
    assert torch.allclose(both, torch.cat(alone), atol=1e-4)


@pytest.mark.parametrize("family", ("sd", "sd3"))
def test_gradients_reach_the_first_noise_and_the_weights(family: str) -> None:
    model = model_of(family).replace(sampler=FewStep((0.9, 0.4)))
    ctx = context(model, 2)
    noise, rng = sampling.fresh_noise(ctx, model.latent_shape(SIZE, SIZE))
    state = sampling.launch(Chain(), ctx, noise.requires_grad_(), rng)
    x = sampling.sample(state, sampling.trajectory(Chain(), ctx), ctx.denoiser(), 2).x
    weight = next(iter(model.modules["unet" if family == "sd" else "transformer"].parameters()))
    for gradient in torch.autograd.grad(x.square().sum(), (noise, weight)):
        assert torch.isfinite(gradient).all() and float(gradient.abs().max()) > 0


def test_a_step_is_pure_and_takes_prescribed_noise() -> None:
    model = model_of("sd").replace(sampler=FewStep((0.9, 0.4)))
    ctx = context(model, 2)
    shape = model.latent_shape(SIZE, SIZE)
    noise, rng = sampling.fresh_noise(ctx, shape)
    told = torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        state = State(noise * ctx.schedule.init_scale, 0, {"step_noise": told}, rng)
        once, again = (ctx.sampler.step(state, ctx.denoiser(), ctx) for _ in range(2))
        x0 = ctx.denoiser()(state.x, ctx.schedule.levels[0]).x0
    assert torch.equal(once.x, again.x) and once.memory["step_noise"] is told and once.rng is rng
    level = ctx.schedule.levels[1]
    assert torch.allclose(once.x, level.alpha * x0 + level.sigma * told[:, 0])
    free = replace(state, memory={})
    with torch.no_grad():
        after = ctx.sampler.step(free, ctx.denoiser(), ctx)
    fresh, moved = streams.normal(rng, shape)
    assert torch.allclose(after.x, level.alpha * x0 + level.sigma * fresh) and torch.equal(after.rng[0], moved[0])


def test_the_last_level_is_clean_and_the_walk_begins_at_sigma() -> None:
    model = model_of("sd")
    shape = model.latent_shape(SIZE, SIZE)
    schedule = FewStep((0.625, 0.3)).schedule(2, model, shape)
    assert [float(schedule.levels[2].alpha), float(schedule.levels[2].sigma)] == [1.0, 0.0]
    assert float(schedule.init_scale) == float(schedule.levels[0].sigma) and schedule.steps == 2
    assert FewStep((0.625,), init_scale=1.0).schedule(1, model, shape).init_scale == 1.0


@pytest.mark.parametrize("steps", (0, 3))
def test_more_steps_than_there_are_times_are_refused(steps: int) -> None:
    with pytest.raises(UsageError, match=rf"steps={steps}: this student was made for 1 to 2 steps \(times 0.9, 0.4\)"):
        FewStep((0.9, 0.4)).schedule(steps, model_of("sd"), (4, 16, 16))
    with pytest.raises(UsageError, match=r"for one step \(times 0.9\); give steps=1"):
        FewStep((0.9,)).schedule(2, model_of("sd"), (4, 16, 16))


@dataclass(frozen=True)
class Exploding:
    """The toy's path walked as x0 + sigma noise, as Euler does."""

    def schedule(self, steps: int, model: Model, shape: tuple[int, ...]) -> Schedule:
        plain = Ancestral().schedule(steps, model, shape)
        return replace(plain, levels=tuple(_exploded(level) for level in plain.levels))

    def step(self, state: State, denoise: object, ctx: Context) -> State:
        raise NotImplementedError


def _exploded(level: Level) -> Level:
    sigma = level.sigma / level.alpha
    return Level(level.t, torch.ones_like(sigma), sigma, (sigma**2 + 1) ** 0.5)


def test_levels_that_explode_draw_the_same_picture() -> None:
    """With an exact denoiser x0 does not depend on the scale of the path."""
    toy, times = ToyModel(), (0.9, 0.6, 0.3)
    preserving = toy.replace(sampler=FewStep(times, own=Ancestral()))
    exploding = toy.replace(sampler=FewStep(times, own=Exploding()))
    assert torch.allclose(drawn(preserving, 3), drawn(exploding, 3), atol=1e-4)


@pytest.mark.parametrize("family", ("sd", "sdxl"))
def test_it_is_the_published_walk_of_diffusers(family: str) -> None:
    """LCMScheduler at given timesteps from unit noise, as DMD2's page calls it, up to its c_skip of about 1e-6."""
    pipe = tiny(family)
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    for timesteps in ([999, 749, 499, 249], [399]):
        stock = pipe(
            list(PROMPTS),
            timesteps=timesteps,
            num_inference_steps=len(timesteps),
            guidance_scale=1.0,
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
            height=SIZE,
            width=SIZE,
            output_type="latent",
        ).images
        times = tuple(t / 1000 for t in timesteps)
        ours = model_of(family).replace(sampler=FewStep(times, init_scale=1.0, as_told=True))
        with torch.no_grad():
            assert torch.allclose(drawn(ours, len(times)), stock, atol=2e-3, rtol=1e-3)
