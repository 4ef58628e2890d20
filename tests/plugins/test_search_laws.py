"""The closed forms: what each algorithm must do where the answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from genbench import solvers
from genbench.backbones.toy import COLOURS, Ancestral, ToyModel
from genbench.chain import Chain
from genbench.judging import Panel
from genbench.kinds import Context, Denoise, State
from genbench.searchspace import TrajectorySpace
from genbench.streams import derived_seed
from genbench.testing import toy_context
from genbench_search import Search
from genbench_search.fk import FK, Weights
from genbench_search.lineage import Promising
from genbench_search.paths import Paths
from genbench_search.reno import ReNO
from genbench_search.running import Pool

SHAPE = (3, 8, 8)


@dataclass
class IdentitySpace:
    """Identity sampler: images are the noise itself. Only what random and zero-order search call."""

    verifier: Callable[[Tensor], Tensor] = lambda images: images[:, 0]
    seed: int = 0
    dims: int = 3
    batch: int = 64
    proposed: int = 0
    spent: int = 0
    verifiers: tuple[str, ...] = ("v",)
    ctx: Any = None
    chunks: list[int] = field(default_factory=list)

    def price(self, since: int = 0, until: int | None = None) -> int:
        return 1

    def propose(
        self, n: int, around: Tensor | None = None, cosine: float | None = None
    ) -> tuple[Tensor, tuple[int, ...]]:
        from genbench.searchspace import neighbours

        seeds = tuple(derived_seed(self.seed, self.proposed + i) for i in range(n))
        self.proposed += n
        self.chunks.append(n)
        draw = lambda seed: torch.randn(self.dims, generator=torch.Generator().manual_seed(seed)).double()  # noqa: E731
        noise = torch.stack([draw(seed) for seed in seeds])
        return (noise if around is None else neighbours(around, noise, cosine or 0.0)), seeds

    def start(self, noise: Tensor, seeds: Sequence[int]) -> State:
        return State(noise, rng=tuple(torch.zeros(1) for _ in seeds))

    def run(self, state: State, until: int | None = None) -> State:
        return state

    def decode(self, state: State) -> Tensor:
        return state.x

    def judge(self, images: Tensor) -> dict[str, Tensor]:
        return {"v": self.verifier(images)}

    def watch(self, images: Tensor) -> dict[str, Tensor]:
        return {}


# --- random -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "expected", "repeats"), [(4, 1.03, 400), (16, 1.77, 400), (64, 2.34, 150), (256, 2.83, 40)]
)
def test_best_of_n_law(n: int, expected: float, repeats: int) -> None:
    """E[max of N standard normals], the paper's sheet: a linear verifier on Gaussian samples."""
    spaces: Any = [IdentitySpace(seed=1000 + seed) for seed in range(repeats)]
    best = torch.tensor([Search(candidates=n).search(each).score for each in spaces])
    assert abs(best.mean() - expected) < 4 * best.std() / math.sqrt(repeats)


def test_chunks_bound_what_is_drawn_at_once() -> None:
    where: Any = IdentitySpace()
    Search(candidates=10, chunk=4).search(where)
    assert where.chunks == [4, 4, 2]


# --- zero-order ---------------------------------------------------------------------------------------------------


def degrees(a: Tensor, b: Tensor) -> float:
    return math.degrees(math.acos(float(torch.cosine_similarity(a, b, dim=0).clamp(-1, 1))))


def test_zero_order_climbs_a_quadratic_until_the_angle_is_about_its_step() -> None:
    """Verifier -|y - a|^2 with |a| = |pivot|: the optimum of the sphere is a; a step is acos(0.95) = 18.2 degrees."""
    angles = list[tuple[float, float]]()
    for seed in range(12):
        where: Any = IdentitySpace(seed=seed, dims=6)
        pivot, _ = where.propose(1)
        where.proposed = 0
        target = torch.randn(6, generator=torch.Generator().manual_seed(99 + seed)).double()
        target = target / target.norm() * pivot.norm()
        where.verifier = lambda images, target=target: -(images - target).square().sum(1)
        found = Search(algorithm="zero-order", iterations=80, neighbours=4).search(where)
        angles.append((degrees(pivot[0], target), degrees(found.state.x[0], target)))
        assert float(found.state.x.norm() / pivot.norm()) == pytest.approx(1.0, abs=1e-12)
    assert max(after for _, after in angles) < 1.5 * 18.2 < min(before for before, _ in angles)


