"""The plugin `w2sd`: contract, the paper's loop in plainest form, pairs, families, samplers, counts, refusals."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from genbench import cost, generate, sampling
from genbench.backbones import adapt
from genbench.backbones.toy import Ancestral, ToyModel
from genbench.chain import Chain
from genbench.errors import GenbenchError, ModelError, UsageError
from genbench.generation import plan, resolve
from genbench.kinds import Context, Denoise, Ledger, Level, Prediction, PredictionType, Resources, State
from genbench.sampler_names import SHORT
from genbench.schedulers import named_sampler
from genbench.testing import contract_tests, toy_context, toy_draw
from genbench_w2sd import W2SD, AutoGuidance
from genbench_w2sd.pair import FAMILIES as ADAPTED
from genbench_w2sd.reflection import placed
from genbench_w2sd.sources import picture
from tests import test_controlnet, test_ip_adapter
from tests.test_backbones import write_lora
from tests.tiny import FAMILIES, tiny

test_contract = contract_tests(W2SD, "step")

STEPS = 4
UNCONDITIONAL = ("ddpm", "ddim", "class_conditional")
DISTILLED = ("sd_lcm", "flux", "flux_schnell")
GUIDED = [family for family in FAMILIES if family not in (*UNCONDITIONAL, *DISTILLED)]
TEXT = [family for family in FAMILIES if family not in UNCONDITIONAL]


def load(path: Any, build: Any) -> Any:
    return build(Path(path))


def context(model: Any, *, weak: Any = None, prompts: Any = ("red cube", "blue cat"), **changed: Any) -> Context:
    """The context of one batch on a tiny model, at the settings it recommends but for the steps."""
    known = {name: changed.pop(name, model.recommended[name]) for name in ("guidance_scale", "height", "width")}
    resources = Resources(model.ledger, load, lambda word: weak or model)
    sampler = changed.pop("sampler", None) or model.sampler
    words = {"prompts": prompts, "seeds": range(len(prompts)), "steps": STEPS, "negative_half": True, **changed}
    return sampling.context(resources, model, sampler, **words, **known)


def drawn(plugin: Any, ctx: Context) -> Tensor:
    chain = Chain(steps=() if plugin is None else (plugin,))
    with torch.no_grad():
        return sampling.draw(chain, ctx, ctx.model.latent_shape(ctx.height, ctx.width)).x


def check_counted(plugin: Any, ctx: Context) -> None:
    """It changes the picture, which stays finite, and states the evaluations that the ledger counts."""
    before, plain = ctx.ledger.evaluations, drawn(None, ctx)
    assert ctx.ledger.evaluations - before == len(ctx.prompts) * cost.plain_evaluations(ctx)
    stated = cost.trajectory_evaluations(Chain(steps=(plugin,)), ctx)
    before, made = ctx.ledger.evaluations, drawn(plugin, ctx)
    assert ctx.ledger.evaluations - before == len(ctx.prompts) * stated
    assert torch.isfinite(made).all() and (made - plain).abs().max() > 1e-3


# --- the paper, in plainest form -------------------------------------------------------------------------------------


@pytest.mark.parametrize("published", [False, True], ids=["state", "published"])
def test_the_papers_loop(published: bool) -> None:
    """Z-Sampling with CFG written out in float64 on the toy's exact score."""
    model = ToyModel(dtype=torch.float64)
    model.modules["network"].double()
    ctx = toy_context(model=model)
    plugin = W2SD(label="published", bookkeeping="published") if published else W2SD()
    made = toy_draw(plugin, model=model)
    network = model.modules["network"]
    text, nothing = (half["weights"].double() for half in (ctx.conditioning.positive, ctx.conditioning.negative or {}))
    bars = [(level.alpha, level.sigma) for level in ctx.schedule.levels]

    def eps(x: Tensor, i: int, scale: float) -> Tensor:
        without, given = (network(x, *bars[i], weights) for weights in (nothing, text))
        return without + scale * (given - without)

    def ddim(x: Tensor, e: Tensor, i: int, j: int) -> Tensor:
        (a, s), (b, r) = bars[i], bars[j]
        return b / a * x + (r - b * s / a) * e

    x, _ = sampling.fresh_noise(ctx, (3, 8, 8))
    steps, scale = ctx.schedule.steps, ctx.guidance_scale
    for i in range(steps):
        if i < steps - 1:
            y = ddim(x, eps(x, i, scale), i, i + 1)
            up = (i + 2, i + 1) if published else (i + 1, i)
            x = ddim(y, eps(y, i if published else i + 1, 0.0), *up)
        x = ddim(x, eps(x, i, scale), i, i + 1)
    assert torch.allclose(made, x, atol=1e-9)


