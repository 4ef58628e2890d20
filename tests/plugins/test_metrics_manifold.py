"""Precision, recall and diversity against direct formulas and closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from genbench.errors import UsageError
from genbench.testing import contract_tests
from genbench_metrics import Diversity, Precision, Recall


def gaussian(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


test_precision_contract = contract_tests(Precision, "metric", neighbours=2)
test_diversity_contract = contract_tests(Diversity, "metric")


def plain_share(points: list[list[float]], centres: list[list[float]], k: int) -> float:
    """The paper's equations 1 and 2, one point at a time."""
    inside = 0
    for point in points:
        for i, centre in enumerate(centres):
            others = sorted(math.dist(centre, other) for j, other in enumerate(centres) if j != i)
            if math.dist(point, centre) <= others[k - 1]:
                inside += 1
                break
    return inside / len(points)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_are_the_plain_loops(k: int) -> None:
    x, y = gaussian(40, 3, 1), gaussian(30, 3, 2, shift=0.8)
    assert Precision(k).value(x, y) == plain_share(x.tolist(), y.tolist(), k)
    assert Recall(k).value(x, y) == plain_share(y.tolist(), x.tolist(), k)
    assert 0 < Precision(k).value(x, y) < 1


def test_recall_is_precision_the_other_way_round_and_the_set_covers_itself() -> None:
    x, y = gaussian(50, 4, 3), gaussian(60, 4, 4, shift=0.5)
    assert Recall().value(x, y) == Precision().value(y, x)
    assert Precision().value(x, x) == Recall().value(x, x) == 1.0
    assert Precision().value(x, x + 1000) == 0.0


def test_mode_dropping_costs_recall_and_not_precision() -> None:
    near, far = gaussian(100, 2, 5), gaussian(100, 2, 6, shift=50.0)
    both = torch.cat([near, far])
    assert Precision().value(gaussian(100, 2, 7), both) > 0.8
    assert 0.4 < Recall().value(gaussian(100, 2, 7), both) <= 0.5


def test_distance_matrices_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = gaussian(23, 4, 1), gaussian(31, 4, 2)
    whole = Precision().value(x, y), Recall().value(x, y)
    monkeypatch.setattr("genbench_metrics.manifold.BLOCK", 5)
    assert (Precision().value(x, y), Recall().value(x, y)) == whole


@pytest.mark.parametrize("metric", [Precision(), Recall()], ids=["precision", "recall"])
def test_too_few_pictures_or_none_to_compare_with(metric: Precision | Recall) -> None:
    with pytest.raises(UsageError, match="at least 4"):
        metric.value(gaussian(3, 2, 1), gaussian(9, 2, 2))
    with pytest.raises(UsageError, match="reference="):
        metric.value(gaussian(9, 2, 1))


def test_diversity_is_the_mean_over_pairs_then_over_prompts() -> None:
    x = gaussian(9, 5, 1)
    groups = ["a"] * 4 + ["b"] * 3 + ["c"] * 2

    def pairs(rows: torch.Tensor) -> float:
        found = [1 - torch.cosine_similarity(a, b, dim=0) for a, b in itertools.combinations(rows, 2)]
        return float(sum(found) / len(found))

    expected = (pairs(x[:4]) + pairs(x[4:7]) + pairs(x[7:])) / 3
    assert Diversity().value(x, groups=groups) == pytest.approx(expected, rel=1e-12)
    assert Diversity().value(x) == pytest.approx(pairs(x), rel=1e-12)


def test_diversity_of_equal_orthogonal_and_opposite_pictures() -> None:
    basis = torch.eye(4).double()
    assert Diversity().value(basis[[0, 0, 0]]) == pytest.approx(0.0)
    assert Diversity().value(basis) == pytest.approx(1.0)
    assert Diversity().value(torch.stack([basis[0], -2 * basis[0]])) == pytest.approx(2.0)


def test_prompts_with_one_picture_do_not_count() -> None:
    x = gaussian(5, 3, 2)
    assert Diversity().value(x, groups=["a", "a", "b", "c", "d"]) == pytest.approx(Diversity().value(x[:2]))
    with pytest.raises(UsageError, match="seeds="):
        Diversity().value(x, groups=["a", "b", "c", "d", "e"])
