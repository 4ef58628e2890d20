"""LML as a sampler: the exact flow of Gaussians, order of convergence, neutrality, state, counts, errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genbench import generate, sampling, solvers
from genbench.backbones.toy import COLOURS, Mixture, ToyModel
from genbench.chain import Chain
from genbench.cost import picture_evaluations
from genbench.errors import UsageError
from genbench.kinds import Context, Sampler, State
from genbench.schedulers import named_sampler
from genbench.searchspace import TrajectorySpace
from genbench.testing import contract_tests, toy_context, toy_draw
from genbench_lml import LML

test_contract = contract_tests(LML, "sampler")
test_contract_spectrum = contract_tests(LML, "sampler", ritz="spectrum")
test_contract_rank = contract_tests(LML, "sampler", rank=2)
test_contract_stable = contract_tests(LML, "sampler", mode="stable")
test_contract_published = contract_tests(LML, "sampler", mode="published")

C = 0.15**2
"""Variance of a component of the toy's mixture."""


def walk(plugin: Sampler, model: Any = None, **wanted: Any) -> tuple[Tensor, Tensor, Context]:
    """Return noise, final latents and context of a run on the toy."""
    chain = Chain(sampler=plugin)
    ctx = toy_context(chain=chain, model=model, **wanted)
    noise, rng = sampling.fresh_noise(ctx, ctx.model.latent_shape(8, 8))
    state = sampling.launch(chain, ctx, noise, rng)
    with torch.no_grad():
        final = sampling.sample(state, sampling.trajectory(chain, ctx), ctx.denoiser(), ctx.schedule.steps)
    return noise, final.x, ctx


def stock(word: str) -> Sampler:
    return named_sampler(word, ToyModel().sampler.scheduler)  # type: ignore[attr-defined]


# --- Gaussians and mixtures ---------------------------------------------------------------------------------------


def exact_end(noise: Tensor, ctx: Context, variance: Tensor | float) -> Tensor:
    """The exact flow of a Gaussian with mean `red` from the first level to sigma = 0."""
    first = ctx.schedule.levels[0]
    mean = ctx.model.modules["network"].components(8, 8)[0]  # type: ignore[operator]
    deviation = (noise - first.alpha * mean) / first.alpha
    tau = first.sigma / first.alpha
    return mean + (variance / (variance + tau**2)) ** 0.5 * deviation


@pytest.mark.parametrize("options", [{"rank": 1}, {"rank": 3}, {"rank": 1, "products": "forward"}])
def test_one_hessian_product_reaches_the_exact_flow_of_a_round_gaussian(options: dict[str, Any]) -> None:
    wanted: dict[str, Any] = {"prompts": ("red",), "seeds": (1,), "guidance_scale": 1.0, "steps": 5}
    noise, made, ctx = walk(LML(base="ddim", **options), **wanted)
    plain = walk(stock("ddim"), **wanted)[1]
    exact = exact_end(noise, ctx, C)
    assert float((made - exact).norm()) < 2e-2 * float((plain - exact).norm())


def test_secants_reach_it_too_once_there_are_three() -> None:
    """The first two steps have no curvature of their own yet, and there a Gaussian as narrow as this is all noise."""
    wanted: dict[str, Any] = {"prompts": ("red",), "seeds": (1,), "guidance_scale": 1.0, "steps": 10}
    noise, made, ctx = walk(LML(base="ddim", ritz="secant"), **wanted)
    plain = walk(stock("ddim"), **wanted)[1]
    exact = exact_end(noise, ctx, C)
    assert float((made - exact).norm()) < 0.35 * float((plain - exact).norm())


class Stretched(nn.Module):
    """One Gaussian with mean `red` whose variance differs by channel: the Hessian has three eigenvalues."""

    def __init__(self, variances: tuple[float, float, float]) -> None:
        super().__init__()
        self.variances = torch.tensor(variances)[:, None, None]

    def components(self, height: int, width: int) -> Tensor:
        return torch.tensor(COLOURS["red"])[None, :, None, None].expand(1, 3, height, width)

    def forward(self, x: Tensor, alpha: Tensor, sigma: Tensor, weights: Tensor) -> Tensor:
        return sigma * (x - alpha * self.components(*x.shape[-2:])[0]) / (alpha**2 * self.variances + sigma**2)