def test_neighbours_surround_the_best_so_far() -> None:
    where: Any = IdentitySpace(dims=50, verifier=lambda images: images[:, 0])
    found: Any = Search(algorithm="zero-order", iterations=6, neighbours=2, cosine=0.8).search(where)
    scores = [row["score"] for row in found.trace]
    for i, row in enumerate(found.trace[1:], 1):
        earlier = scores[: 1 + 2 * ((i - 1) // 2)]
        assert row["around"] == earlier.index(max(earlier)) and row["cosine"] == 0.8


# --- on the mixture -----------------------------------------------------------------------------------------------


def mixture(
    verifier: Any, seed: int, *, prompt: str = "red blue", eta: float = 0.0, steps: int = 12
) -> TrajectorySpace:
    ctx = toy_context([seed], prompts=[prompt], chain=Chain(sampler=Ancestral(eta)), steps=steps, guidance_scale=1.0)
    return TrajectorySpace(Chain(), ctx, SHAPE, Panel({"v": verifier}), 512, {})


@dataclass
class Indifferent:
    """Scores that know nothing of the picture."""

    seed: int = 0

    def __post_init__(self) -> None:
        self.draws = torch.Generator().manual_seed(self.seed)

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: object = None) -> Tensor:
        return torch.rand(len(images), generator=self.draws)


POPULATIONS = 8


def statistics(x: Tensor) -> Tensor:
    """(2,) means over rows: redness (which component) and its square (spread)."""
    redness = (x[:, 0] - x[:, 2]).mean((1, 2))
    return torch.stack([redness, redness.square()], 1).mean(0)


def gap(draw: Callable[[TrajectorySpace], Tensor]) -> float:
    """Largest difference between searched and plain populations in standard errors, these from whole populations."""
    found = list[list[Tensor]]()
    for first, sampled in ((0, draw), (1000, lambda space: space.run(space.start(*space.propose(100))).x)):
        spaces = [mixture(Indifferent(seed), first + seed, eta=1.0, steps=20) for seed in range(POPULATIONS)]
        with torch.no_grad():
            found.append([statistics(sampled(space)) for space in spaces])
    a, b = (torch.stack(each) for each in found)
    return float(((a.mean(0) - b.mean(0)) / ((a.var(0) + b.var(0)) / POPULATIONS).sqrt()).abs().max())


def test_paths_under_an_indifferent_verifier_leave_the_mixture_unchanged() -> None:
    paths = Paths(survivors=50, branches=2)
    assert gap(lambda space: paths.walk(space, Pool(), Promising())[0].x) < 5


@dataclass(frozen=True)
class ExactFlow(Ancestral):
    """The probability-flow ODE of the Gaussian `grey`, solved exactly: no step is too large for it."""

    def step(self, state: State, denoise: Denoise, ctx: Context) -> State:
        here, there = ctx.schedule.levels[state.index : state.index + 2]
        m, tau = GREY, 0.15
        spread = [(level.alpha**2 * tau**2 + level.sigma**2) ** 0.5 for level in (here, there)]
        x = there.alpha * m + spread[1] / spread[0] * (state.x - here.alpha * m)
        return State(x, state.index + 1, {}, state.rng)


GREY = ToyModel().modules["network"].components(8, 8)[list(COLOURS).index("grey")]  # type: ignore[operator]


def exact(seed: int = 5) -> TrajectorySpace:
    ctx = toy_context([seed], prompts=["grey"], chain=Chain(sampler=ExactFlow()), guidance_scale=1.0, steps=10)
    return TrajectorySpace(Chain(), ctx, SHAPE, Panel({"v": Indifferent()}), 512, {})


def spread(x: Tensor) -> float:
    """Variance of a pixel around the Gaussian's mean, 1 where it is 0.15^2."""
    return float((x - GREY).square().mean()) / 0.15**2


def path_spread(options: dict[str, Any]) -> float:
    with torch.no_grad():
        return spread(Paths(survivors=150, branches=2, **options).walk(exact(), Pool(), Promising())[0].x)


@pytest.mark.parametrize("options", [{}, {"back": 0.2, "forward": 0.3, "start": 0.5}, {"back": 0.3, "forward": 0.4}])
def test_paths_keep_a_gaussians_variance(options: dict[str, Any]) -> None:
    """57,600 values, many of common ancestry; a wrong variance of the forward noise is seen at once."""
    assert path_spread(options) == pytest.approx(1.0, abs=0.05)
    with pytest.MonkeyPatch.context() as patch:
        right = solvers.renoise
        patch.setattr("genbench.solvers.renoise", lambda x, noise, *levels: right(x, 0.8 * noise, *levels))
        assert path_spread(options) < 0.85


def test_steering_at_lambda_zero_leaves_the_mixture_unchanged() -> None:
    fk = FK(particles=100, strength=0.0)
    assert gap(lambda space: fk.steer(space, Pool(), Promising())[0].x) < 5


def test_without_step_noise_copies_are_rejuvenated_by_one_step_back_and_on() -> None:
    with torch.no_grad():
        states, ways, weights, _ = FK(particles=300, strength=0.0).steer(exact(), Pool(), Promising())
    assert len({way.seed for way in ways}) < 180, "many first noises have died out"
    assert torch.equal(weights.log, torch.zeros(300).double())
    assert len({float(x.mean()) for x in states.x}) == 300, "and yet no two particles are alike"
    assert spread(states.x) == pytest.approx(1.0, abs=0.05)


@dataclass(frozen=True)
class Quadratic:
    """Reward -curvature (m - a)^2 / 2 of m, the mean of the picture's latents."""

    at: float = 0.1
    curvature: float = 2000.0

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: object = None) -> Tensor:
        return -self.curvature / 2 * ((images * 2 - 1).mean((1, 2, 3)) - self.at).square()


