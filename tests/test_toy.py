"""The toy model against the mathematics it stands for."""

import pytest
import torch

from genbench import solvers
from genbench.backbones.toy import WORDS, Ancestral, Mixture, ToyModel, ToyScorer, weights_of
from genbench.errors import UsageError
from genbench.kinds import Level, State


def test_the_network_is_the_exact_score_of_the_mixture() -> None:
    network = Mixture().double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    alpha, sigma = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    weights = torch.stack([weights_of("red blue"), weights_of("")]).double()
    variance = alpha**2 * network.tau**2 + sigma**2
    distance = (x[:, None] - alpha * network.components(4, 4)).square().sum((2, 3, 4))
    log_p = torch.logsumexp(weights.log() - distance / (2 * variance), 1)
    (score,) = torch.autograd.grad(log_p.sum(), x)
    x0 = network.posterior_mean(x, alpha, sigma, weights)
    assert torch.allclose(solvers.x0_to_score(x0, x, alpha, sigma), score, atol=1e-10)


def walk(steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample one Gaussian component in float64; returns the result and the exact solution of the ODE."""
    model = ToyModel(modules={"network": Mixture().double()}, dtype=torch.float64)
    schedule = model.sampler.schedule(steps, model, (3, 8, 8))
    conditioning = model.encode_prompt(["red"], guidance=False)
    denoise = model.denoiser(conditioning, 1.0)
    first, last = schedule.levels[0], schedule.levels[-1]
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, tau = Mixture().double().components(8, 8)[WORDS.index("red")], Mixture().tau
    spread = [(level.alpha**2 * tau**2 + level.sigma**2) ** 0.5 for level in (first, last)]
    exact = last.alpha * mean + spread[1] / spread[0] * (x - first.alpha * mean)
    for here, there in zip(schedule.levels, schedule.levels[1:], strict=False):
        eps = denoise(x, here).eps
        x = solvers.ddim(x, eps, here.alpha, here.sigma, there.alpha, there.sigma)
    return x, exact


def test_sampling_converges_to_the_exact_flow_with_first_order() -> None:
    errors = [float((x - exact).abs().max()) for x, exact in (walk(steps) for steps in (40, 80, 160))]
    assert errors[2] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.25)
    assert errors[1] / errors[2] == pytest.approx(2.0, rel=0.25)


def test_guidance_is_counted_twice_and_moves_the_prediction() -> None:
    model = ToyModel()
    conditioning = model.encode_prompt(["red", "blue"])
    level = Level(torch.tensor(0.0), torch.tensor(0.6), torch.tensor(0.8))
    x = torch.randn(2, 3, 8, 8)
    plain, guided = model.denoiser(conditioning, 1.0)(x, level), model.denoiser(conditioning, 3.0)(x, level)
    assert model.ledger.evaluations == 2 + 4 and model.ledger.calls == 2
    assert guided.cond is not None and guided.uncond is not None
    assert torch.equal(guided.cond.raw, plain.raw)
    assert torch.allclose(guided.raw, guided.uncond.raw + 3 * (guided.cond.raw - guided.uncond.raw))


def test_ancestral_noise_comes_from_the_state() -> None:
    from genbench import streams

    model = ToyModel(sampler=Ancestral(eta=1.0))

    class Ctx:
        schedule = model.sampler.schedule(5, model, (3, 8, 8))

    denoise = model.denoiser(model.encode_prompt(["red"]), 1.0)
    state = State(torch.randn(1, 3, 8, 8), 0, {}, streams.seeded([1]))
    once, twice = (model.sampler.step(state, denoise, Ctx()) for _ in range(2))
    other = model.sampler.step(state.replace(rng=streams.seeded([2])), denoise, Ctx())
    assert torch.equal(once.x, twice.x)
    assert not torch.equal(once.x, other.x)
    assert not torch.equal(once.rng[0], state.rng[0])


def test_the_scorer_prefers_the_named_colour() -> None:
    model = ToyModel()
    red = model.decode(Mixture().components(16, 16)[[WORDS.index("red")]])
    scores = ToyScorer().score(images=red.expand(2, -1, -1, -1), prompts=["red", "blue"])
    assert scores[0] > scores[1] and scores[0] == pytest.approx(0.0, abs=1e-3)


def test_sizes_are_checked() -> None:
    with pytest.raises(UsageError, match="multiples of 8"):
        ToyModel().latent_shape(12, 16)
