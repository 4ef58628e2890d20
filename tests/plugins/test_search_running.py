"""Scores, ranks and the running best: what decides between candidates."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from genbench.errors import UsageError
from genbench.judging import Panel
from genbench.kinds import State
from genbench_search.ranks import Ranking, best_of, merits, order
from genbench_search.running import Pool
from tests.plugins.test_search import space

NAN = math.nan
Table = list[tuple[float, ...]]
tables: Any = st.integers(1, 3).flatmap(
    lambda v: st.lists(st.tuples(*[st.integers(-3, 3).map(float)] * v), min_size=1, max_size=9)
)


def pool(*scores: tuple[float, ...]) -> Pool:
    """Candidates offered one by one; the state of candidate i is the number i."""
    found = Pool()
    for i, each in enumerate(scores):
        found = found.add(State(torch.tensor([[float(i)]]), rng=(torch.zeros(1),)), [{"seed": i}], [each], [{}])
    return found


def winner(found: Pool) -> int:
    names = {f"v{i}": object() for i in range(len(found.rows[0].scores))}
    return int(found.candidate(replace(space(), panel=Panel(names))).state.x)  # type: ignore[arg-type]


def plain_merits(table: Table) -> list[float]:
    """Average ranks, counted out by sorting: 1 is the best; the mean over verifiers, scaled to [0, 1]."""
    columns = list(zip(*table, strict=True))
    total = [0.0] * len(table)
    for column in columns:
        ranked = sorted(column, reverse=True)
        for i, value in enumerate(column):
            places = [place for place, other in enumerate(ranked, 1) if other == value]
            total[i] += sum(places) / len(places)
    n = len(table)
    return [1.0 if n == 1 else 1 - (each / len(columns) - 1) / (n - 1) for each in total]


@given(tables.filter(lambda table: len(table[0]) > 1))
def test_several_verifiers_decide_by_the_mean_of_average_ranks(table: Table) -> None:
    assert merits(table) == pytest.approx(plain_merits(table))


@given(tables.filter(lambda table: len(table[0]) > 1))
def test_ranks_do_not_see_a_monotone_transform_of_one_verifier(table: Table) -> None:
    bent = [(math.exp(each[0]) - 5, *each[1:]) for each in table]
    assert merits(bent) == pytest.approx(merits(table))


@given(tables, st.randoms(use_true_random=False))
def test_ranks_follow_a_permutation_of_the_candidates(table: Table, shuffled: random.Random) -> None:
    index = list(range(len(table)))
    shuffled.shuffle(index)
    values = merits(table)
    assert merits([table[i] for i in index]) == pytest.approx([values[i] for i in index])


@given(tables)
def test_the_pool_returns_the_first_of_the_best_of_all_ever_offered(table: Table) -> None:
    """Ranks of earlier rounds are never reused, and a state that can still win is never dropped."""
    values = merits(table)
    assert winner(pool(*table)) == values.index(max(values))


def test_a_later_candidate_can_bring_an_earlier_one_to_the_top() -> None:
    assert winner(pool((2.0, 2.0), (3.0, 1.0))) == 0  # each beats the other once, and the earlier stays
    assert winner(pool((2.0, 2.0), (3.0, 1.0), (2.5, 0.0))) == 1  # ranks 3 and 1 against 1 and 2


def test_of_one_verifier_only_the_best_states_are_kept() -> None:
    assert list(pool((1.0,), (3.0,), (3.0,), (2.0,)).states) == [1]


def test_ties_go_to_the_earliest_and_nan_never_wins() -> None:
    assert winner(pool((1.0,), (2.0,), (2.0,), (0.0,))) == 1
    assert winner(pool((NAN,), (-5.0,), (NAN,), (-7.0,))) == 1
    assert winner(pool((-math.inf,), (-math.inf,), (0.0,), (NAN,))) == 2
    assert winner(pool((NAN, 9.0), (0.0, 0.0), (9.0, NAN))) == 1
    assert order([NAN, 1.0, 2.0, 2.0]) == [2, 3, 1, 0] and best_of([NAN, NAN]) is None and best_of([]) is None


def test_two_rounds_keep_the_best_of_the_first() -> None:
    found = pool((5.0,), (1.0,), (2.0,), (4.0,)).candidate(space())
    assert found.score == 5.0 and [row["best"] for row in found.trace] == [5.0] * 4


def test_an_ensembles_trace_holds_every_raw_score() -> None:
    found = pool((1.0, 10.0), (2.0, 30.0)).candidate(replace(space(), panel=Panel({"a": None, "b": None})))  # type: ignore[dict-item]
    assert [row["scores"] for row in found.trace] == [{"a": 1.0, "b": 10.0}, {"a": 2.0, "b": 30.0}]
    assert [row["score"] for row in found.trace] == [0.0, 1.0] and found.trace[1]["chosen"]


def test_nothing_offered_is_explained() -> None:
    with pytest.raises(UsageError, match="at least one"):
        Pool().candidate(space())


# --- counted up as candidates come --------------------------------------------------------------------------------


def plain_front(table: Table) -> list[int]:
    """The candidates that can still win, by looking at every pair."""
    known = [i for i, own in enumerate(table) if not any(map(math.isnan, own))]
    beaten = {
        i
        for i in known
        for j in known
        if j != i and all(a >= b for a, b in zip(table[j], table[i], strict=True)) and (table[j] != table[i] or j < i)
    }
    return [i for i in known if i not in beaten]


def plain_merits_of_known(table: Table) -> list[float]:
    """The plain definition where some have no number: they take no part."""
    known = [i for i, own in enumerate(table) if not any(map(math.isnan, own))]
    values = dict(zip(known, plain_merits([table[i] for i in known]) if known else [], strict=True))
    return [values.get(i, NAN) for i in range(len(table))]


numbers: Any = st.one_of(st.integers(-2, 2).map(float), st.sampled_from([NAN, math.inf, -math.inf]))
gappy: Any = st.integers(1, 3).flatmap(lambda v: st.lists(st.tuples(*[numbers] * v), min_size=1, max_size=9))


@given(gappy)
def test_counts_kept_along_the_way_are_the_plain_definition(table: Table) -> None:
    ranking, several = Ranking.of(table), len(table[0]) > 1
    plain: Any = plain_merits_of_known if several else lambda rows: [each[0] for each in rows]
    assert ranking.merits.tolist() == pytest.approx(plain(table), nan_ok=True)
    assert ranking.front.tolist() == plain_front(table)
    assert ranking.leader == best_of(plain(table))
    leaders = [best_of(plain(table[: i + 1])) for i in range(len(table))]
    bests = [NAN if top is None else plain(table[: i + 1])[top] for i, top in enumerate(leaders)]
    assert ranking.bests == pytest.approx(bests, nan_ok=True)


@pytest.mark.timeout(60)  # ranking every prefix anew took minutes
@pytest.mark.parametrize("conflict", [False, True])
def test_two_thousand_candidates_of_three_verifiers_cost_next_to_nothing(conflict: bool) -> None:
    """One at a time, the leader asked each time, as zero-order does; under conflict each candidate can still win."""
    draws = torch.rand((2000, 3), generator=torch.Generator().manual_seed(0)).double()
    if conflict:
        draws[:, 1] = -draws[:, 0]
    found = Pool()
    for i, own in enumerate(draws.tolist()):
        found = found.add(State(draws[[i]], rng=(draws,)), [{"seed": i}], [tuple(own)], [{}])
        assert found.leader is not None
    candidate = found.candidate(replace(space(), panel=Panel({"a": None, "b": None, "c": None})))  # type: ignore[dict-item]
    assert len(candidate.trace) == 2000
