"""The twenty-line test: every listed method fits the contract in about twenty lines, and does what it is for.

The plugins stand in twenty_lines.py and are loaded as a user loads a file. Everything runs on the toy model.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from genbench import chain as chains, discovery, sampling
from genbench.backbones.toy import COLOURS, Ancestral, Mixture, ToyModel, ToyScorer, weights_of
from genbench.chain import Chain, compose
from genbench.errors import PluginError
from genbench.judging import Panel
from genbench.kinds import Context, Ledger, State
from genbench.searchspace import TrajectorySpace
from genbench.testing import check_plugin, toy_context, toy_draw, toy_resources

FILE = Path(__file__).with_name("twenty_lines.py")
SIZE = 8
RED = torch.tensor(COLOURS["red"])[:, None, None].expand(3, SIZE, SIZE)


def plugin(name: str, **options: object) -> Any:
    return discovery.build(f"{FILE}:{name}", options).object


def cls(name: str) -> type:
    return discovery.plugin_class(f"{FILE}:{name}").cls


def saved(path: Path, **tensors: Tensor) -> str:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return str(path)


def score(latents: Tensor, *prompts: str) -> Tensor:
    return ToyScorer().score(images=ToyModel().decode(latents), prompts=prompts * (len(latents) // len(prompts)))


def end(chain: Chain, ctx: Context) -> State:
    with torch.no_grad():
        return sampling.draw(chain, ctx, (3, SIZE, SIZE))


NAMES = [
    "GoldenNoise", "FromImage", "EditFriendly", "BestOf", "ZeroOrder", "Paths", "Steering", "NoiseGradient",
    "GuidanceInterval", "Rescale", "Reflect", "StepCache", "SecondOrder", "Distilled", "Lora", "ControlNets",
    "Quantized",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_about_twenty_lines(name: str) -> None:
    source = inspect.getsource(cls(name)).splitlines()
    code = [line for line in source if line.strip() and not line.strip().startswith(("@", '"""', "about:"))]
    assert len(code) <= 21, f"{name} takes {len(code)} lines"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "step") for name in ("GuidanceInterval", "Rescale", "Reflect", "StepCache")),
        *((name, "search") for name in ("BestOf", "ZeroOrder", "NoiseGradient")),
        ("SecondOrder", "sampler"),
        ("Distilled", "model"),
        ("Quantized", "model"),
    ],
)
def test_it_keeps_the_contract(name: str, kind: str) -> None:
    options = {"Distilled": {"steps": 9}, "Reflect": {"weak": "toy"}}.get(name, {})
    check_plugin(cls(name), kind, **options)


# --- noise --------------------------------------------------------------------------------------------------------


def test_golden_noise_loads_its_weights_once_and_steers_the_picture(tmp_path: Path) -> None:
    weights = saved(tmp_path / "golden.safetensors", shift=torch.tensor(COLOURS["red"]))
    check_plugin(cls("GoldenNoise"), "noise", weights=weights)
    seeds, prompts = range(24), [""] * 24
    plain = score(toy_draw(seeds=seeds, prompts=prompts, guidance_scale=1.0), "red")
    golden = score(toy_draw(plugin("GoldenNoise", weights=weights), seeds=seeds, prompts=prompts), "red")
    assert (plain > -0.1).float().mean() < 0.5 < 0.9 < (golden > -0.1).float().mean()


def test_image_to_image_keeps_what_its_strength_leaves(tmp_path: Path) -> None:
    picture = ToyModel().decode(toy_draw(seeds=[5], prompts=["blue"])[0])
    image = saved(tmp_path / "picture.safetensors", image=picture)
    assert score(picture[None] * 2 - 1, "blue") > -0.1
    kept = toy_draw(plugin("FromImage", image=image, strength=0.2), prompts=["", ""], steps=10, guidance_scale=1.0)
    changed = toy_draw(plugin("FromImage", image=image, strength=1.0), prompts=["red", "red"], steps=10)
    assert (score(kept, "blue") > -0.1).all()
    assert (score(changed, "red") > -0.1).all()
    chain = Chain(noise=(plugin("FromImage", image=image, strength=0.2),))
    ctx = toy_context(chain=chain, steps=10)
    end(chain, ctx)
    assert ctx.ledger.evaluations == 2 * 2 * 2  # two pictures, two of ten steps, guidance