def test_three_products_resolve_three_eigenvalues() -> None:
    model = ToyModel(modules={"network": Stretched((0.003, 0.2, 3.0))})
    wanted: dict[str, Any] = {"prompts": ("red",), "seeds": (1,), "guidance_scale": 1.0, "steps": 5, "model": model}
    errors = []
    for plugin in (stock("ddim"), *(LML(base="ddim", rank=rank, products="forward") for rank in (1, 2, 3))):
        noise, made, ctx = walk(plugin, **wanted)
        errors.append(float((made - exact_end(noise, ctx, torch.tensor([0.003, 0.2, 3.0])[:, None, None])).norm()))
    assert errors[3] < 1e-2 * errors[0] and errors[3] < errors[2] < errors[1] < errors[0]


def smooth() -> ToyModel:
    """A mixture of components so wide that the walk is smooth."""
    return ToyModel(modules={"network": Mixture(tau=0.8)})


def error(plugin: Sampler, steps: int, share: float = 1.0) -> float:
    """Distance to the exact walk after a share of the steps."""
    ends: list[Tensor] = []
    for sampler, n in ((plugin, steps), (stock("dpmpp_2m"), 500)):
        chain = Chain(sampler=sampler)
        ctx = toy_context((3,), prompts=("red blue",), guidance_scale=1.0, model=smooth(), chain=chain, steps=n)
        state = sampling.launch(chain, ctx, *sampling.fresh_noise(ctx, (3, 8, 8)))
        with torch.no_grad():
            step = sampling.trajectory(chain, ctx)
            ends.append(sampling.sample(state, step, ctx.denoiser(), round(share * n)).x)
    return float((ends[0] - ends[1]).norm())


@pytest.mark.parametrize(("base", "word"), [("ddim", "ddim"), ("dpmpp", "dpmpp_2m")])
@pytest.mark.parametrize("steps", [5, 10])
def test_curvature_without_products_beats_its_base_on_a_mixture(base: Any, word: str, steps: int) -> None:
    assert error(LML(base=base), steps) < error(stock(word), steps)


def test_it_is_of_second_order_where_ddim_is_of_first() -> None:
    """Up to timestep 200: the last steps of these levels do not get shorter in ln tau as they get more."""
    mine, plain = ([error(plugin, n, 0.8) for n in (20, 40)] for plugin in (LML(base="ddim"), stock("ddim")))
    assert plain[0] / plain[1] < 2.5 < 3 < mine[0] / mine[1]


# --- neutral settings ---------------------------------------------------------------------------------------------

BASES = {"auto": None, "ddim": "ddim", "dpm": "dpm_2m", "dpmpp": "dpmpp_2m"}


@pytest.mark.parametrize("mode", ["curvature", "stable", "published"])
@pytest.mark.parametrize("base", BASES)
def test_strength_zero_is_the_base_itself(base: str, mode: str) -> None:
    word = BASES[base]
    plain = toy_draw() if word is None else walk(stock(word))[1]
    assert torch.equal(walk(LML(mode=mode, base=base, strength=0.0))[1], plain)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", [1, 3])
def test_orders_of_the_multistep_bases(order: int) -> None:
    for base in ("dpm", "dpmpp"):
        made = walk(LML(mode="stable", base=base, order=order, strength=0.0))[1]
        assert torch.equal(made, walk(stock(f"{base}_{order}m"))[1])


def test_everything_frozen_is_the_base() -> None:
    plain = walk(stock("ddim"))[1]
    for options in ({}, {"ritz": "spectrum"}, {"mode": "stable"}, {"mode": "published"}):
        frozen, half = (walk(LML(base="ddim", freeze=share, **options))[1] for share in (1.0, 0.5))
        assert torch.equal(frozen, plain) and not torch.equal(half, plain)
        assert not torch.equal(half, walk(LML(base="ddim", **options))[1])


def test_published_without_kappa_is_the_base_but_for_rounding() -> None:
    """On latents as small as these and at a lambda as large, little is lost."""
    plain = walk(stock("ddim"))[1]
    made = walk(LML(mode="published", base="ddim", lamb=10.0))[1]
    assert 0 < float((made - plain).abs().max()) < 1e-3
    assert float((walk(LML(mode="published", base="ddim", lamb=10.0, kappa=0.5))[1] - plain).abs().max()) > 1e-3