def tilted(potential: Any, particles: int, seed: int, ess: bool = False) -> tuple[Tensor, Tensor]:
    """Means of the pictures of one population on the Gaussian `grey`, and their weights."""
    reward = Quadratic()
    fk = FK(particles=particles, potential=potential, strength=1.0, start=0.6, stop=0.8, every=0.2, ess=ess)
    with torch.no_grad():
        where = mixture(reward, seed, prompt="grey", eta=1.0, steps=10)
        states, _, weights, _ = fk.steer(where, Pool(), Promising())
        last = where.score(where.decode(states)).double()
    shares = weights.finished(last, 1.0).shares
    assert shares is not None
    return states.x.mean((1, 2, 3)).double(), shares


def closed_form() -> tuple[float, float]:
    """Mean and variance of the Gaussian base law of m, tilted by exp(reward): precisions add."""
    with torch.no_grad():
        wide = mixture(Indifferent(), 77, prompt="grey", eta=1.0, steps=10)
        m = wide.run(wide.start(*wide.propose(4000))).x.mean((1, 2, 3)).double()
    mean, variance, reward = float(m.mean()), float(m.var()), Quadratic()
    precision = 1 / variance + reward.curvature
    return (mean / variance + reward.curvature * reward.at) / precision, 1 / precision


@pytest.mark.parametrize(
    ("potential", "ess"), [("diff", False), ("max", False), ("add", False), ("rt", False), ("diff", True)]
)
def test_steered_particles_follow_the_tilted_gaussian(potential: str, ess: bool) -> None:
    mean, variance = closed_form()
    found = [tilted(potential, 400, seed, ess) for seed in range(4)]
    means = torch.stack([(m * w).sum() for m, w in found])
    spreads = torch.stack([((m - (m * w).sum()).square() * w).sum() for m, w in found])
    assert abs(float(means.mean()) - mean) < 5 * math.sqrt(variance / 400), (means, mean)
    assert float(spreads.mean()) == pytest.approx(variance, rel=0.3)