def test_a_lora_draws_with_the_strong_scale_and_returns_with_the_weak(tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    save_file({"means": torch.full((8, 3), 0.1)}, file)
    asked: list[tuple[float, float]] = []

    class Noted(ToyModel):
        def view(self, *, lora: Any = None, lora_scale: float = 1.0, **rest: Any) -> Any:
            steered = super().view(lora=lora, lora_scale=lora_scale, **rest)

            class Asked:
                prediction_type, dtype, device = steered.prediction_type, steered.dtype, steered.device
                encode_prompt, guidance_weight = steered.encode_prompt, steered.guidance_weight

                def denoiser(self, conditioning: Any, scale: float) -> Denoise:
                    denoise = steered.denoiser(conditioning, scale)

                    def noted(x: Tensor, level: Level) -> Prediction:
                        asked.append((lora_scale, scale))
                        return denoise(x, level)

                    return noted

            return Asked()

    toy_draw(W2SD(lora=str(file)), model=Noted(), steps=2, guidance_scale=5.5)
    assert asked == [(0.8, 1.0), (-1.5, 1.0), (0.8, 5.5), (0.8, 5.5)]


# --- pairs and families ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", GUIDED)
def test_guidance_on_every_family_that_has_it(family: str) -> None:
    ctx = context(adapt(tiny(family), Ledger()))
    check_counted(W2SD(), ctx)
    check_counted(W2SD(strong_guidance=3.0, weak_guidance=-2.0, reflections=2, start=1, stop=2), ctx)


@pytest.mark.parametrize("family", TEXT)
def test_prompts_on_every_family_that_has_them(family: str) -> None:
    ctx = context(adapt(tiny(family), Ledger()))
    check_counted(W2SD(weak_prompt="a photo"), ctx)
    check_counted(W2SD(strong_prompt="the red cube", weak_prompt="", weak_guidance=2.0), ctx)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_weak_checkpoint_on_every_family(family: str) -> None:
    ledger = Ledger()
    model, weak = (adapt(tiny(family, seed), ledger) for seed in (0, 1))
    prompts = ("3", "7") if family == "class_conditional" else ("red cube", "blue cat")
    check_counted(W2SD(weak_model="weak"), context(model, weak=weak, prompts=prompts))


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_a_lora_on_every_family_that_takes_one(family: str, tmp_path: Path) -> None:
    check_counted(W2SD(lora=str(write_lora(family, tmp_path))), context(adapt(tiny(family), Ledger())))


@pytest.mark.parametrize("family", list(test_controlnet.PIPELINES))
def test_a_controlnet_on_every_family_that_takes_one(family: str, tmp_path: Path) -> None:
    pipe = test_controlnet.tiny_of(family)
    test_controlnet.controlnet(family, pipe).save_pretrained(tmp_path)
    image = shown(tmp_path, (48, 40))  # is brought to the size of the run
    ctx = context(adapt(pipe, Ledger()), height=32, width=32)
    check_counted(W2SD(controlnet=str(tmp_path), image=image), ctx)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_an_ip_adapter_on_every_family_that_takes_one(family: str, tmp_path: Path) -> None:
    pipe = tiny(family)
    file = test_ip_adapter.adapter(tmp_path, pipe)
    test_ip_adapter.encoder(tmp_path / "image_encoder")
    ctx = context(adapt(pipe, Ledger()))
    check_counted(W2SD(ip_adapter=str(file), image=shown(tmp_path, (20, 30))), ctx)
    other = drawn(W2SD(ip_adapter=str(file), image=shown(tmp_path, (30, 20))), ctx)
    assert torch.isfinite(other).all()


def shown(folder: Path, size: tuple[int, int]) -> Path:
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(size[0]))
    file = folder / f"shown-{size[0]}.png"
    Image.fromarray(pixels.to(torch.uint8).numpy()).save(file)
    return file


