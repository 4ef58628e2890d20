"""LML on every family: neutral settings in the same bits, finite at the default, counts as stated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from genbench import sampling
from genbench.backbones import adapt
from genbench.chain import Chain
from genbench.cost import picture_evaluations
from genbench.errors import UsageError
from genbench.kinds import Context, Ledger, Resources, Sampler
from genbench.schedulers import named_sampler
from genbench_lml import LML
from tests.tiny import FAMILIES, tiny

FLOW = ("sd3", "sd35", "flux", "flux_schnell")
STEPS = 4


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, adapt(tiny(request.param), Ledger())


def draw(model: Any, sampler: Sampler) -> tuple[Tensor, int, Context]:
    """Return latents (2, ...), evaluations and context of a walk in four steps."""
    known = dict(model.recommended)
    classes = model.network_config.get("num_class_embeds")
    height, width = int(known["height"]), int(known["width"])
    ledger = Ledger()
    counted = model.replace(ledger=ledger)
    chain = Chain(sampler=sampler)
    ctx = sampling.context(
        Resources(ledger, lambda path, build: build(path), lambda word: model),
        counted,
        sampler,
        prompts=["3", "5"] if classes else ["red cube", "blue cat"],
        seeds=[1, 2],
        steps=STEPS,
        guidance_scale=float(known["guidance_scale"]),
        height=height,
        width=width,
    )
    with torch.no_grad():
        state = sampling.draw(chain, ctx, model.latent_shape(height, width))
    return state.x, ledger.evaluations, ctx


def test_strength_zero_is_the_model_as_it_is(family: tuple[str, Any]) -> None:
    _, model = family
    plain, evaluations, _ = draw(model, model.sampler)
    made, spent, _ = draw(model, LML(strength=0.0, rank=2))
    assert torch.equal(made, plain) and spent == evaluations


def test_strength_zero_is_the_named_base(family: tuple[str, Any]) -> None:
    name, model = family
    words = {"euler": "euler", "dpmpp": "dpmpp_2m"} if name in FLOW else {"ddim": "ddim", "dpmpp": "dpmpp_2m"}
    for base, word in words.items():
        plain = draw(model, named_sampler(word, model.sampler.scheduler))[0]
        assert torch.equal(draw(model, LML(base=base, strength=0.0))[0], plain)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"mode": "stable"}, {"rank": 1}], ids=str)
def test_every_family(family: tuple[str, Any], options: dict[str, Any]) -> None:
    _, model = family
    plugin = LML(**options)
    made, spent, ctx = draw(model, plugin)
    base = draw(model, LML(**{**options, "strength": 0.0, "base": ctx.schedule.plan.base.kind}))[0]
    assert torch.isfinite(made).all() and made.shape == base.shape and made.dtype == base.dtype
    assert float((made - base).abs().max()) > 1e-5
    assert spent == 2 * picture_evaluations(Chain(sampler=plugin), ctx)


def test_the_base_that_auto_takes(family: tuple[str, Any]) -> None:
    name, model = family
    kind = draw(model, LML())[2].schedule.plan.base.kind
    own = {"pixart_alpha": "dpmpp", "pixart_sigma": "dpmpp"}
    assert kind == ("euler" if name in FLOW else own.get(name, "ddim"))
    if name in FLOW:
        with pytest.raises(UsageError, match="lml.base=ddim does not fit a rectified-flow model"):
            draw(model, LML(base="ddim"))
    else:
        with pytest.raises(UsageError, match="lml.base=euler walks rectified flow"):
            draw(model, LML(base="euler"))


@pytest.mark.parametrize("name", ["sd", "sd3", "flux"])
def test_forward_products_agree_with_differences(name: str) -> None:
    model = adapt(tiny(name), Ledger())
    base = draw(model, LML(strength=0.0, base="euler" if name in FLOW else "ddim"))[0]
    difference, forward = (draw(model, LML(rank=1, products=how))[0] for how in ("difference", "forward"))  # type: ignore[arg-type]
    assert float((difference - forward).norm()) < 0.3 * float((forward - base).norm())


def test_half_precision_stays_half_and_finite() -> None:
    model = adapt(tiny("sd").to(dtype=torch.bfloat16), Ledger())
    made, base = draw(model, LML())[0], draw(model, LML(base="ddim", strength=0.0))[0]
    assert made.dtype == torch.bfloat16 and torch.isfinite(made).all() and not torch.equal(made, base)


def test_networks_whose_views_forward_mode_cannot_take_say_so() -> None:
    with pytest.raises(UsageError, match="lml.products=forward fails on this model .*; use difference"):
        draw(adapt(tiny("ddpm"), Ledger()), LML(rank=1, products="forward"))