def test_the_error_of_steering_falls_like_one_over_the_root_of_particles() -> None:
    mean, _ = closed_form()

    def error(particles: int, repeats: int) -> float:
        off = [float((m * w).sum()) - mean for m, w in (tilted("diff", particles, 100 + i) for i in range(repeats))]
        return math.sqrt(sum(each**2 for each in off) / repeats)

    ratio = error(8, 16) / error(128, 16)
    assert 2 < ratio < 8, "sqrt(128 / 8) = 4"


POTENTIALS: Any = ["max", "diff", "add", "rt"]


def rewards(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("potential", POTENTIALS)
def test_a_preview_without_any_number_changes_nothing(potential: Any) -> None:
    for weights in (Weights.fresh(3, potential), Weights.fresh(3, potential).met(rewards(1, 2, 3), potential, 2.0)):
        assert weights.met(rewards(math.nan, math.nan, math.nan), potential, 2.0) is weights


@pytest.mark.parametrize("potential", POTENTIALS)
def test_a_particle_without_a_number_takes_the_smallest_potential_and_remembers_nothing(potential: Any) -> None:
    fresh = Weights.fresh(3, potential)
    before = fresh.met(rewards(1, 2, 3), potential, 2.0)
    after = before.met(rewards(5, math.nan, 4), potential, 2.0)
    gained = after.log - before.log
    assert gained[1] == gained[[0, 2]].min() and torch.isfinite(after.log).all()
    assert torch.equal(after.product - before.product, gained) and after.memory[1] == before.memory[1]
    assert torch.equal(before.met(rewards(5, 0, 4), potential, 2.0).log[[0, 2]], after.log[[0, 2]])
    first = fresh.met(rewards(1, math.nan, 3), potential, 2.0)
    assert first.memory[1] == fresh.memory[1] and torch.isfinite(first.met(rewards(0, 1, 0), potential, 2.0).log).all()
    last = after.finished(rewards(0.5, 0.25, 1), 2.0)
    assert torch.allclose(last.log, 2.0 * rewards(0.5, 0.25, 1)), "the product over a life is exp(lambda r)"


@pytest.mark.parametrize("potential", POTENTIALS)
def test_infinite_rewards_leave_weights_that_are_numbers(potential: Any) -> None:
    weights = Weights.fresh(3, potential)
    for values in ((-math.inf, 0, 1), (-math.inf, 0, 1), (math.inf, 0, 1)):
        weights = weights.met(rewards(*values), potential, 10.0)
        assert torch.isfinite(weights.log).all() and weights.shares is not None
    assert Weights.fresh(3, potential).met(rewards(-math.inf, 0, 1), potential, 0.0).log.tolist() == [0, 0, 0]


@dataclass
class Gappy:
    """A reward that gives no number at some calls, to all or to the first particle."""

    mute: tuple[int, ...]
    alone: bool = False
    calls: int = 0

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: object = None) -> Tensor:
        self.calls += 1
        scores = Quadratic().score(images=images, prompts=prompts)
        gone = torch.full_like(scores, self.calls in self.mute, dtype=torch.bool)
        return scores.masked_fill(gone & (torch.arange(len(scores)) == 0 if self.alone else gone), math.nan)


def resampled(verifier: Any, **options: Any) -> list[bool]:
    """Whether each of three stops resampled: some parent has two copies."""
    with torch.no_grad():
        fk = FK(particles=40, strength=1.0, start=0.2, stop=0.8, every=0.3, **options)
        _, ways, weights, _ = fk.steer(mixture(verifier, 3, prompt="grey", eta=1.0, steps=10), Pool(), Promising())
    assert torch.isfinite(weights.log).all() and torch.isfinite(weights.product).all()
    return [any(way.hops[stop][2] > 0 for way in ways) for stop in range(3)]