@dataclass(frozen=True)
class InOneLine:
    """The stable mode on DDIM, written as the sheet's formula."""

    strength: float

    def schedule(self, steps: int, model: Any, shape: tuple[int, ...]) -> Any:
        return stock("ddim").schedule(steps, model, shape)

    def step(self, state: State, denoise: Any, ctx: Context) -> State:
        here, there = ctx.schedule.levels[state.index : state.index + 2]
        told = denoise(state.x, here)
        v, p = told.eps.flatten(1), state.memory.get("p", told.eps).flatten(1)
        p = p * v.norm(dim=1, keepdim=True) / p.norm(dim=1, keepdim=True)
        w = v - self.strength * (p - (p * v).sum(1, keepdim=True) / v.square().sum(1, keepdim=True) * v)
        out = (w / w.norm(dim=1, keepdim=True) * v.norm(dim=1, keepdim=True)).reshape(state.x.shape)
        plain = solvers.ddim(state.x, told.eps, here.alpha, here.sigma, there.alpha, there.sigma)
        x = plain + there.sigma * (out - told.eps)
        return state.replace(x=x, index=state.index + 1, memory={"p": told.eps})


def test_stable_is_the_formula() -> None:
    stable = LML(mode="stable", base="ddim", strength=0.3)
    made, formula, plain, base = (walk(each)[1] for each in (stable, InOneLine(0.3), stock("ddim"), InOneLine(0.0)))
    rounding = float((base - plain).abs().max())
    assert float((made - formula).abs().max()) < 2 * rounding < 0.3 * float((made - plain).abs().max())


def test_dpm_and_ddim_are_one_method_under_curvature() -> None:
    """What dpm's order adds is known and taken off, so on the same levels both make the same corrected step."""
    ctx = {base: toy_context(chain=Chain(sampler=LML(base=base)), steps=8) for base in ("ddim", "dpm")}  # type: ignore[arg-type]
    dpm = ctx["dpm"]
    plugin, second = LML(base="dpm", ritz="spectrum"), LML(base="dpm", order=1, ritz="spectrum")
    alone = toy_context(chain=Chain(sampler=second), steps=8)
    ends = []
    for sampler, each in ((plugin, dpm), (second, alone)):
        state = State(sampling.fresh_noise(each, (3, 8, 8))[0])
        ends.append(sampling.sample(state, lambda s, d, p=sampler, c=each: p.step(s, d, c), each.denoiser(), 7).x)
    assert torch.allclose(ends[0], ends[1], atol=2e-5)


# --- state --------------------------------------------------------------------------------------------------------

VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"ritz": "spectrum"},
    {"rank": 1},
    {"base": "dpmpp"},
    {"mode": "stable", "base": "dpm"},
    {"mode": "published"},
)


def _rounding(options: dict[str, Any]) -> float:
    return 1e-3 if options.get("mode") == "published" else 1e-5


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_pictures_leak_nothing_to_one_another(options: dict[str, Any]) -> None:
    plugin = LML(**options)
    first, second = (toy_draw(plugin, seeds=(seed,), prompts=("red",)) for seed in (1, 2))
    assert torch.equal(toy_draw(plugin, seeds=(1,), prompts=("red",)), first)
    assert torch.equal(toy_draw(LML(**options), seeds=(2,), prompts=("red",)), second)
    swapped = toy_draw(plugin, seeds=(2, 1), prompts=("red", "red"))
    assert torch.allclose(
        swapped, torch.cat([second, first]), atol=1e-3 if options.get("mode") == "published" else 1e-5
    )


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_states_are_cut_and_joined_in_the_middle(options: dict[str, Any]) -> None:
    plugin = LML(**options)
    chain = Chain(sampler=plugin)
    ctx = toy_context((1, 2), prompts=("red", "blue"), chain=chain)
    noise, rng = sampling.fresh_noise(ctx, (3, 8, 8))
    step, denoise = sampling.trajectory(chain, ctx), ctx.denoiser()
    with torch.no_grad():
        half = sampling.sample(sampling.launch(chain, ctx, noise, rng), step, denoise, 4)
        whole = sampling.sample(half, step, denoise, 6).x
        one = ctx.rows([1])
        alone = sampling.sample(half.rows([1]), sampling.trajectory(chain, one), one.denoiser(), 6).x
    assert torch.allclose(whole[1], alone[0], atol=_rounding(options))


def test_renoising_forgets() -> None:
    chain = Chain(sampler=LML())
    ctx = toy_context((1,), chain=chain)
    space = TrajectorySpace(chain, ctx, (3, 8, 8), None, 4, {})
    with torch.no_grad():
        half = space.run(space.start(*space.propose(1)), 4)
        back = space.renoise(half, 2)
    assert half.memory and not back.memory