def test_a_picture_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "two.png"
    Image.frombytes("RGB", (2, 1), bytes([255, 0, 0, 0, 0, 51])).save(file)
    assert torch.equal(picture(file), torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.2]]]))


def test_adapters_stand_where_the_backbones_have_them() -> None:
    for family in ("sd", "sdxl", "sd3", "flux", "pixart_sigma", "hunyuan", "ddpm"):
        model: Any = adapt(tiny(family), Ledger())
        for kind, has in (
            ("lora", model.lora_loader),
            ("controlnet", model.controlnets),
            ("ip_adapter", model.ip_adapters),
        ):
            assert (model.family in ADAPTED[kind]) == has, (family, kind)  # type: ignore[index]


# --- samplers --------------------------------------------------------------------------------------------------------


def every_sampler(flow: bool) -> list[str]:
    return [name for name, known in SHORT.items() if known.flow_class or not flow]


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_every_sampler_steps_from_the_reflected_point(family: str) -> None:
    """With a network that always says the same x0 (for solvers that remember noise: the same noise), a step ends as far
    away as it begins, times the ratio of the sigmas (of the alphas). LCM and TCD step from the prediction alone.
    """
    model: Any = adapt(tiny(family), Ledger())
    shape = model.latent_shape(16, 16)
    clean = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    for name in (name for name in every_sampler(family == "sd3") if name not in ("lcm", "tcd")):
        sampler = named_sampler(name, model.sampler.scheduler)
        ctx = context(model, sampler=sampler, height=16, width=16, prompts=("a",))
        steady = said(clean, "epsilon" if name in ("pndm", "plms", "lms") else "sample")
        step = sampling.trajectory(Chain(), ctx)
        noise, rng = sampling.fresh_noise(ctx, shape)
        state = State(noise * ctx.schedule.init_scale, rng=rng)
        for i in range(ctx.schedule.steps - 1):
            moved = placed(state, state.x + 0.25, ctx.schedule.levels)
            following = step(state, steady)
            shift = step(moved, steady).x - following.x
            assert (shift > 1e-4).all() and shift.std() < 1e-3, (name, i)
            state = following


def said(what: Tensor, kind: PredictionType) -> Denoise:
    """A network that says the same whatever it is asked."""
    return lambda x, level: Prediction(what.expand_as(x), x, level, kind)


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_every_sampler_counts(family: str) -> None:
    model: Any = adapt(tiny(family), Ledger())
    for name in every_sampler(family == "sd3"):
        check_counted(W2SD(), context(model, sampler=named_sampler(name, model.sampler.scheduler), prompts=("a cat",)))


def test_a_reflection_draws_nothing() -> None:
    """The sampler's own noise is that of a plain run: the streams end where they would."""
    sampler = Ancestral(eta=1.0)
    ctx = replace(toy_context(), sampler=sampler)
    ends = []
    for chain in (Chain(), Chain(steps=(W2SD(),))):
        noise, rng = sampling.fresh_noise(ctx, (3, 8, 8))
        state = sampling.launch(chain, ctx, noise, rng)
        ends.append(sampling.sample(state, sampling.trajectory(chain, ctx), ctx.denoiser(), ctx.schedule.steps))
    plain, reflected = ends
    assert all(torch.equal(one, other) for one, other in zip(plain.rng, reflected.rng, strict=True))
    assert not torch.equal(plain.x, reflected.x)


# --- which steps, and what it costs ------------------------------------------------------------------------------


def test_which_steps_reflect() -> None:
    assert list(W2SD().reflecting(5)) == [0, 1, 2, 3]
    assert list(W2SD(start=1, stop=3).reflecting(5)) == [1, 2]
    assert list(W2SD(stop=50).reflecting(5)) == [0, 1, 2, 3]
    assert not W2SD(stop=0).reflecting(5) and not W2SD().reflecting(1)


