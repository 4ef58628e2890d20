"""The diffusion Hessian: gains on Gaussians, Lanczos against dense functions, products against exact Jacobians."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from genbench.backbones.toy import ToyModel
from genbench.kinds import Denoise, Level, Prediction
from genbench_lml.bases import base_gain
from genbench_lml.curvature import data_gain, lanczos, newton_gain, ritz_value, secant_gain, spectrum_weight
from genbench_lml.products import hessian_product

J = torch.linspace(0, 1, 101, dtype=torch.float64)


@pytest.mark.parametrize("r", [0.0, 0.1, 0.5, 0.99])
def test_ddim_and_newton_gain_make_the_exact_step(r: float) -> None:
    exact = (J + (1 - J) * r**2).sqrt()
    assert torch.allclose(J + (1 - J) * r + newton_gain(J, r) * (1 - J), exact, atol=1e-14)


def test_damping_shrinks_the_gain_and_kills_it_at_flat_directions() -> None:
    free, damped, strong = (newton_gain(J, 0.5, mu) for mu in (0.0, 0.3, 1e9))
    assert (damped[1:] < free[1:]).all() and damped[-1] == 0 and strong.abs().max() < 1e-9
    assert torch.allclose(damped, free * (1 - J) / (1 - J + 0.3))


@pytest.mark.parametrize("c", [0.01, 1.0, 30.0])
def test_what_earlier_predictions_say_of_a_gaussian(c: float) -> None:
    """On the exact walk y = sqrt(c + tau^2), eps = tau / sqrt(c + tau^2), D = c / sqrt(c + tau^2)."""
    tau, before, earlier = 1.3, 2.9, 4.1
    eps = {t: torch.full((1, 4), t / math.sqrt(c + t**2), dtype=torch.float64) for t in (tau, before, earlier)}
    j, ratio = torch.tensor(c / (c + tau**2), dtype=torch.float64), before / tau
    assert torch.allclose(secant_gain(j, ratio) * eps[tau], eps[before])
    d, d_before = (c / math.sqrt(c + t**2) for t in (tau, before))
    assert d - d_before == pytest.approx(float(tau * data_gain(j, ratio) * eps[tau][0, 0]))
    found = ritz_value(eps[before] - eps[tau], eps[earlier] - eps[before], ratio, earlier / tau)
    assert float(found) == pytest.approx(float(j), abs=1e-4)


def test_turned_aside_changes_count_as_strong_curvature() -> None:
    change, aside = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert float(ritz_value(change, aside, 2.0, 4.0)) == pytest.approx(1.0)


def test_the_weight_of_a_scale_free_spectrum() -> None:
    """Least squares over eigenvalues; Taylor's second-order coefficient where steps are short."""
    r, ratio = 0.5, 2.0
    weight = spectrum_weight(partial(newton_gain, r=r), ratio)
    j = torch.linspace(1e-4, 1 - 1e-4, 5001, dtype=torch.float64)
    change = secant_gain(j, ratio) - 1

    def miss(w: float) -> float:
        return float(((w * change - newton_gain(j, r)).square() / j).sum())

    assert miss(weight) < miss(weight * 1.02) and miss(weight) < miss(weight * 0.98)
    short = spectrum_weight(partial(newton_gain, r=1 / 1.001), 1.001)
    assert short == pytest.approx((1 - 1 / 1.001) ** 2 / (2 * 0.001), rel=1e-2)
    assert math.isfinite(spectrum_weight(partial(newton_gain, r=0.5), math.inf))


def test_second_order_bases_leave_less_to_do() -> None:
    """Between equal steps in ln tau a 2M step's own addition lies among the exact one's over the eigenvalues."""
    for kind in ("dpm", "dpmpp"):
        own, exact = base_gain(J[1:], kind, 2, 0.5, 2.0), newton_gain(J[1:], 0.5)
        assert (own > 0).all() and own[-1] > exact[-1] and own[0] < exact[0]
        assert float(base_gain(J, kind, 1, 0.5, 2.0).abs().max()) == 0
        short = 1.001
        ratio = base_gain(J[1:], kind, 2, 1 / short, short) / newton_gain(J[1:], 1 / short)
        assert torch.allclose(ratio, torch.ones_like(ratio), atol=5e-3)


def symmetric(eigenvalues: list[float]) -> tuple[Tensor, Tensor]:
    n = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    return basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T, basis