def test_edit_friendly_inversion_replays_the_picture_and_edits_it(tmp_path: Path) -> None:
    picture = ToyModel().decode(toy_draw(seeds=[5], prompts=["blue"])[0])
    image = saved(tmp_path / "picture.safetensors", image=picture)
    invert, model = plugin("EditFriendly", image=image, source="blue", skip=3), ToyModel(sampler=Ancestral(1.0))
    wanted: dict[str, Any] = {"model": model, "steps": 12}
    replay = toy_draw(invert, prompts=["blue", "blue"], guidance_scale=1.0, **wanted)
    apart = (ToyModel().decode(replay) - picture).abs().mean()
    again = toy_draw(
        plugin("FromImage", image=image, strength=0.75), prompts=["blue"] * 2, guidance_scale=1.0, **wanted
    )
    assert apart < 0.05 and apart < 0.7 * (ToyModel().decode(again) - picture).abs().mean()
    edited = toy_draw(invert, prompts=["red", "red"], guidance_scale=3.0, **wanted)
    assert (score(edited, "red") > score(replay, "red") + 0.5).all()
    walk = toy_context(prompts=["blue", "blue"], guidance_scale=1.0, **wanted)
    state = sampling.launch(Chain(noise=(invert,)), walk, *sampling.fresh_noise(walk, (3, SIZE, SIZE)))
    assert state.index == 3 and state.memory["step_noise"].shape == (2, 12, 3, SIZE, SIZE)


# --- search -------------------------------------------------------------------------------------------------------


def searched(search: Any, seed: int, **wanted: Any) -> tuple[Any, TrajectorySpace]:
    """Let a model that draws any colour be searched for red."""
    chain = Chain(search=search)
    ctx = toy_context([seed], prompts=["red"], chain=chain, guidance_scale=1.0, **wanted)
    ctx = replace(ctx, conditioning=ctx.model.encode_prompt([""]))
    space = TrajectorySpace(chain, ctx, (3, SIZE, SIZE), Panel({"toy": ToyScorer()}), 4, {})
    with torch.no_grad():
        return search.search(space), space


def test_best_of_n_returns_the_best_and_counts_its_cost() -> None:
    found, space = searched(plugin("BestOf", n=5), 7)
    scores = [row["score"] for row in found.trace]
    assert found.score == max(scores) and space.spent == 5 * 6
    assert found.trace[0]["seed"] == 7  # the first candidate is the picture's own noise
    winner = found.trace[scores.index(found.score)]["seed"]
    again = toy_draw(seeds=[int(str(winner))], prompts=[""], guidance_scale=1.0)
    assert (again - found.state.x).abs().max() < 1e-5


def test_zero_order_search_climbs() -> None:
    found, space = searched(plugin("ZeroOrder", rounds=4, n=3), 3)
    scores = [row["score"] for row in found.trace]
    assert len(scores) == 1 + 3 * 3 and space.spent == 10 * 6
    assert found.score == max(scores) > scores[0]


def test_path_search_beats_its_own_paths_left_alone() -> None:
    gains = []
    for seed in range(6):
        found, space = searched(plugin("Paths", width=2, branches=3), seed, steps=8)
        plain, _ = searched(plugin("BestOf", n=2), seed, steps=8)
        gains.append(found.score - plain.score)
        assert space.spent > 2 * 8
    assert sum(gains) > 0 and sum(gain > 0 for gain in gains) >= 4


def test_steering_raises_the_reward_of_the_particles() -> None:
    steered, left = [], []
    for seed in range(6):
        for tilt, scores in ((20.0, steered), (0.0, left)):
            model = ToyModel(sampler=Ancestral(1.0))
            found, _ = searched(plugin("Steering", tilt=tilt), seed, steps=8, model=model)
            scores += [row["score"] for row in found.trace]
            assert found.state.x.shape == (1, 3, SIZE, SIZE) and len(found.trace) == 4
    assert sum(steered) > sum(left)


def test_noise_gradient_climbs_through_the_whole_sampler() -> None:
    found, space = searched(plugin("NoiseGradient"), 4)
    scores = [row["score"] for row in found.trace]
    assert scores[-1] > scores[0] and found.score == max(scores)
    assert space.spent == 5 * 6 and not found.state.x.requires_grad


# --- step ---------------------------------------------------------------------------------------------------------


def test_a_guidance_interval_saves_half_of_the_guidance() -> None:
    chain = Chain(steps=(plugin("GuidanceInterval"),))
    ctx = toy_context([1], chain=chain)
    state = end(chain, ctx)
    assert ctx.ledger.evaluations == 3 * 2 + 3
    half = end(Chain(), toy_context([1])).x
    none = end(Chain(), toy_context([1], guidance_scale=1.0)).x
    assert not torch.equal(state.x, half) and not torch.equal(state.x, none)


