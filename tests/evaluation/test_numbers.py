"""How numbers are written: decimals by the interval, no exponents, rates and points."""

from __future__ import annotations

from math import nan

import pytest

from genbench.evaluation.lines import Line
from genbench.evaluation.numbers import RATE, Style, fitted, p_value, significant, styles
from genbench.evaluation.statistics import Estimate


def around(mean: float, half: float) -> Estimate:
    return Estimate(mean, mean - half, mean + half, 10, 10)


@pytest.mark.parametrize(
    ("mean", "half", "told"),
    [
        (0.350412, 0.0123, ("0.3504", "[0.3381, 0.3627]")),
        (21.3456, 1.5, ("21.35", "[19.85, 22.85]")),
        (123456.78, 1234.0, ("123457", "[122223, 124691]")),
        (0.5, 1e-12, ("0.500000", "[0.500000, 0.500000]")),
        (-1.132e-06, 4.1e-06, ("-1.13", "[-5.23, 2.97]")),
        (0.00321, 0.0004, ("3.210", "[2.810, 3.610]")),
        (0.2, nan, ("0.2000", "")),
        (0.0, nan, ("0.0", "")),
        (nan, nan, ("nan", "")),
    ],
)
def test_an_interval_says_how_many_decimals(mean: float, half: float, told: tuple[str, str]) -> None:
    assert fitted([around(mean, half)]).value(around(mean, half)) == told


def test_what_is_small_throughout_is_multiplied_and_says_so() -> None:
    small, mixed = fitted([around(-1.1e-6, 4e-6)]), fitted([around(1e-6, 1e-7), around(0.4, 0.1)])
    assert small.label("kid@clip") == "kid@clip ×10⁶" and small.factor == 1e6
    assert mixed.label("x") == "x" and mixed.value(around(1e-6, 1e-7)) == ("0.0000", "[0.0000, 0.0000]")
    assert fitted([around(0.005, 0.001)]).label("x") == "x ×10³"


def test_differences_have_a_sign_and_decimals_of_their_own() -> None:
    style = fitted([around(0.85, 0.02)], [around(-0.00352, 0.00021)])
    assert style.value(around(0.85, 0.02)) == ("0.8500", "[0.8300, 0.8700]")
    assert style.difference(around(-0.00352, 0.00021)) == ("-0.00352", "[-0.00373, -0.00331]")
    assert style.difference(around(0.0, 0.0)) == ("0.00000", "[0.00000, 0.00000]"), "no signed zero"


def test_rates_are_per_cent_and_their_differences_points() -> None:
    assert RATE.value(around(0.8333, 0.1)) == ("83.3 %", "[73.3, 93.3]")
    assert RATE.difference(around(1 / 6, 0.1)) == ("+16.7 points", "[+6.7, +26.7]")
    assert RATE.difference(around(-0.0001, nan)) == ("0.0 points", "")


def test_all_values_of_a_metric_have_the_same_decimals_set_by_all_prompts() -> None:
    lines = [
        Line("clip", "all", "a", around(0.3, 0.01)),
        Line("clip", "all", "b", around(0.4, 0.01), False, around(0.1, 1e-4)),
        Line("clip", "two", "a", around(0.3, 0.3)),
        Line("exact", "all", "a", around(0.5, 0.1), rate=True),
        Line("kid", "two", "a", around(1e-6, 1e-6)),
    ]
    assert styles(lines) == {"clip": Style(4, 5), "exact": RATE, "kid": Style(2, 2, 6)}


def test_numbers_alone_never_have_an_exponent() -> None:
    assert [significant(x) for x in (0.0914, 12.3456, 1234.5, 0.000012345, 0.0)] == [
        "0.0914", "12.3", "1234", "0.000012", "0.0",
    ]  # fmt: skip
    assert significant(nan) == "nan"
    assert [p_value(p) for p in (1.0, 0.55, 0.0029, 0.00001)] == ["1", "0.55", "0.0029", "<0.0001"]
