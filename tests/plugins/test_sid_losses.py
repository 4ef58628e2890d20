"""SiD's loss on Gaussians, where the best fake score is known: the published numbers, and what a wrong graph gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genbench.kinds import Level
from genbench_sid.losses import fake_loss, logits, looks_real, student_loss, student_weight

THETA, S, SIGMA = 0.7, 1.3, 0.9  # student N(theta, s^2), teacher N(0, 1), noise added
A = 1 / (1 + SIGMA**2)
B = S**2 / (S**2 + SIGMA**2)


def gradients(alpha: float, s: float = S, real_stopped: bool = False, fake_stopped: bool = False) -> Tensor:
    """(value, d/d theta, d/d s) of the mean loss, the fake score frozen at its optimum.

    The expectation is exact: loss and gradients are quadratic in (z, noise), and the nodes of a product
    Gauss-Hermite rule of three points are.
    """
    nodes, weights = torch.tensor([-math.sqrt(3), 0.0, math.sqrt(3)]).double(), torch.tensor([1.0, 4.0, 1.0]) / 6
    z, noise = (grid.reshape(-1, 1) for grid in torch.meshgrid(nodes, nodes, indexing="ij"))
    mass = torch.outer(weights, weights).double().flatten()
    theta, scale = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (THETA, s))
    x = theta + scale * z
    x_t = x + SIGMA * noise
    b = s**2 / (s**2 + SIGMA**2)
    real, fake = A * x_t, b * x_t + (1 - b) * THETA
    real, fake = (v.detach() if stop else v for v, stop in ((real, real_stopped), (fake, fake_stopped)))
    loss = (mass * student_loss(x, real, fake, fake, alpha, torch.ones(1))).sum()
    loss.backward()
    assert theta.grad is not None and scale.grad is not None
    return torch.stack([loss.detach(), theta.grad, scale.grad])


@pytest.mark.parametrize(
    ("alpha", "value", "mean", "spread"),
    [(0.0, 0.13627, 0.17888, 0.14371), (0.5, 0.06814, 0.14019, 0.12388), (1.0, 0.0, 0.10150, 0.10405),
     (1.2, -0.02725, 0.08602, 0.09612)],
)  # fmt: skip
def test_the_sheets_numbers(alpha: float, value: float, mean: float, spread: float) -> None:
    assert gradients(alpha).tolist() == pytest.approx([value, mean, spread], abs=6e-6)


def test_the_gradient_in_closed_form() -> None:
    for alpha in (0.0, 0.3, 1.0, 1.5):
        mean = (1 - A) * (1 - B) * THETA + 2 * (alpha - 1) * (1 - A) * (A - B) * THETA
        spread = 2 * (B - A) * S * ((1 - A) - alpha * (B - A))
        assert gradients(alpha)[1:].tolist() == pytest.approx([mean, spread])


def test_at_the_right_spread_every_alpha_gives_the_fisher_gradient() -> None:
    for alpha in (0.0, 0.5, 1.0, 1.2):
        found = float(gradients(alpha, s=1.0)[1])
        assert found == pytest.approx((1 - A) ** 2 * THETA)
        assert found != pytest.approx((1 - A) * THETA)  # what distribution matching by KL would give


def test_no_gradient_where_student_and_teacher_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.plugins.test_sid_losses.THETA", 0.0)
    assert gradients(1.0, s=1.0).tolist() == pytest.approx([0, 0, 0], abs=1e-12)


def test_a_stopped_gradient_through_either_network_is_another_method() -> None:
    full = float(gradients(1.0)[2])
    stopped = ((True, False), (False, True), (True, True))
    real, fake, both = (float(gradients(1.0, real_stopped=a, fake_stopped=b)[2]) for a, b in stopped)
    assert full == pytest.approx(0.10405, abs=6e-6)
    assert real == pytest.approx((1 - B) * S * (2 * B - A)) and real == pytest.approx(0.3368, abs=6e-5)
    assert fake == pytest.approx(S * (B - 2 * A + A * B))  # -0.0721
    assert both == pytest.approx(S * (B - A))  # 0.1606
    assert float(gradients(1.0, real_stopped=True)[1]) == pytest.approx(0.1015, abs=6e-6)  # the mean alone hides it


def test_alpha_one_is_delta_times_what_the_fake_score_misses() -> None:
    x, real, fake, again = torch.randn(4, 3, 2, 5, 5, dtype=torch.float64)
    weight = torch.rand(3, 1, 1, 1, dtype=torch.float64)
    plain = [(weight[i] * (real[i] - fake[i]) * (again[i] - x[i])).sum() for i in range(3)]
    assert torch.allclose(student_loss(x, real, fake, again, 1.0, weight), torch.stack(plain))


def level(*sigmas: float) -> Level:
    sigma = torch.tensor(sigmas, dtype=torch.float64).reshape(-1, 1, 1, 1)
    return Level(torch.zeros(len(sigmas)), (1 - sigma**2) ** 0.5, sigma)


def test_weights() -> None:
    x = torch.zeros(2, 1, 2, 2)
    real = torch.stack([torch.full((1, 2, 2), -0.5), torch.zeros(1, 2, 2)])
    assert student_weight(x, real, level(0.6, 0.6), "mean_abs").flatten().tolist() == pytest.approx([2.0, 1e5])
    two = level(0.6, 0.8)
    assert student_weight(x, real, two, "snr").flatten().tolist() == pytest.approx([(0.8 / 0.6) ** 2, (0.6 / 0.8) ** 2])
    assert student_weight(x, real, two, "snr_sqrt").flatten().tolist() == pytest.approx([0.8 / 0.6, 0.6 / 0.8])
    assert student_weight(x, real, two, "none").flatten().tolist() == [1, 1]
    flow = Level(torch.zeros(1), torch.full((1, 1, 1, 1), 0.7), torch.full((1, 1, 1, 1), 0.3))
    assert student_weight(x[:1], real[:1], flow, "1_minus_sigma").item() == pytest.approx(0.7)


def test_the_weight_passes_no_gradient() -> None:
    x = torch.randn(2, 1, 2, 2, requires_grad=True)
    assert not student_weight(x, x * 2, level(0.6, 0.8), "mean_abs").requires_grad


def test_the_fake_scores_loss_in_each_convention() -> None:
    raw, target, here = torch.randn(2, 1, 2, 2).double(), torch.randn(2, 1, 2, 2).double(), level(0.6, 0.8)
    plain = (raw - target).square().flatten(1).sum(1)
    snr = torch.tensor([0.64 / 0.36, 0.36 / 0.64]).double()
    s = torch.tensor([0.75, 0.8 / 0.6]).double()
    assert torch.equal(fake_loss(raw, target, here, "epsilon"), plain)
    assert torch.equal(fake_loss(raw, target, here, "flow_prediction"), plain)
    assert torch.allclose(fake_loss(raw, target, here, "v_prediction"), plain * snr / (snr + 1))
    assert torch.allclose(fake_loss(raw, target, here, "sample"), plain * (s**2 + 0.25) / (0.5 * s) ** 2)


def test_the_fake_score_is_its_own_discriminator() -> None:
    assert logits(torch.randn(3, 8, 2, 2)).shape == (3, 4) and logits(torch.randn(3, 5, 8)).shape == (3, 5)
    assert torch.allclose(logits(torch.full((1, 4, 1, 2), 2.0)), torch.tensor([[2.0, 2.0]]))
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    said = torch.tensor([[0.3, -1.2], [40.0, -40.0]])
    for real in (True, False):
        plain = entropy(said.clamp(-10, 10), torch.full_like(said, float(real)), reduction="none").mean(1)
        assert torch.allclose(looks_real(said, real), plain)