@pytest.mark.parametrize("potential", POTENTIALS)
def test_steering_goes_on_after_a_preview_without_a_number(potential: Any) -> None:
    assert resampled(Gappy(()), potential=potential) == [True, True, True]
    assert resampled(Gappy((1,)), potential=potential) == [False, True, True]
    assert resampled(Gappy((2,)), potential=potential) == [True, False, True]
    resampled(Gappy((1, 2), alone=True), potential=potential, ess=True)  # the weight of the first stays a number


# --- reno ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_the_ascent_raises_the_reward(steps: int) -> None:
    for seed in range(4):
        where = mixture(Quadratic(at=0.3, curvature=200.0), seed, prompt="grey", steps=steps)
        with torch.no_grad():
            found: Any = Search(algorithm="reno", iterations=20).search(where)
        scores = [row["score"] for row in found.trace]
        assert found.score == max(scores) > scores[0]
        if steps > 1:  # one step from pure noise hardly looks at it
            assert found.score > scores[0] / 2


def test_a_step_is_nesterovs_with_the_gradient_clipped_and_the_norm_drawn_to_its_shell() -> None:
    n, slope = torch.randn(1, 3, 8, 8) * 1.5, torch.randn(1, 3, 8, 8) * 40
    loose = ReNO(clip=1e9, rate=2.0)
    leaf = n.clone().requires_grad_()
    loss = (slope * leaf).sum() + 0.01 * (0.5 * leaf.square().sum() - (192 - 1) * leaf.norm().log())
    optimiser = torch.optim.SGD([leaf], lr=2.0, momentum=0.9, nesterov=True)
    velocity = torch.zeros_like(n)
    for _ in range(2):
        (leaf.grad,) = torch.autograd.grad(loss, leaf)
        optimiser.step()
        n, velocity = loose.stepped(n, slope, velocity)
        assert torch.allclose(n, leaf.detach(), rtol=1e-4, atol=1e-4)
        loss = (slope * leaf).sum() + 0.01 * (0.5 * leaf.square().sum() - (192 - 1) * leaf.norm().log())
    clipped, _ = ReNO().stepped(n, slope, torch.zeros_like(n))
    assert float((clipped - n).norm()) == pytest.approx(5 * 0.1 * 1.9, rel=1e-3)
    still = torch.zeros_like(n)
    for scale in (0.5, 2.0):
        start = n / n.norm() * math.sqrt(191) * scale
        moved, _ = ReNO(clip=1e9, rate=1.0).stepped(start, still, still)
        assert abs(float(moved.norm()) - math.sqrt(191)) < abs(float(start.norm()) - math.sqrt(191))


def test_checkpointed_gradients_are_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = list[Any]()
    for kept in (100, 0):
        monkeypatch.setattr("genbench_search.reno.WHOLE_STEPS", kept)
        with torch.no_grad():
            where = mixture(Quadratic(at=0.3, curvature=200.0), 11, prompt="grey", steps=6, eta=1.0)
            traces.append([row["score"] for row in Search(algorithm="reno", iterations=4).search(where).trace])
        assert where.spent == (4 if kept else 7) * 6
    assert traces[0] == traces[1]


def test_a_verifier_without_gradient_is_refused_in_one_line() -> None:
    where = mixture(Indifferent(), 1)
    with torch.no_grad(), pytest.raises(Exception, match="climbs a gradient and verifier=v has none; choose another"):
        Search(algorithm="reno").search(where)
    assert where.spent == 0, "it is known before the first walk"


def test_neutral_means_the_model_is_untouched() -> None:
    before = [parameter.clone() for parameter in ToyModel().modules["network"].buffers()]
    where = mixture(Quadratic(), 2)
    with torch.no_grad():
        Search(algorithm="reno", iterations=3).search(where)
    after = where.ctx.model.modules["network"].buffers()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