def test_three_t_minus_two_evaluations() -> None:
    model = ToyModel(ledger=Ledger())
    ctx = replace(toy_context([1], model=model), guidance_scale=1.0)
    words: dict[str, Any] = {"weak_prompt": "blue"}
    assert W2SD(**words).evaluations(6, ctx) == 3 * 6 - 2
    guided = toy_context([1], model=model)
    assert W2SD().evaluations(12, guided) == 12 + 5 * (2 + 1)
    assert W2SD(weak_guidance=-3).evaluations(12, guided) == 12 + 5 * (2 + 2)
    assert W2SD(stop=2, reflections=3, **words).evaluations(12, guided) == 12 + 2 * 3 * 2


def test_parts_of_a_walk_are_counted_by_their_own_steps() -> None:
    ctx = toy_context([1])
    masked = replace(
        ctx.schedule, evaluations=tuple(e if i in (2, 5) else () for i, e in enumerate(ctx.schedule.evaluations))
    )
    assert W2SD().evaluations(4, replace(ctx, schedule=masked)) == 4 + 3  # the last of the walk does not reflect


def test_the_plan_counts_it() -> None:
    words: dict[str, Any] = {"model": "toy", "prompt": "red", "plugin": "w2sd,search"}
    words["options"] = {"search": {"candidates": 2}}
    told = plan(resolve(words))
    assert told["evaluations_per_picture"] == generate(**words)[0].nfe and told["not_counted"] == []


