"""Sweeps and subsets: which values are read, which runs they make, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from genbench.errors import UsageError
from genbench.evaluation import sweeps
from genbench.evaluation.words import Asked, sort_words


def runs(**words: str) -> list[dict[str, object]]:
    return asked(**words).runs()


def asked(**words: str) -> Asked:
    return sort_words({name.replace("__", "."): value for name, value in words.items()})


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("1,3,5", ("1", "3", "5")),
        ("10..50+10", ("10", "20", "30", "40", "50")),
        ("1..3", ("1", "2", "3")),
        ("1..2+0.25", ("1.00", "1.25", "1.50", "1.75", "2.00")),
        ("0.1..0.35+0.1", ("0.1", "0.2", "0.3")),
        ("5,1..2,5", ("5", "1", "2")),
        ("euler, ../other", ("euler", "../other")),
        ("-2..0+2", ("-2", "0")),
    ],
)
def test_values(text: str, read: tuple[str, ...]) -> None:
    assert sweeps.values("x", text) == read


@given(st.integers(-1000, 1000), st.integers(1, 50), st.integers(1, 100))
def test_a_range_holds_both_ends_and_nothing_beyond(low: int, step: int, count: int) -> None:
    high = low + step * count
    assert sweeps.values("x", f"{low}..{high}+{step}") == tuple(map(str, range(low, high + 1, step)))


@pytest.mark.parametrize("text", ["", ",", "5..1", "1..5+0", "1..5+-1", "1..100000", "0..1+0.0001"])
def test_values_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="sweep.x="):
        sweeps.values("x", text)


def test_subsets_in_the_order_typed_the_empty_one_first() -> None:
    assert sweeps.subsets(["b", "a"]) == ((), ("b",), ("a",), ("b", "a"))
    assert len(sweeps.subsets("abcdefgh")) == 256
    with pytest.raises(UsageError, match="512 chains"):
        sweeps.subsets("abcdefghi")


def test_a_request_field_sweeps_every_chain_and_an_option_its_own() -> None:
    made = runs(chains="none; search", sweep__steps="10,20", sweep__search__candidates="2,4")
    assert [(run["plugin"], run["steps"], run["options"]) for run in made] == [
        ("", "10", {}),
        ("", "20", {}),
        ("search", "10", {"search": {"candidates": "2"}}),
        ("search", "10", {"search": {"candidates": "4"}}),
        ("search", "20", {"search": {"candidates": "2"}}),
        ("search", "20", {"search": {"candidates": "4"}}),
    ]


def test_an_option_of_a_class_in_a_file_is_swept_by_its_short_name() -> None:
    (run,) = runs(chains="./halo.py:HaloRing", sweep__halo_ring__strength="2", halo_ring__stop="1")
    assert run["options"] == {"./halo.py:HaloRing": {"stop": "1", "strength": "2"}}


def test_ablate_compares_every_subset_once_after_the_chains_that_are_named() -> None:
    assert asked(ablate="a,b").own.compared == ("none", "a", "b", "a,b")
    assert asked(chains="b; c", ablate="a,b").own.compared == ("b", "c", "none", "a", "a,b")
    assert asked().own.compared == ("none",)
    assert [run["plugin"] for run in runs(ablate="search")] == ["", "search"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"sweep__stpes": "1,2"}, "did you mean 'steps'"),
        ({"sweep__seeds": "1,2"}, "'seeds' cannot be swept"),
        ({"sweep__prompt": "a,b"}, "cannot be swept"),
        ({"sweep__batch_size": "1,2"}, "cannot be swept"),
        ({"sweep__search__candidates": "1,2"}, "'search' is in no chain"),
        ({"sweep__steps": "1,2", "steps": "3"}, "both given"),
        ({"chains": "search", "sweep__search__candidates": "2", "search__candidates": "3"}, "both given"),
    ],
)
def test_sweeps_that_are_refused(words: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        asked(**words)
