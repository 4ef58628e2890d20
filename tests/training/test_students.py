"""A student's walk and what two networks say of it, in the plainest form, on every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from genbench.backbones import adapt
from genbench.errors import UsageError
from genbench.kinds import Conditioning, Ledger, Level, Model
from genbench.training.noising import levels_at, train_levels
from genbench.training.students import (
    Chance,
    alone,
    dtype_of,
    guidance_of,
    predicted,
    raw_at,
    recommended_guidance,
    repeated,
    walked,
    x0_at,
)
from tests.tiny import tiny

FAMILIES = ("sd", "sdxl", "sd3", "pixart_alpha", "hunyuan")


def model_of(family: str) -> Any:
    opened: Any = adapt(tiny(family), Ledger())
    return opened.replace(name="tiny", recommended={"height": 16, "width": 16})


def encoded(model: Model, *prompts: str) -> Conditioning:
    return model.encode_prompt(prompts, guidance=True, height=16, width=16)


def noise(model: Model, *leading: int, seed: int = 0) -> Tensor:
    shape = model.latent_shape(16, 16)
    return torch.randn((*leading, *shape), generator=torch.Generator().manual_seed(seed))


def levels(model: Model, *rows: int) -> list[Level]:
    laid = train_levels(model, model.latent_shape(16, 16), 20)
    return [laid[row] for row in rows]


@pytest.mark.parametrize("family", [*FAMILIES, "flux"])
def test_a_walk_of_two_steps(family: str) -> None:
    model = model_of(family)
    conditioning, (one, two), z = encoded(model, "red cube", "a cat"), levels(model, 3, 12), noise(model, 2, 2)
    denoise = model.denoiser(alone(conditioning), recommended_guidance(model))
    with torch.no_grad():
        first = denoise(one.sigma * z[0], one).x0
        second = denoise(two.alpha * first + two.sigma * z[1], two).x0
        assert torch.allclose(walked(model, conditioning, [one], z[:1]), first)
        assert torch.allclose(walked(model, conditioning, [one, two], z), second)


def test_only_the_last_step_passes_a_gradient() -> None:
    model = model_of("sd")
    conditioning, walk = encoded(model, "red cube"), levels(model, 3, 12)
    network = model.modules["unet"].requires_grad_(True)
    calls: list[bool] = []
    network.register_forward_hook(lambda module, args, out: calls.append(torch.is_grad_enabled()))
    assert walked(model, conditioning, walk, noise(model, 2, 1)).requires_grad
    assert calls == [False, True]


def test_earlier_steps_leave_the_gradient_to_the_last_in_half_precision() -> None:
    """autocast keeps the weights that it has cast; those of a step without a graph have none to give."""
    model = model_of("sd")
    network, walk = model.modules["unet"].requires_grad_(True), levels(model, 3, 12)
    with torch.no_grad():
        conditioning = encoded(model, "red cube")
    learnt: list[set[str]] = []
    for count in (1, 2):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            walked(model, conditioning, walk[:count], noise(model, count, 1)).sum().backward()
        learnt.append({name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()})
    assert learnt[0] == learnt[1] and "conv_in.weight" in learnt[0]


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_a_network_of_half_precision_is_asked_of_exact_latents(family: str) -> None:
    half: Any = adapt(tiny(family).to(torch.bfloat16), Ledger())
    conditioning, x = encoded(half, "red cube", "a cat"), noise(half, 2)
    level = levels_at(train_levels(half, half.latent_shape(16, 16), 20), (12, 18), x.ndim, x.device)
    seen = predicted(half, alone(conditioning), x, level)
    assert dtype_of(half) == torch.bfloat16 and seen.raw.dtype == seen.x0.dtype == torch.float32
    assert torch.equal(seen.x, x) and not torch.equal(x.bfloat16().float(), x)


def test_levels_and_noises_have_to_be_as_many() -> None:
    model = model_of("sd")
    with pytest.raises(ValueError, match="zip"):
        walked(model, encoded(model, "red"), levels(model, 3), noise(model, 2, 1))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", [3.0, -0.5])
def test_guidance_in_x0_space_is_guidance_in_any_other(family: str, scale: float) -> None:
    model = model_of(family)
    conditioning = encoded(model, "red cube", "a cat")
    laid = train_levels(model, model.latent_shape(16, 16), 20)
    x = noise(model, 2)
    level = levels_at(laid, (3, 12), x.ndim, x.device)
    with torch.no_grad():
        c = model.denoiser(Conditioning(conditioning.positive), 1.0)(x, level)
        u = model.denoiser(Conditioning(conditioning.negative or {}), 1.0)(x, level)
        guided, plain, without = x0_at(model, conditioning, x, level, scale, 1.0, 0.0)
        assert torch.allclose(guided, u.x0 + scale * (c.x0 - u.x0), rtol=1e-3, atol=1e-3)
        assert torch.allclose(plain, c.x0, rtol=1e-3, atol=1e-3) and torch.allclose(without, u.x0, rtol=1e-3, atol=1e-3)
        raw = raw_at(model, conditioning, x, level, scale)
        assert torch.allclose(c.with_raw(raw).x0, guided, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("scales", "evaluations"), [((1.0,), 2), ((0.0,), 2), ((0.0, 0.0), 2), ((2.0, 1.0), 4)])
def test_no_half_is_evaluated_that_no_scale_needs(scales: tuple[float, ...], evaluations: int) -> None:
    ledger = Ledger()
    model: Any = adapt(tiny("sd"), ledger)
    conditioning, x = encoded(model, "red cube", "a cat"), noise(model, 2)
    level = levels_at(train_levels(model, model.latent_shape(16, 16), 20), (3, 12), x.ndim, x.device)
    before = ledger.evaluations
    with torch.no_grad():
        assert len(x0_at(model, conditioning, x, level, *scales)) == len(scales)
    assert ledger.evaluations - before == evaluations


def test_a_scale_of_zero_does_not_see_the_prompt() -> None:
    model = model_of("sd")
    x = noise(model, 1)
    level = levels_at(train_levels(model, model.latent_shape(16, 16), 20), (3,), x.ndim, x.device)
    with torch.no_grad():
        told = [x0_at(model, encoded(model, prompt), x, level, 0.0)[0] for prompt in ("red cube", "a cat")]
        seen = [x0_at(model, encoded(model, prompt), x, level, 1.0)[0] for prompt in ("red cube", "a cat")]
    assert torch.equal(*told) and not torch.equal(*seen)


def test_a_model_with_distilled_guidance_has_no_other_half() -> None:
    model, x = model_of("flux"), noise(model_of("flux"), 1)
    level = levels_at(train_levels(model, model.latent_shape(16, 16), 20), (3,), x.ndim, x.device)
    assert guidance_of(model, None) == 1.0 and guidance_of(model, 2.5) == 2.5
    with torch.no_grad(), pytest.raises(UsageError, match="no prompt-free half to guide by; give guidance scales of 1"):
        x0_at(model, encoded(model, "red"), x, level, 2.0)


def test_gradients_go_through_a_network_that_has_none_of_its_own() -> None:
    model = model_of("sd")
    model.modules["unet"].requires_grad_(False)
    x = noise(model, 1).requires_grad_(True)
    level = levels_at(train_levels(model, model.latent_shape(16, 16), 20), (3,), x.ndim, x.device)
    x0_at(model, encoded(model, "red cube"), x, level, 2.0)[0].sum().backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0


def test_a_level_repeated() -> None:
    level = Level(torch.tensor([1.0, 2.0]), torch.ones(2, 1), torch.zeros(2, 1), torch.ones(2, 1))
    assert repeated(level, 1) is level
    assert repeated(level, 3).t.tolist() == [1, 2] * 3 and repeated(level, 3).alpha.shape == (6, 1)


def test_a_samples_chance_is_its_own() -> None:
    all_, one = Chance.of([5, 6, 7]), Chance.of([7])
    assert torch.equal(all_.normal((2, 3))[2:], one.normal((2, 3)))
    assert Chance.of(range(500)).chosen(0.0).count(True) == 0
    assert 20 < Chance.of(range(500)).chosen(0.1).count(True) < 90