def test_an_unguided_run_gets_its_negative_half() -> None:
    plain, reflected = (
        generate(model="toy", prompt="red", seed=1, guidance_scale=1, plugin=plugin)[0] for plugin in ((), "w2sd")
    )
    assert reflected.nfe == plain.nfe + (plain.nfe - 1) * 2 and not torch.equal(plain.latents, reflected.latents)


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weak_model": "a", "lora": "b"}, "w2sd.weak_model= and w2sd.lora= name two pairs"),
        ({"controlnet": "a", "ip_adapter": "b", "image": "c"}, "w2sd.controlnet= and w2sd.ip_adapter= name two pairs"),
        ({"controlnet": "a"}, "w2sd.controlnet= follows a picture; give it with w2sd.image=FILE"),
        ({"image": "a"}, "image= is followed by"),
        ({"weak_model": "a", "image": "b"}, "image= is followed by"),
        ({"strong_scale": 0.5}, "w2sd.strong_scale= and w2sd.weak_scale= are of a LoRA"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        W2SD(**options)


@pytest.mark.parametrize(
    ("options", "family", "says"),
    [
        ({}, "flux", r"none that is free per call; give w2sd.weak_prompt=, w2sd.lora= or w2sd.weak_model="),
        ({"lora": "x"}, "pixart", "w2sd.lora= is for families sd, sdxl, sd3, flux"),
        ({"ip_adapter": "x", "image": "y"}, "flux", "w2sd.ip_adapter= is for families sd, sdxl"),
        ({"controlnet": "x/y", "image": Path("none.png")}, "sd", "w2sd.image=none.png does not exist"),
        ({"controlnet": "x", "image": Path("none.png")}, "sd", "w2sd.controlnet=x does not exist"),
        ({"lora": "nothere.safetensors"}, "sd", "w2sd.lora=nothere.safetensors does not exist"),
        ({"weak_model": "solids/wek"}, "sd", "w2sd.weak_model='solids/wek' does not exist; did you mean 'weak'"),
        ({"weak_model": "nothing"}, "sd", "w2sd.weak_model='nothing' is neither installed nor"),
    ],
)
def test_what_a_family_cannot_have_is_said_before_weights_load(options: dict[str, Any], family: str, says: str) -> None:
    with pytest.raises(GenbenchError, match=says):
        W2SD(**options).check("some/model", family)


def test_names_of_the_hub_and_neutral_settings_are_not_refused_before_weights_load() -> None:
    W2SD(weak_model="org/name").check("some/model", "sd")
    W2SD(lora="hf:org/name/file.safetensors").check("some/model", "sd")
    W2SD(stop=0).check("some/model", "flux")
    AutoGuidance(weight=1.0).check("some/model", "flux")


@pytest.mark.parametrize(("start", "stop", "steps"), [(10, None, 5), (3, 2, 5), (4, None, 5)])
def test_a_start_that_leaves_no_step_is_refused_before_anything_loads(start: int, stop: int | None, steps: int) -> None:
    with pytest.raises(UsageError, match=f"w2sd.start={start}.* reflects no step: of steps={steps} those from 0 to 3"):
        W2SD(start=start, stop=stop).check_words({"steps": steps})
    W2SD(start=3).check_words({"steps": 5})
    W2SD(start=3, stop=0).check_words({"steps": 5})


@pytest.mark.parametrize("family", ["sd_lcm", "ddpm", "class_conditional"])
def test_a_model_without_guidance_has_no_pair_of_scales(family: str) -> None:
    prompts = ("3", "7") if family == "class_conditional" else ("a", "b")
    with pytest.raises(UsageError, match="none that is free per call"):
        drawn(W2SD(), context(adapt(tiny(family), Ledger()), prompts=prompts))


def test_a_weak_model_that_does_not_fit() -> None:
    model: Any = adapt(tiny("sd"), Ledger())
    slower = tiny("sd")
    slower.scheduler = type(slower.scheduler).from_config(slower.scheduler.config, beta_end=0.03)
    scaled = tiny("sd")
    scaled.vae.register_to_config(scaling_factor=0.5)
    for weak, says in (
        (adapt(tiny("sd3"), Ledger()), "latents are 16 x 16 x 16, not 4 x 16 x 16"),
        (adapt(slower, Ledger()), "noise schedule is another one"),
        (adapt(scaled, Ledger()), "autoencoder scales latents by"),
        (ToyModel(), "latents are"),
    ):
        with pytest.raises(ModelError, match=says):
            drawn(W2SD(weak_model="weak"), context(model, weak=weak))
    mixed = adapt(tiny("sd_v"), model.ledger)
    check_counted(W2SD(weak_model="weak"), context(model, weak=mixed))  # v converts into epsilon on one schedule


def test_the_version_is_of_what_is_named(tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    seen = {W2SD().version(), W2SD(weak_model="toy").version(), W2SD(weak_model="nobody/nothing").version()}
    for value in (0.1, 0.2):
        save_file({"means": torch.full((8, 3), value)}, file)
        seen.add(W2SD(lora=str(file)).version())
    assert len(seen) == 5
    assert W2SD(weak_model="solids/weak").version() != W2SD(weak_model="solids").version()


# --- beside others ------------------------------------------------------------------------------------------------


def test_in_a_chain_of_three_the_order_of_kinds_changes_nothing() -> None:
    made = [
        generate(model="toy", prompt="red", seed=2, plugin=",".join(order), options={"search": {"candidates": 2}})[0]
        for order in itertools.permutations(("redenoise", "w2sd", "search"))
    ]
    assert all(torch.equal(one.latents, made[0].latents) and one.nfe == made[0].nfe for one in made)
    without = generate(
        model="toy", prompt="red", seed=2, plugin="redenoise,search", options={"search": {"candidates": 2}}
    )
    assert not torch.equal(made[0].latents, without[0].latents)


def test_two_step_wrappers_nest_as_typed() -> None:
    """Autoguidance inside changes the drawing step alone; outside it changes the strong side as well."""
    ctx = toy_context([1])
    guide = AutoGuidance(weak_guidance=0.5)
    inner, outer = (toy_draw(*chain, seeds=[1]) for chain in ((guide, W2SD()), (W2SD(), guide)))
    assert torch.isfinite(inner).all() and not torch.equal(inner, outer)
    chain = Chain(steps=(guide, W2SD()))
    before = ctx.ledger.evaluations
    sampling.draw(chain, ctx, (3, 8, 8))
    assert ctx.ledger.evaluations - before == cost.trajectory_evaluations(chain, ctx)
