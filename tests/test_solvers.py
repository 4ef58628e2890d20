"""Conversions undo each other and the solvers agree with their formulas in plainest form, in float64."""

import itertools

import pytest
import torch

from genbench import solvers

LEVELS = {
    "variance preserving": (0.8, 0.6),
    "variance exploding": (1.0, 7.0),
    "rectified flow": (0.3, 0.7),
}
TO_X0 = {"eps": solvers.eps_to_x0, "v": solvers.v_to_x0, "flow": solvers.flow_to_x0}
FROM_X0 = {"eps": solvers.x0_to_eps, "v": solvers.x0_to_v, "flow": solvers.x0_to_flow}


def point(alpha: float, sigma: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator)
    return x0, eps, alpha * x0 + sigma * eps


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS.values(), ids=LEVELS.keys())
@pytest.mark.parametrize("kind", TO_X0)
def test_every_convention_recovers_the_clean_image(kind: str, alpha: float, sigma: float) -> None:
    x0, _, x = point(alpha, sigma)
    said = FROM_X0[kind](x0, x, alpha, sigma)
    assert not torch.allclose(said, x0)
    assert torch.allclose(TO_X0[kind](said, x, alpha, sigma), x0, atol=1e-12)


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS.values(), ids=LEVELS.keys())
def test_noise_views_agree(alpha: float, sigma: float) -> None:
    x0, eps, x = point(alpha, sigma)
    v, u = solvers.eps_to_v(eps, x, alpha, sigma), solvers.eps_to_flow(eps, x, alpha, sigma)
    assert torch.allclose(v, solvers.x0_to_v(x0, x, alpha, sigma), atol=1e-12)
    assert torch.allclose(u, eps - x0, atol=1e-12)
    assert torch.allclose(solvers.v_to_eps(v, x, alpha, sigma), eps, atol=1e-12)
    assert torch.allclose(solvers.flow_to_eps(u, x, alpha, sigma), eps, atol=1e-12)


def test_v_is_the_papers_on_the_unit_circle() -> None:
    x0, eps, x = point(0.8, 0.6)
    assert torch.allclose(solvers.x0_to_v(x0, x, 0.8, 0.6), 0.8 * eps - 0.6 * x0, atol=1e-12)


def test_score_is_the_gradient_of_the_log_density() -> None:
    alpha, sigma, tau = 0.8, 0.6, 0.5
    x = torch.randn(7, dtype=torch.float64, requires_grad=True)
    variance = alpha**2 * tau**2 + sigma**2
    x0 = alpha * tau**2 / variance * x
    (score,) = torch.autograd.grad((-(x**2) / (2 * variance)).sum(), x)
    assert torch.allclose(solvers.x0_to_score(x0, x, alpha, sigma), score)


@pytest.mark.parametrize(("a", "b"), list(itertools.permutations(LEVELS.values(), 2)))
def test_ddim_with_levels_swapped_is_its_own_inverse(a: tuple[float, float], b: tuple[float, float]) -> None:
    _, eps, x = point(*a)
    assert torch.allclose(solvers.ddim(solvers.ddim(x, eps, *a, *b), eps, *b, *a), x, atol=1e-12)


def test_ddim_contains_euler_and_flow_euler() -> None:
    x0, eps, x = point(1.0, 7.0)
    euler = x + (2.0 - 7.0) * (x - x0) / 7.0
    assert torch.allclose(solvers.ddim(x, eps, 1.0, 7.0, 1.0, 2.0), euler, atol=1e-12)
    x0, eps, x = point(0.3, 0.7)
    flow = solvers.flow_euler(x, eps - x0, 0.7, 0.2)
    assert torch.allclose(solvers.ddim(x, eps, 0.3, 0.7, 0.8, 0.2), flow, atol=1e-12)


@pytest.mark.parametrize(
    ("near", "far"), [((0.8, 0.6), (0.6, 0.8)), ((1.0, 1.0), (1.0, 4.0)), ((0.7, 0.3), (0.2, 0.8))]
)
def test_renoise_gives_the_exact_marginal(near: tuple[float, float], far: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(1)
    eps, fresh = torch.randn(2, 200_000, dtype=torch.float64, generator=generator)
    x0 = 1.5
    x = solvers.renoise(near[0] * x0 + near[1] * eps, fresh, *near, *far)
    assert float(x.mean()) == pytest.approx(far[0] * x0, abs=0.02 * far[1])
    assert float(x.std()) == pytest.approx(far[1], rel=0.01)
