"""The six divergences (and neyman) against autograd and numerical integration, in float64.

On a line, p = 0.6 N(-1, 0.8^2) + 0.4 N(1.5, 0.6^2) and q = N(m, s^2) at (0.4, 1.1): the gradients by m and s are known.
"""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from genbench_fdistill.divergences import DIVERGENCES, Divergence
from genbench_fdistill.ratio import matching_loss

NAMES: tuple[Divergence, ...] = get_args(Divergence)
GRADIENTS = {
    "rkl": (0.18942, -0.51676),
    "kl": (0.33058, -0.73479),
    "sf": (0.07958, -0.23091),
    "js": (0.10984, -0.28586),
    "sh": (0.05945, -0.14989),
    "jf": (0.52000, -1.25155),
}
"""Of D_f(p || q) by m and s, integrated elsewhere."""
R = torch.logspace(-3, 3, 61, dtype=torch.float64)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def mixture(alpha: float = 1.0, sigma: float = 0.0) -> MixtureSameFamily:
    """p, or what becomes of it as x_t = alpha x0 + sigma eps."""
    deviations = (alpha**2 * numbers(0.8, 0.6) ** 2 + sigma**2) ** 0.5
    return MixtureSameFamily(Categorical(numbers(0.6, 0.4)), Normal(alpha * numbers(-1.0, 1.5), deviations))