def test_rescaled_guidance_is_the_papers_formula() -> None:
    ctx = toy_context([1, 2])
    seen = {}

    def spy(state: State, denoise: Any) -> State:
        seen["made"], seen["plain"] = (
            denoise(state.x, ctx.schedule.levels[0]),
            ctx.denoiser()(state.x, ctx.schedule.levels[0]),
        )
        return state

    x, rng = sampling.fresh_noise(ctx, (3, SIZE, SIZE))
    plugin("Rescale", phi=0.7).wrap_step(spy, ctx)(State(x, 0, {}, rng), ctx.denoiser())
    plain = seen["plain"]
    for row in range(2):
        factor = 0.7 * plain.cond.eps[row].std() / plain.eps[row].std() + 0.3
        assert torch.allclose(seen["made"].eps[row], plain.eps[row] * factor, atol=1e-6)


def test_reflection_uses_a_second_model_in_the_same_ledger() -> None:
    ledger = Ledger()
    shifted = Mixture()
    shifted.means = shifted.means * 0.5
    weak = ToyModel(modules={"network": shifted}, ledger=ledger)
    chain = Chain(steps=(plugin("Reflect", weak="any", stop=0.5),))
    ctx = replace(toy_context([1, 2], model=ToyModel(ledger=ledger)), ledger=ledger, open_model=lambda word: weak)
    state = end(chain, ctx)
    assert ledger.evaluations == 2 * 2 * (6 + 3 + 3)  # every step, half of them back and forth again
    same = end(Chain(steps=chain.steps), replace(ctx, open_model=lambda word: ctx.model))
    plain = end(Chain(), ctx)
    assert (same.x - plain.x).abs().max() < (state.x - plain.x).abs().max()  # an equal model reflects onto itself


def test_a_step_cache_belongs_to_one_trajectory() -> None:
    chain = Chain(steps=(plugin("StepCache"),))
    ctx = toy_context([1], chain=chain)
    alone = end(chain, ctx)
    assert ctx.ledger.evaluations == 3 * 2  # half of the steps
    other = toy_context([9], chain=chain)
    walks = []
    for each in (ctx, other):
        start = sampling.launch(chain, each, *sampling.fresh_noise(each, (3, SIZE, SIZE)))
        walks.append((start, sampling.trajectory(chain, each), each.denoiser()))
    states = [walk[0] for walk in walks]
    with torch.no_grad():
        for _ in range(ctx.schedule.steps):  # two trajectories, step by step in turns
            states = [step(state, denoise) for state, (_, step, denoise) in zip(states, walks, strict=True)]
    assert torch.equal(states[0].x, alone.x) and torch.equal(states[1].x, end(chain, other).x)


@pytest.mark.parametrize(("name", "safe"), [("Reflect", False), ("Paths", False), ("BestOf", True), ("Rescale", True)])
def test_a_step_cache_is_refused_beside_what_revisits_steps(name: str, safe: bool) -> None:
    for order in ((name, "StepCache"), ("StepCache", name)):
        plugins = [discovery.build(f"{FILE}:{each}") for each in order]
        if safe:
            assert len(compose(plugins).names) == 2
            continue
        with pytest.raises(PluginError, match="cannot run with .* does not declare cache_safe; leave one out"):
            compose(plugins)
    if not safe:
        with pytest.raises(PluginError, match="the step cache cache=fora cannot run with"):
            chains.check_cache([discovery.build(f"{FILE}:{name}")], "cache=fora")


# --- sampler ------------------------------------------------------------------------------------------------------


def test_a_corrected_sampler_is_nearer_to_the_exact_flow() -> None:
    fine = toy_draw(steps=800, guidance_scale=1.0)
    first = (toy_draw(steps=20, guidance_scale=1.0) - fine).abs().mean()
    second = (toy_draw(plugin("SecondOrder"), steps=20, guidance_scale=1.0) - fine).abs().mean()
    assert second < 0.5 * first


def test_its_memory_follows_its_rows() -> None:
    chain = Chain(sampler=plugin("SecondOrder"))
    ctx = toy_context([1, 2], chain=chain)
    start = sampling.launch(chain, ctx, *sampling.fresh_noise(ctx, (3, SIZE, SIZE)))
    with torch.no_grad():
        half = sampling.sample(start, sampling.trajectory(chain, ctx), ctx.denoiser(), 3)
        one = ctx.rows([1])
        rest = sampling.sample(half.rows([1]), sampling.trajectory(chain, one), one.denoiser(), 6)
    assert torch.allclose(rest.x, end(chain, ctx).x[1:], atol=1e-6)