# --- counts and errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "calls"),
    [({}, 6), ({"rank": 1}, 12), ({"rank": 2, "products": "forward"}, 18), ({"rank": 2, "strength": 0.0}, 6),
     ({"mode": "stable"}, 6)],
)  # fmt: skip
def test_the_ledger_is_the_formula(options: dict[str, Any], calls: int) -> None:
    chain = Chain(sampler=LML(**options))
    ctx = walk(LML(**options))[2]
    assert ctx.ledger.evaluations == 2 * picture_evaluations(chain, ctx) == 2 * 2 * calls


def test_frozen_steps_take_no_products() -> None:
    ctx = walk(LML(rank=1, freeze=0.5))[2]
    assert ctx.ledger.evaluations == 2 * picture_evaluations(Chain(sampler=LML()), ctx) == 2 * 2 * 9


def test_a_run_and_its_record() -> None:
    words = {"model": "toy", "prompt": "red", "seed": 1}
    plain = generate(**words)[0]
    made = generate(**words, plugin="lml", options={"lml": {"rank": 1}})[0]
    assert made.nfe == 2 * plain.nfe
    assert torch.equal(generate(**words, plugin="lml", options={"lml": {"strength": 0}})[0].latents, plain.latents)


def test_bases_that_do_not_fit() -> None:
    model = ToyModel()
    with pytest.raises(UsageError, match="lml.base=euler walks rectified flow and this model predicts noise"):
        LML(base="euler").check("some/model", "pixart")
    with pytest.raises(UsageError, match="lml.base=ddim does not fit a rectified-flow model"):
        LML(base="ddim").check("some/model", "flux")
    LML(base="euler").check("some/model", "sd")  # its checkpoint says
    with pytest.raises(UsageError, match="lml.base=euler walks rectified flow and this model predicts epsilon"):
        LML(base="euler").schedule(4, model, (3, 8, 8))

    class Unscheduled:
        name, sampler = "mine", object()

    with pytest.raises(UsageError, match="lml needs a model with a diffusers noise schedule; model=mine brings none"):
        LML().schedule(4, Unscheduled(), (3, 8, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize("base", ["ddim", "dpm"])
def test_diffusion_bases_refuse_rectified_flow(base: str) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    from genbench.schedulers import SchedulerSampler

    model = replace(ToyModel(), sampler=SchedulerSampler(FlowMatchEulerDiscreteScheduler()))
    with pytest.raises(UsageError, match=f"lml.base={base} does not fit a rectified-flow model"):
        LML(base=base).schedule(4, model, (3, 8, 8))  # type: ignore[arg-type]


def test_third_order_is_for_the_transforms() -> None:
    with pytest.raises(UsageError, match="mode=curvature corrects orders 1 and 2"):
        LML(base="dpmpp", order=3)
    model = replace(ToyModel(), sampler=stock("dpmpp_3m"))
    with pytest.raises(UsageError, match="the model's own solver has order 3"):
        LML().schedule(20, model, (3, 8, 8))
    assert LML(mode="stable").schedule(4, model, (3, 8, 8)).steps == 4


def test_networks_without_a_forward_derivative_say_so() -> None:
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 0.5

    class Network(nn.Module):
        def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
            return Opaque.apply(x)  # type: ignore[return-value]

    with pytest.raises(UsageError, match="lml.products=forward fails on this model .*; use difference"):
        walk(LML(rank=1, products="forward"), model=ToyModel(modules={"network": Network()}))


def test_published_warns_of_its_rounding() -> None:
    with pytest.warns(UserWarning, match="lml.mode=published is its base solver plus rounding noise"):
        LML(mode="published").check_words({"steps": 6})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kappa": 0.5}, "lml.kappa= is for lml.mode=stable and lml.mode=published"),
        ({"lamb": 0.1}, "lml.lamb= is for lml.mode=published"),
        ({"mode": "stable", "rank": 2}, "lml.rank= is for lml.mode=curvature"),
        ({"rank": 1, "ritz": "spectrum"}, "lml.ritz= is for lml.mode=curvature lml.rank=0"),
        ({"products": "forward"}, "lml.products= is for lml.mode=curvature with lml.rank= above 0"),
        ({"order": 1}, "lml.order= is for lml.base=dpm and lml.base=dpmpp"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        LML(**options)