def scores(p: MixtureSameFamily | Normal, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(p.log_prob(x).sum(), x)[0]


def integrated(name: Divergence, m: Tensor, s: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
    """D_f(p_t || q_t) on a grid; r is bounded where q is nothing in float64."""
    x = torch.linspace(-14, 14, 40001, dtype=torch.float64)
    p, q = mixture(alpha, sigma), Normal(alpha * m, (alpha**2 * s**2 + sigma**2) ** 0.5)
    r = (p.log_prob(x) - q.log_prob(x)).exp()
    return torch.trapezoid(q.log_prob(x).exp() * DIVERGENCES[name].f(r), x)


# --- the table ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_h_is_r_squared_times_the_second_derivative_of_f(name: Divergence) -> None:
    r = R.clone().requires_grad_()
    (first,) = torch.autograd.grad(DIVERGENCES[name].f(r).sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    assert torch.allclose(DIVERGENCES[name].h(R), R**2 * second, rtol=1e-8)
    assert (second > 0).all()
    assert DIVERGENCES[name].f(numbers(1.0)).abs() < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_the_weight_is_h_up_to_a_constant_and_a_row_per_sample(name: Divergence) -> None:
    ratio = DIVERGENCES[name].weight(R) / DIVERGENCES[name].h(R)
    assert torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=1e-12)
    for r in (torch.rand(3) + 0.1, torch.rand(1) + 0.1, torch.ones(0)):
        weight = DIVERGENCES[name].weight(r)
        assert weight.shape == r.shape and weight.dtype == r.dtype


def test_the_published_weights() -> None:
    r = numbers(0.1, 0.5, 1.0, 3.0, 20.0)
    published: dict[Divergence, Tensor] = {
        "rkl": torch.ones(5, dtype=torch.float64),
        "sf": 1 / (1 + r),
        "js": 1 - 1 / (1 + r),
        "sh": r**0.5,
        "kl": r,
        "jf": 1 + r,
        "neyman": 1 / r.clamp(min=1e-8),
    }
    assert set(DIVERGENCES) == set(published) == set(NAMES)
    for name, expected in published.items():
        assert torch.allclose(DIVERGENCES[name].weight(r), expected, rtol=1e-14), name


def test_neyman_stays_finite_and_the_bounded_ones_bounded() -> None:
    assert float(DIVERGENCES["neyman"].weight(numbers(0.0))) == 1e8
    huge = numbers(1e12)
    assert float(DIVERGENCES["js"].weight(huge)) == pytest.approx(1) and float(DIVERGENCES["sf"].weight(huge)) < 1e-11


def test_identities_between_divergences() -> None:
    table = DIVERGENCES
    assert torch.allclose(table["jf"].h(R), table["rkl"].h(R) + table["kl"].h(R), rtol=1e-14)
    assert torch.allclose(table["js"].h(R) + table["sf"].h(R), table["rkl"].h(R), rtol=1e-14)


# --- gradients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_theorem_on_a_line(name: Divergence) -> None:
    """-E_q[h(r) (s_p - s_q) dx/dtheta] = grad of the integral of q f(p / q)."""
    m, s = numbers(0.4)[0].requires_grad_(), numbers(1.1)[0].requires_grad_()
    if name == "neyman":  # q^2 / p has no integral where q is wider than p
        m, s = numbers(0.4)[0].requires_grad_(), numbers(0.5)[0].requires_grad_()
    expected = torch.stack(torch.autograd.grad(integrated(name, m, s), (m, s)))
    x = torch.linspace(-14, 14, 40001, dtype=torch.float64)
    p, q = mixture(), Normal(m.detach(), s.detach())
    density, r = q.log_prob(x).exp(), (p.log_prob(x) - q.log_prob(x)).exp()
    pull = -density * DIVERGENCES[name].h(r) * (scores(p, x) - scores(q, x))
    z = (x - q.mean) / q.stddev
    theorem = torch.stack([torch.trapezoid(pull, x), torch.trapezoid(pull * z, x)])
    assert torch.allclose(theorem, expected, atol=1e-7)
    if name in GRADIENTS:
        assert torch.allclose(theorem, numbers(*GRADIENTS[name]), atol=1.1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "neyman"])
def test_the_loss_has_the_gradient_of_the_divergence_at_a_noise_level(name: Divergence) -> None:
    """The student's step with exact denoisers: dL/d(m, s) is that of D_f(p_t || q_t), noise taken at quantiles."""
    alpha, sigma, n = 0.8, 0.6, 600
    m, s = numbers(0.4)[0].requires_grad_(), numbers(1.1)[0].requires_grad_()
    expected = torch.stack(torch.autograd.grad(integrated(name, m, s, alpha, sigma), (m, s)))
    quantiles = Normal(numbers(0.0)[0], numbers(1.0)[0]).icdf((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    z, eps = (grid.flatten() for grid in torch.meshgrid(quantiles, quantiles, indexing="ij"))
    x0 = (m + s * z)[:, None]
    x = alpha * x0[:, 0].detach() + sigma * eps
    p, q = mixture(alpha, sigma), Normal(alpha * m.detach(), (alpha**2 * s.detach() ** 2 + sigma**2) ** 0.5)
    mu_teacher, mu_fake = ((x + sigma**2 * scores(each, x)) / alpha for each in (p, q))  # Tweedie
    h = DIVERGENCES[name].h((p.log_prob(x) - q.log_prob(x)).exp())
    loss = matching_loss(x0, mu_fake[:, None], mu_teacher[:, None], h * alpha**2 / sigma**2)
    found = torch.stack(torch.autograd.grad(loss, (m, s)))
    assert torch.allclose(found, expected, rtol=5e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "neyman"])
def test_the_theorem_agrees_with_autograd_of_drawn_samples(name: Divergence) -> None:
    """In the plane, q a Gaussian of learnt mean and covariance: both estimates of one draw, within four errors."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(60_000, 2, generator=generator, dtype=torch.float64)
    centres = Normal(torch.tensor([[-1.0, 0.0], [1.2, 0.8], [0.3, -1.1]], dtype=torch.float64), 0.8)
    p = MixtureSameFamily(Categorical(numbers(0.5, 0.3, 0.2)), Independent(centres, 1))
    theta = numbers(0.2, 0.1, 0.9, 0.3, 1.0).requires_grad_()
    lower = torch.stack([theta[2], 0 * theta[2], theta[3], theta[4]]).reshape(2, 2)
    q = torch.distributions.MultivariateNormal(theta[:2], scale_tril=lower)
    x = theta[:2] + z @ lower.mT
    r = (p.log_prob(x) - q.log_prob(x)).exp()
    values = DIVERGENCES[name].f(r)
    weights = DIVERGENCES[name].h(r.detach())
    frozen = torch.distributions.MultivariateNormal(theta[:2].detach(), scale_tril=lower.detach())
    at = x.detach().requires_grad_()
    gap = torch.autograd.grad((p.log_prob(at) - frozen.log_prob(at)).sum(), at)[0]
    pulls = -(weights[:, None] * gap * x).sum(1)
    for index, (left, right) in enumerate(zip(_by_batch(values, theta), _by_batch(pulls, theta), strict=True)):
        error = ((left.var() + right.var()) / len(left)).sqrt()
        assert abs(left.mean() - right.mean()) < 4 * error + 1e-12, f"{name}, number {index}"


def _by_batch(values: Tensor, theta: Tensor) -> list[Tensor]:
    """The gradient of the mean of each of 40 parts of the samples, one tensor (40,) for every number of theta."""
    parts = [torch.autograd.grad(part.mean(), theta, retain_graph=True)[0] for part in values.chunk(40)]
    return list(torch.stack(parts, 1))
