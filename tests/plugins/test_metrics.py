"""Set metrics against closed forms and direct formulas, in float64."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch

from genbench.errors import UsageError
from genbench.evaluation.statistics import leave_out
from genbench_metrics import Cmmd, Frechet, Kid, Vendi
from genbench_metrics.frechet import frechet_distance, psd_root
from genbench_metrics.mmd import polynomial


def gaussian(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_frechet_of_commuting_gaussians_is_the_closed_form() -> None:
    a, b = torch.tensor([4.0, 1.0, 0.25]).double(), torch.tensor([1.0, 9.0, 0.0]).double()
    mean = torch.tensor([1.0, -2.0, 0.5]).double()
    expected = float(mean.square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    rotation = torch.linalg.qr(gaussian(3, 3, 0)).Q
    turned = [rotation @ torch.diag(v) @ rotation.T for v in (a, b)]
    assert frechet_distance(torch.zeros(3).double(), turned[0], mean, turned[1]) == pytest.approx(expected, abs=1e-12)


def test_frechet_of_general_gaussians_in_two_dimensions() -> None:
    """Tr (C1 C2)^(1/2) = sqrt(Tr C1 C2 + 2 sqrt(det C1 C2)) for 2 x 2 matrices (Cayley-Hamilton)."""
    c1, c2 = (m @ m.T for m in (gaussian(2, 2, 1), gaussian(2, 2, 2)))
    product = c1 @ c2
    shared = (product.trace() + 2 * product.det().sqrt()).sqrt()
    zero = torch.zeros(2).double()
    expected = float(c1.trace() + c2.trace() - 2 * shared)
    assert frechet_distance(zero, c1, zero, c2) == pytest.approx(expected, abs=1e-12)


def test_frechet_agrees_with_scipy_sqrtm() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    x, y = gaussian(80, 6, 3), gaussian(90, 6, 4) @ gaussian(6, 6, 5)
    c1, c2 = x.T.cov().numpy(), y.T.cov().numpy()
    expected = (
        float((x.mean(0) - y.mean(0)).square().sum()) + (c1 + c2).trace() - 2 * linalg.sqrtm(c1 @ c2).real.trace()
    )
    assert Frechet().value(x, y) == pytest.approx(float(expected), rel=1e-10)


def test_frechet_of_singular_covariances_is_zero_to_itself_and_warns_of_small_n() -> None:
    x = gaussian(5, 20, 6)  # rank 4 in 20 dimensions
    assert psd_root(x.T.cov()).isfinite().all()
    with pytest.warns(UserWarning, match="2 x 20"):
        assert Frechet().value(x, x) == pytest.approx(0.0, abs=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Frechet().value(gaussian(40, 20, 7), gaussian(40, 20, 8))


def test_kid_is_the_plain_double_loop() -> None:
    x, y = gaussian(7, 3, 1), gaussian(5, 3, 2, shift=1.0)
    k = lambda a, b: (float(a @ b) / 3 + 1) ** 3  # noqa: E731
    pairs = lambda z: [k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]  # noqa: E731
    within = lambda z: sum(pairs(z)) / len(pairs(z))  # noqa: E731
    expected = within(x) + within(y) - 2 * sum(k(a, b) for a in x for b in y) / 35
    assert Kid().value(x, y) == pytest.approx(expected, rel=1e-12)


def test_kid_is_unbiased_at_tiny_n_and_frechet_is_not() -> None:
    kid = [Kid().value(gaussian(8, 4, 2 * s), gaussian(8, 4, 2 * s + 1)) for s in range(400)]
    mean, error = torch.tensor(kid).mean(), torch.tensor(kid).std() / 20
    assert abs(mean) < 3 * error
    assert sum(value < 0 for value in kid) > 100


def test_kid_expectation_of_a_mean_shift() -> None:
    """d = 1, k = (xy + 1)^3, x ~ N(0, 1), y ~ N(m, 1): MMD^2 = 3 m^2 + 3 (m^2)^2 + ((m^3 + 3 m))^2 by moments."""
    m = 0.5
    expected = 3 * m**2 + 3 * (m**2) ** 2 + (m**3 + 3 * m) ** 2
    values = torch.tensor([Kid().value(gaussian(300, 1, 2 * s), gaussian(300, 1, 2 * s + 1, m)) for s in range(200)])
    assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(200)


def test_kid_with_groups_left_out_equals_leaving_them_out() -> None:
    x, y = gaussian(30, 5, 1), gaussian(20, 5, 2)
    groups = torch.arange(30) // 4
    direct = leave_out(lambda kept: Kid().value(x[torch.as_tensor(kept)], y), groups.numpy())
    assert Kid().without(x, y, groups.tolist()) == pytest.approx(direct.tolist(), abs=1e-12)


def test_kernel_matrices_are_summed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = gaussian(23, 4, 1), gaussian(17, 4, 2)
    whole = Kid().value(x, y)
    monkeypatch.setattr("genbench_metrics.mmd.BLOCK", 5)
    assert Kid().value(x, y) == pytest.approx(whole, rel=1e-12)
    assert polynomial(x, y).shape == (23, 17)


def test_cmmd_is_the_published_estimate() -> None:
    x, y = gaussian(9, 4, 1), gaussian(11, 4, 2, shift=0.5)
    u, v = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
    k = lambda a, b: torch.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 200).mean()  # noqa: E731
    assert Cmmd().value(x, y) == pytest.approx(float(1000 * (k(u, u) + k(v, v) - 2 * k(u, v))), rel=1e-9)
    assert Cmmd().value(x, x) == pytest.approx(0.0, abs=1e-9)


def test_vendi_counts_different_pictures() -> None:
    basis = torch.eye(6).double()
    assert Vendi().value(basis[:4]) == pytest.approx(4.0)
    assert Vendi().value(basis[[0, 0, 1, 1, 1, 0]]) == pytest.approx(2.0)
    assert Vendi().value(basis[[0] * 10]) == pytest.approx(1.0)
    assert Vendi().value(basis[[0, 0, 1, 2]], groups=["a", "a", "b", "b"]) == pytest.approx(1.5)
    weights = torch.tensor([0.75, 0.25])
    assert Vendi().value(basis[[0, 0, 0, 1]]) == pytest.approx(float(torch.exp(-(weights * weights.log()).sum())))


@pytest.mark.parametrize("metric", [Frechet(), Kid(), Cmmd(), Vendi()], ids=lambda m: type(m).__name__)
def test_order_of_pictures_does_not_matter(metric: Frechet | Kid | Cmmd | Vendi) -> None:
    x, y = gaussian(40, 5, 1), gaussian(50, 5, 2)
    turned = metric.value(x[torch.randperm(40)], y[torch.randperm(50)])
    assert turned == pytest.approx(metric.value(x, y), rel=1e-9)


@pytest.mark.parametrize("metric", [Frechet(), Kid(), Cmmd()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda x: (x, None), "reference="),
        (lambda x: (x[:1], x), "at least 2"),
        (lambda x: (x, x[:, :3]), "3"),
        (lambda x: (x.index_fill(0, torch.tensor([2]), math.nan), x), "finite"),
    ],
)
def test_bad_features_are_explained(
    metric: Frechet | Kid | Cmmd, spoil: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        metric.value(*spoil(gaussian(12, 5, 1)))