# --- model --------------------------------------------------------------------------------------------------------


def test_a_distilled_model_brings_its_settings() -> None:
    student = plugin("Distilled", steps=20)
    model = student.transform_model(ToyModel(), toy_resources())
    assert model.recommended["steps"] == 1 and model.recommended["guidance_scale"] == 1.0
    assert ToyModel().recommended["steps"] != 1
    ctx = toy_context([1], model=model, steps=1, guidance_scale=1.0)
    one = end(Chain(), ctx)
    assert ctx.ledger.evaluations == 0 and model.ledger.evaluations == 1
    many = toy_draw(seeds=[1], steps=400, guidance_scale=1.0)
    blurred = toy_draw(seeds=[1], steps=1, guidance_scale=1.0)
    assert (one.x - many).abs().mean() < 0.2 * (blurred - many).abs().mean() + 0.02


def test_a_lora_is_a_view(tmp_path: Path) -> None:
    shift = torch.zeros(8, 3)
    shift[0] = torch.tensor(COLOURS["white"]) - torch.tensor(COLOURS["red"])  # red becomes white
    path, model = saved(tmp_path / "lora.safetensors", means=shift), ToyModel()
    check_plugin(cls("Lora"), "model", path=path)
    before = toy_draw(model=model, prompts=["red", "red"])
    whole = toy_draw(plugin("Lora", path=path), model=model, prompts=["red", "red"])
    half = toy_draw(plugin("Lora", path=path, scale=0.5), model=model, prompts=["red", "red"])
    assert (score(whole, "white") > -0.1).all() and (score(before, "red") > -0.1).all()
    assert ((half - before).abs().mean() - (whole - half).abs().mean()).abs() < 0.1
    assert torch.equal(toy_draw(model=model, prompts=["red", "red"]), before)


def test_a_pair_of_controlnets_pulls_towards_both_pictures(tmp_path: Path) -> None:
    adapter = saved(tmp_path / "control.safetensors", means=torch.zeros(8, 3))
    left, top = torch.full((3, SIZE, SIZE), 0.5), torch.full((3, SIZE, SIZE), 0.5)
    left[:, :, : SIZE // 2] = 1.0
    top[:, : SIZE // 2] = 1.0
    pictures = [saved(tmp_path / f"{n}.safetensors", image=p) for n, p in (("left", left), ("top", top))]
    pair = plugin("ControlNets", adapters=(adapter, adapter), pictures=tuple(pictures))
    single = plugin("ControlNets", adapters=(adapter,), pictures=tuple(pictures[:1]))
    grey: dict[str, Any] = {"prompts": ["grey", "grey"], "guidance_scale": 1.0}
    plain, one, both = toy_draw(**grey), toy_draw(single, **grey), toy_draw(pair, **grey)

    def contrast(x: Tensor, dim: int) -> float:
        first, second = x.mean((0, 1)).mean(1 - dim).chunk(2)
        return float(first.mean() - second.mean())

    assert contrast(one, 1) > contrast(plain, 1) + 0.2 and contrast(one, 0) < 0.2
    assert contrast(both, 1) > 0.2 and contrast(both, 0) > 0.2


def test_quantization_records_every_call_and_swaps_the_network() -> None:
    module = inspect.getmodule(cls("Quantized"))
    calls = module.record(ToyModel(), ("red", "blue"), steps=4)  # pyright: ignore[reportOptionalMemberAccess]
    assert len(calls) == 4 * 2  # with the prompt and without, at each step
    x, sigma, weights = calls[0]
    assert x.shape == (2, 3, SIZE, SIZE) and math.isclose(float(sigma), math.sin(0.99 * math.pi / 2), abs_tol=1e-5)
    assert torch.equal(weights, torch.stack([weights_of("red"), weights_of("blue")]))
    plain, swapped = toy_draw(seeds=range(4)), toy_draw(plugin("Quantized"), seeds=range(4))
    assert 0 < (plain - swapped).abs().mean() < 0.02


def test_conflicts_are_refused_on_the_way() -> None:
    samplers = [discovery.build(f"{FILE}:SecondOrder")] * 2
    with pytest.raises(PluginError, match="both of kind sampler: at most one"):
        compose(samplers)