@pytest.mark.parametrize(("eigenvalues", "rank"), [([0.1, 0.4, 0.9, 0.95], 4), ([0.2, 0.2, 0.8, 0.8, 0.8], 2)])
def test_lanczos_is_the_dense_function_at_full_rank(eigenvalues: list[float], rank: int) -> None:
    a, basis = symmetric(eigenvalues)
    start = torch.randn(3, len(eigenvalues), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gains = torch.diag(newton_gain(torch.tensor(eigenvalues, dtype=torch.float64), 0.3))
    made = lanczos(lambda v: v @ a, start, rank, partial(newton_gain, r=0.3))
    assert torch.allclose(made, start @ (basis @ gains @ basis.T), atol=1e-12)


def test_lanczos_improves_with_rank_and_survives_a_breakdown() -> None:
    eigenvalues = [0.01, 0.1, 0.3, 0.6, 0.9, 0.99]
    a, basis = symmetric(eigenvalues)
    start = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gains = torch.diag(newton_gain(torch.tensor(eigenvalues, dtype=torch.float64), 0.3))
    exact = start @ (basis @ gains @ basis.T)
    gain = partial(newton_gain, r=0.3)
    errors = [float((lanczos(lambda v: v @ a, start, k, gain) - exact).norm()) for k in (1, 2, 3)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    alone = lanczos(lambda v: 0.5 * v, start, 3, gain)  # the Krylov space has dimension 1
    assert torch.allclose(alone, gain(torch.tensor(0.5, dtype=torch.float64)) * start, atol=1e-12)


def mixture() -> tuple[Denoise, Tensor, Level]:
    """The toy mixture in float64 at a level where two components compete."""
    model = ToyModel(dtype=torch.float64)
    model.modules["network"].double()
    text = model.encode_prompt(["red", "green yellow"], guidance=False)
    level = Level(torch.tensor(500.0), *(torch.tensor(v, dtype=torch.float64) for v in (0.8, 0.6)))
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    return model.denoiser(text, 1.0), x, level


def dense(denoise: Denoise, x: Tensor, level: Level) -> Tensor:
    """A = alpha dD/dx of every row, (b, n, n), by automatic differentiation."""

    def total(z: Tensor) -> Tensor:
        return denoise(z, level).x0.sum(0).flatten()

    jacobian: Tensor = torch.autograd.functional.jacobian(total, x)  # type: ignore[assignment]
    return level.alpha * jacobian.flatten(2).transpose(0, 1)


def test_the_hessian_of_the_mixture_is_what_the_derivation_says() -> None:
    """A is symmetric with eigenvalues >= 0; (I - A) / sigma^2 is minus the Hessian of log p."""
    denoise, x, level = mixture()
    a = dense(denoise, x, level)
    assert torch.allclose(a, a.transpose(1, 2), atol=1e-12)
    assert float(torch.linalg.eigvalsh(a).min()) > 0

    def log_p(z: Tensor) -> Tensor:
        m = ToyModel().modules["network"].double().components(2, 2)  # type: ignore[operator]
        variance = level.alpha**2 * 0.15**2 + level.sigma**2
        return torch.logsumexp(-(z - level.alpha * m[[0]]).square().flatten(1).sum(1) / (2 * variance), 0)

    hessian: Tensor = torch.autograd.functional.hessian(log_p, x[0])  # type: ignore[assignment]
    assert torch.allclose((torch.eye(12) - a[0]) / level.sigma**2, -hessian.reshape(12, 12), atol=1e-6)


@pytest.mark.parametrize("how", ["difference", "forward"])
def test_products_are_the_exact_ones(how: str) -> None:
    denoise, x, level = mixture()
    v = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    v = v / v.flatten(1).norm(dim=1)[:, None, None, None]
    made = hessian_product(denoise, denoise(x, level), how, v)  # type: ignore[arg-type]
    expected = (dense(denoise, x, level) @ v.flatten(1)[:, :, None])[:, :, 0]
    assert torch.allclose(made.flatten(1), expected, atol=1e-5 if how == "difference" else 1e-12)


def test_lanczos_on_the_mixture_is_the_dense_computation() -> None:
    denoise, x, level = mixture()
    told: Prediction = denoise(x, level)
    values, vectors = torch.linalg.eigh(dense(denoise, x, level))
    gains = newton_gain(values.clamp(0, 1), 0.4)
    flat = told.eps.flatten(1)[:, :, None]
    exact = (vectors * gains[:, None]) @ (vectors.transpose(1, 2) @ flat)
    errors = []
    for rank in (1, 2, 4):
        made = lanczos(partial(hessian_product, denoise, told, "forward"), told.eps, rank, partial(newton_gain, r=0.4))
        errors.append(float((made.flatten(1) - exact[:, :, 0]).norm()))
    assert errors[-1] < 1e-6 and errors[-1] < errors[0]
