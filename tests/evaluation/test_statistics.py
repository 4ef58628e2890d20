"""The intervals of genbench.evaluation against closed forms, in float64."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from scipy import stats as scipy_stats

from genbench.errors import UsageError
from genbench.evaluation import statistics as st, student


def test_wilson_against_published_values() -> None:
    low, high = st.wilson(0.81, 100)  # solved by hand from |p - 0.81| = z sqrt(p (1 - p) / n)
    for p in (low, high):
        assert abs(p - 0.81) == pytest.approx(st.Z95 * sqrt(p * (1 - p) / 100), abs=1e-12)
    assert st.wilson(1.0, 10) == pytest.approx((10 / (10 + st.Z95**2), 1.0), abs=1e-12)
    assert st.wilson(0.0, 10)[0] == 0.0


def test_cluster_standard_error_equals_the_plain_one_for_clusters_of_one() -> None:
    values = np.random.default_rng(1).normal(size=50)
    assert st.standard_error(values, range(50)) == pytest.approx(values.std(ddof=1) / sqrt(50), abs=1e-14)


def test_repeating_every_value_adds_no_information() -> None:
    values = np.random.default_rng(2).normal(size=40)
    once = st.clustered_mean(values, list(range(40)))
    twice = st.clustered_mean(np.repeat(values, 2), np.repeat(np.arange(40), 2).tolist())
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), abs=1e-12)
    assert (once.n, twice.n, twice.clusters) == (40, 80, 40)


def test_interval_of_a_mean_is_students() -> None:
    values = np.random.default_rng(7).normal(size=6)
    estimate = st.clustered_mean(values, range(6))
    expected = scipy_stats.t.interval(0.95, 5, values.mean(), values.std(ddof=1) / sqrt(6))
    assert (estimate.low, estimate.high) == pytest.approx(expected, abs=1e-12)


def test_interval_of_many_clusters_is_mean_plus_minus_z_standard_errors() -> None:
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(300), 3)
    values = rng.normal(size=300)[clusters] + 0.3 * rng.normal(size=900)
    estimate = st.clustered_mean(values, clusters.tolist())
    half = st.Z95 * st.standard_error(values, clusters.tolist())
    assert estimate.low == pytest.approx(estimate.mean - half, abs=0.005 * half)
    assert estimate.high == pytest.approx(estimate.mean + half, abs=0.005 * half)


def test_one_cluster_has_no_interval() -> None:
    estimate = st.clustered_mean([1.0, 2.0], ["a", "a"])
    assert estimate.mean == 1.5 and np.isnan([estimate.low, estimate.high]).all()


def test_rate_uses_between_clusters_and_n_trials() -> None:
    clusters = np.repeat(np.arange(100), 2).tolist()
    dependent = np.repeat(np.arange(100) < 80, 2).astype(float)  # both seeds always agree: 100 trials
    expected = st.wilson(0.8, 100)
    estimate = st.clustered_rate(dependent, clusters)
    assert (estimate.low, estimate.high) == pytest.approx(expected, abs=2e-3)
    perfect = st.clustered_rate(np.ones(200), clusters)
    assert (perfect.low, perfect.high) == pytest.approx(st.wilson(1.0, 100), abs=1e-12)


def test_paired_difference_is_tighter_than_unpaired_and_needs_partners() -> None:
    rng = np.random.default_rng(5)
    prompt = rng.normal(size=100) * 5
    first, second = prompt + 0.1 * rng.normal(size=100), prompt + 1 + 0.1 * rng.normal(size=100)
    estimate = st.paired_difference(first, second, range(100))
    assert estimate.mean == pytest.approx((second - first).mean(), abs=1e-12)
    assert 0.9 < estimate.low < 1.0 + 0.05 < estimate.high + 0.1 < 1.2
    with pytest.raises(UsageError, match="partner"):
        st.paired_difference(first, second[:-1], range(100))


def test_jackknife_of_the_mean_is_the_plain_standard_error() -> None:
    values = np.random.default_rng(6).normal(size=25)
    groups = st.jackknife_groups(list(range(25)))
    without = st.leave_out(lambda kept: float(values[kept].mean()), groups)
    estimate = st.jackknife(float(values.mean()), without, 25, 25)
    expected = scipy_stats.t.interval(0.95, 24, values.mean(), values.std(ddof=1) / 5)
    assert (estimate.low, estimate.high) == pytest.approx(expected, abs=1e-12)


def test_jackknife_groups_keep_clusters_whole() -> None:
    clusters = [i // 3 for i in range(300)]
    groups = st.jackknife_groups(clusters, 10)
    assert len(set(groups)) == 10
    assert all(len({int(g) for g, c in zip(groups, clusters, strict=True) if c == k}) == 1 for k in range(100))


@pytest.mark.parametrize("df", [1, 2, 3, 4, 9, 24, 99, 1999, 2000, 10000])
def test_quantiles_of_t(df: int) -> None:
    assert student.t95(df) == pytest.approx(scipy_stats.t.ppf(0.975, df), rel=1e-12)


def test_where_nothing_varies_there_is_no_interval() -> None:
    found = [st.clustered_mean([0.3] * 6, range(6)), st.jackknife(1.0, [1.0] * 6, 6, 6)]
    found.append(st.paired_difference([0.1] * 6, [0.3] * 6, range(6)))
    assert np.isnan([(each.low, each.high) for each in found]).all()


def test_difference_of_rates_against_the_published_formula() -> None:
    """Ten pairs, four gained and one lost, with a pair added to each: (5 - 2) / 12."""
    estimate = st.paired_rate_difference([0] * 4 + [1] + [1] * 5, [1] * 4 + [0] + [1] * 5, range(10))
    half = st.Z95 * sqrt((7 / 12 - (3 / 12) ** 2) / 12)
    assert estimate.mean == pytest.approx(0.3)
    assert (estimate.low, estimate.high) == pytest.approx((3 / 12 - half, 3 / 12 + half), abs=1e-12)


def test_rates_that_do_not_differ_still_have_an_interval() -> None:
    alike = st.paired_rate_difference([1] * 5, [1] * 5, range(5))
    won = st.paired_rate_difference([0] * 300, [1] * 300, [i // 60 for i in range(300)])
    assert alike.low < -0.3 and alike.high > 0.3  # five prompts do not exclude a change in one of five
    assert won.high == 1.0 and won.low == pytest.approx(st.bonett_price(1, 0, 5)[0])  # sixty seeds are no prompts


def test_an_interval_ends_where_the_values_do() -> None:
    estimate = st.Estimate(0.9, 0.7, 1.1, 6, 3).clipped(0.0, 1.0)
    assert (estimate.low, estimate.high) == (0.7, 1.0)
    assert np.isnan(st.Estimate(0.9, np.nan, np.nan, 6, 1).clipped(0.0, 1.0).low)


def test_is_rate() -> None:
    assert st.is_rate([0, 1, 1.0]) and not st.is_rate([0.5, 1])
