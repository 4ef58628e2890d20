"""Win rate, sign test and Holm's correction against published values and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from genbench.evaluation.signs import holm, sign_test, signs
from genbench.evaluation.statistics import clustered_rate


def test_sign_test_by_hand() -> None:
    assert sign_test(5, 0) == 2 / 32
    assert sign_test(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 1024, abs=0)
    assert sign_test(3, 3) == 1.0 and sign_test(0, 0) == 1.0


@pytest.mark.parametrize(("wins", "losses"), [(1, 0), (7, 13), (60, 40), (4000, 4200), (0, 1500)])
def test_sign_test_against_scipy(wins: int, losses: int) -> None:
    expected = scipy_stats.binomtest(wins, wins + losses).pvalue
    assert sign_test(wins, losses) == pytest.approx(expected, rel=1e-9)
    assert sign_test(losses, wins) == sign_test(wins, losses)


def test_sign_test_keeps_its_level() -> None:
    wins = np.random.default_rng(1).binomial(30, 0.5, 4000)
    assert np.mean([sign_test(w, 30 - w) <= 0.05 for w in wins.tolist()]) <= 0.05


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-15)
    assert holm([0.9, 0.6]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []


def test_holm_against_its_definition() -> None:
    """A hypothesis is rejected at level a exactly where every smaller p passes a / (m - rank)."""
    p = np.random.default_rng(2).uniform(0, 0.05, 9)
    for level in (0.01, 0.05, 0.2):
        order, rejected = np.argsort(p), set[int]()
        for rank, index in enumerate(order):
            if p[index] > level / (len(p) - rank):
                break
            rejected.add(int(index))
        assert {i for i, each in enumerate(holm(p.tolist())) if each <= level} == rejected


def test_signs_count_pairs_and_test_prompts() -> None:
    """Three seeds of each of four prompts: twelve pairs, four trials."""
    difference = [1, 1, -1, 2, 2, 2, 0, 0, 0, 1, -4, 1]
    found = signs([5.0] * 12, [5.0 + d for d in difference], [i // 3 for i in range(12)])
    assert (found.wins, found.ties, found.losses) == (7, 3, 2)
    assert found.p == found.holm == sign_test(2, 1)  # prompts 0 and 1 gain, 2 is a tie, 3 loses
    assert found.rate.mean == pytest.approx((7 + 3 / 2) / 12)


def test_ties_count_half_and_certainty_is_not_claimed() -> None:
    tied = signs([1.0] * 10, [1.0] * 10, range(10))
    assert tied.rate.mean == 0.5 and tied.p == 1.0
    won = signs([1.0] * 10, [2.0] * 10, range(10))
    assert (won.rate.low, won.rate.high) == pytest.approx((clustered_rate([1] * 10, range(10)).low, 1.0))


def test_win_rates_of_dependent_seeds_hold_the_truth() -> None:
    """Forty prompts of three seeds; the prompt decides as much as the seed. Half of all pairs are wins."""
    rng, clusters = np.random.default_rng(3), np.repeat(np.arange(40), 3)
    drawn = [rng.normal(size=40)[clusters] + rng.normal(size=120) for _ in range(400)]
    rates = [signs(np.zeros(120), each, clusters.tolist()).rate for each in drawn]
    assert 0.93 <= np.mean([rate.low <= 0.5 <= rate.high for rate in rates]) <= 0.99


def test_more_seeds_of_the_same_prompts_do_not_make_a_result_significant() -> None:
    once = signs([0.0] * 3, [1.0] * 3, range(3))
    often = signs([0.0] * 300, [1.0] * 300, [i // 100 for i in range(300)])
    assert once.p == often.p == 0.25
