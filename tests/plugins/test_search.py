"""The plugin `search`: what holds for every algorithm, the counts, the running best, budgets, drafts, bad verifiers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from genbench import cost, sampling
from genbench.backbones.toy import Ancestral, ToyScorer
from genbench.chain import Chain
from genbench.discovery import build
from genbench.errors import ModelError, PluginError, UsageError
from genbench.generation import Session
from genbench.judging import Panel
from genbench.kinds import Candidate, Scorer
from genbench.request import resolve
from genbench.searchspace import TrajectorySpace
from genbench.streams import derived_seed
from genbench.testing import contract_tests, toy_context
from genbench.testing.toyrun import chain_of
from genbench_search import Search
from genbench_search.paths import Paths
from genbench_w2sd import W2SD

SEED, STEPS, SHAPE = 7, 10, (3, 8, 8)
SMALL: Mapping[str, dict[str, Any]] = {
    "random": {"candidates": 6},
    "zero-order": {"iterations": 3},
    "paths": {},
    "fk": {"particles": 5, "strength": 5.0},
    "reno": {"iterations": 4},
}
ALGORITHMS: Any = list(SMALL)


@dataclass(frozen=True)
class Brightness:
    """Mean of the picture, differentiable."""

    sign: float = 1.0

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: object = None) -> Tensor:
        return self.sign * images.mean((1, 2, 3))


@dataclass
class Failing:
    """Scores like the toy's verifier, and goes wrong from call `after` on."""

    after: int = 0
    error: Exception | None = None
    value: float = math.nan
    calls: int = 0

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: object = None) -> Tensor:
        self.calls += 1
        if self.calls <= self.after:
            return ToyScorer().score(images=images, prompts=prompts)
        if self.error is not None:
            raise self.error
        return torch.full((len(images),), self.value)


@dataclass
class Mute:
    """Scores like the toy's verifier, and gives no number at its call `at`."""

    at: int
    calls: int = 0

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: object = None) -> Tensor:
        self.calls += 1
        scores = ToyScorer().score(images=images, prompts=prompts)
        return scores if self.calls != self.at else scores * math.nan


def space(
    *verifiers: Scorer, batch: int = 4, eta: float = 0.0, seed: int = SEED, steps: int = STEPS, **panel: Any
) -> TrajectorySpace:
    """The real space over the toy model."""
    ctx = toy_context([seed], prompts=["red blue"], chain=Chain(sampler=Ancestral(eta)), steps=steps)
    named = {f"v{i}": each for i, each in enumerate(verifiers or (ToyScorer(),))}
    return TrajectorySpace(Chain(), ctx, SHAPE, Panel(named, **panel), batch, {})


def found(plugin: Search, where: TrajectorySpace) -> Candidate:
    with torch.no_grad():
        return plugin.search(where)


def pictures(candidate: Candidate) -> list[Mapping[str, Any]]:
    return [row for row in candidate.trace if not row.get("preview")]


def small(algorithm: Any, **more: Any) -> Search:
    return Search(algorithm=algorithm, **{**SMALL[algorithm], **more})


test_random_keeps_the_contract = contract_tests(Search, "search")
test_zero_order_keeps_the_contract = contract_tests(Search, "search", algorithm="zero-order", iterations=2)
test_paths_keep_the_contract = contract_tests(Search, "search", algorithm="paths")
test_fk_keeps_the_contract = contract_tests(Search, "search", algorithm="fk")
test_reno_keeps_the_contract = contract_tests(Search, "search", algorithm="reno", iterations=3)


# --- every algorithm ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("eta", "batch", "steps"), [(0.0, 4, 10), (1.0, 3, 10), (0.0, 1, 5), (1.0, 1, 3), (0.0, 2, 3)])
def test_the_ledger_is_the_closed_formula(algorithm: str, eta: float, batch: int, steps: int) -> None:
    where, plugin = space(batch=batch, eta=eta, steps=steps), small(algorithm)
    found(plugin, where)
    assert where.spent == plugin.evaluations(cost.plain_evaluations(where.ctx), where.ctx)


def test_the_formulas_written_out() -> None:
    ctx, walk = space().ctx, 20
    draws = space(eta=1.0).ctx
    assert Search(candidates=6).evaluations(walk, ctx) == 6 * 20
    assert Search(algorithm="zero-order", iterations=3, neighbours=2).evaluations(walk, ctx) == 7 * 20
    paths = Search(algorithm="paths", survivors=2, branches=3, start=0.3, back=0.1, forward=0.2)
    # at 3 -> 2 -> 4, 3 -> 5, 4 -> 6, ... 8 -> 10: seven rounds of two steps, six of them with an x0 prediction
    assert paths.evaluations(walk, ctx) == 2 * (2 * 3 + 6 * (7 * 2 + 6))
    fk = Search(algorithm="fk", particles=5, start=0.2, stop=0.8, every=0.2)
    assert fk.evaluations(walk, draws) == 5 * (20 + 2 * 4)
    assert fk.evaluations(walk, ctx) == 5 * (20 + 2 * 4 + 2 * 4)  # one step again at each of four resamplings
    assert Search(algorithm="reno", iterations=4).evaluations(walk, ctx) == 7 * 20
    assert Search(algorithm="reno", iterations=4).evaluations(8, space(steps=4).ctx) == 4 * 8


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("seed", range(4))
def test_the_running_best_never_falls(algorithm: str, seed: int) -> None:
    candidate = found(small(algorithm), space(seed=seed))
    bests, scores = ([row[key] for row in pictures(candidate)] for key in ("best", "score"))
    assert bests == [max(scores[: i + 1]) for i in range(len(scores))]
    assert candidate.score == bests[-1]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_winner_is_marked_and_remade_alone_bit_by_bit(algorithm: str, eta: float) -> None:
    plugin = small(algorithm)
    candidate = found(plugin, space(eta=eta, batch=3))
    (chosen,) = (row for row in candidate.trace if row.get("chosen"))
    assert chosen["score"] == candidate.score
    calls = space(eta=eta, batch=3)
    with torch.no_grad():
        again = plugin.remake(calls, candidate.trace)
    assert torch.equal(again.state.x, candidate.state.x) and again.score == candidate.score
    if algorithm in ("random", "zero-order", "reno"):
        assert calls.ctx.ledger.calls == STEPS, "one walk"


@pytest.mark.parametrize("algorithm", ["random", "zero-order", "reno"])
def test_the_first_candidate_is_the_plain_picture(algorithm: Any) -> None:
    assert pictures(found(small(algorithm), space()))[0]["seed"] == SEED
    for eta in (0.0, 1.0):
        where = space(eta=eta)
        plain = sampling.draw(Chain(), where.ctx, SHAPE)
        for plugin in (Search(algorithm=algorithm, candidates=1), Search(algorithm=algorithm, budget="20nfe")):
            alone = found(plugin, where := space(eta=eta))
            assert torch.equal(alone.state.x, plain.x) and where.spent == 20
            assert all(torch.equal(a, b) for a, b in zip(alone.state.rng, plain.rng, strict=True))


def test_holdouts_are_reported_for_each_candidate_and_never_followed() -> None:
    watched = found(small("random"), space(holdouts={"dark": Brightness(-1.0)}))
    assert torch.equal(watched.state.x, found(small("random"), space()).state.x)
    held = [row["holdout"]["dark"] for row in pictures(watched)]
    assert len(set(held)) == 6 and all(-1 <= value <= 0 for value in held)


# --- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"neighbours": 2}, "search.neighbours= is for algorithm=zero-order, not for random"),
        ({"algorithm": "paths", "candidates": 8}, "search.candidates= is for algorithm=random, not for paths"),
        ({"algorithm": "reno", "start": 0.5}, "search.start= is for algorithm=paths or fk, not for reno"),
        ({"algorithm": "fk", "draft_steps": 2}, "search.draft_steps= is for algorithm=random or zero-order or reno"),
        ({"budget": "200"}, "search.budget=200 needs a unit: write 200nfe for network evaluations or 200s for seconds"),
        ({"budget": "many"}, "search.budget=many is no budget: write 200nfe"),
        ({"budget": "0nfe"}, "above 0"),
        ({"budget": "1.5nfe"}, "a whole number"),
        ({"draft_cache": "first_bloc"}, "did you mean 'first_block'"),
    ],
)
def test_what_does_not_go_together_is_said(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Search(**options)


def test_ranks_have_no_reward() -> None:
    for algorithm in ("fk", "reno"):
        with pytest.raises(UsageError, match="needs one reward"):
            found(small(algorithm), space(Brightness(), ToyScorer()))


# --- budgets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("nfe", [20, 107, 333])
def test_a_budget_is_never_exceeded_and_is_used(algorithm: Any, nfe: int) -> None:
    where, plugin = space(), Search(algorithm=algorithm, budget=f"{nfe}nfe")
    least = {"paths": 92}.get(algorithm, 20)
    if nfe < least:
        with pytest.raises(UsageError, match=r"budget=20nfe is below the least of algorithm=paths, \d+ .*picture: 20"):
            found(plugin, where)
        assert where.spent == 0
        return
    found(plugin, where)
    assert where.spent == plugin.evaluations(20, where.ctx) <= nfe
    scale = plugin.chosen.scale
    larger = replace(plugin, budget="", **{scale: getattr(plugin.sized(20, where.ctx), scale) + 1})
    assert larger.evaluations(20, where.ctx) > nfe


def test_a_count_that_is_also_given_is_an_upper_bound() -> None:
    where = space()
    assert len(found(Search(candidates=3, budget="333nfe"), where).trace) == 3


def test_a_budget_below_one_picture_is_refused_from_words_alone() -> None:
    with pytest.raises(UsageError, match="search.budget=9nfe is below one picture, which takes at least 10"):
        Search(budget="9nfe").check_words({"steps": 10})
    Search(budget="9nfe").check_words({"steps": None})


@pytest.mark.parametrize(
    ("options", "steps", "says"),
    [
        ({}, 1, "algorithm=paths branches between steps; steps=1 is too few: use random, or 2 or more"),
        ({"start": 1.0}, 10, r"search.start=1 leaves none of steps=10 to branch in: at most 0.9, which is step 9$"),
        ({"back": 1.0}, 10, r"search.back=1 leaves none of steps=10 to branch in: at most 0.9, which is step 9$"),
        (
            {"start": 0.99},
            30,
            r"search.start=0.99 leaves none of steps=30 to branch in: at most 0.966, which is step 29$",
        ),
    ],
)
def test_steps_that_cannot_be_branched_are_refused_from_words_alone(
    options: dict[str, Any], steps: int, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        Search(algorithm="paths", **options).check_words({"steps": steps})
    Search(algorithm="paths", **options).check_words({"steps": None})


@pytest.mark.parametrize("steps", [2, 3, 10, 30, 1000])
def test_what_the_message_says_is_possible_is_possible(steps: int) -> None:
    for name in ("start", "back"):
        with pytest.raises(UsageError, match="at most") as raised:
            list(Paths(**{name: 1.0}).rounds(steps))
        most = float(str(raised.value).split("at most ")[1].split(",")[0])
        assert max(at for at, _, _ in Paths(**{name: most}).rounds(steps)) == steps - 1


def test_the_way_back_is_a_share() -> None:
    with pytest.raises(UsageError, match=r"back.*\(0, 1\]"):
        build("search", {"algorithm": "paths", "back": 1.5})


@pytest.mark.parametrize("other", ["w2sd", "autoguidance"])
def test_drafts_with_a_step_cache_beside_what_revisits_steps_are_refused_at_once(other: str) -> None:
    says = f"the step cache search.draft_cache=first_block cannot run with '{other}' .*leave one out"
    with pytest.raises(PluginError, match=says):
        Session.open(
            resolve(
                {
                    "plugin": f"{other},search",
                    "model": "no-such-model",
                    "prompt": "a red cube",
                    "options": {"search": {"draft_cache": "first_block"}},
                }
            )
        )
    chain = chain_of(Search(), W2SD())
    with pytest.raises(PluginError, match="the step cache first_block of drafts cannot run with 'W2SD'"):
        found(Search(draft_cache="first_block"), replace(space(), chain=chain))


def test_a_step_cache_that_the_family_lacks_is_refused_before_weights_load() -> None:
    with pytest.raises(ModelError, match="diffusers has no step cache for sd; families with one: flux"):
        Search(draft_cache="first_block").check("some/model", "sd")
    Search(draft_cache="first_block").check("some/model", "flux")
    Search(draft_cache="first_block").check("some/model", "of-a-third-party")
    Search().check("some/model", "sd")


class Clock:
    """A clock that a ledger drives: one evaluation takes one second."""

    def __init__(self, where: TrajectorySpace) -> None:
        self.ledger = where.ctx.ledger

    def __call__(self) -> float:
        return float(self.ledger.evaluations)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("seconds", [1, 100, 300])
def test_a_budget_of_seconds_ends_the_search_and_always_draws_one(
    algorithm: Any, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = space(batch=2)
    monkeypatch.setattr("genbench_search.budget.time.perf_counter", Clock(where))
    monkeypatch.setattr("genbench_search.budget.Allowance.__init__.__defaults__", (None, 0, Clock(where)))
    candidate = found(Search(algorithm=algorithm, budget=f"{seconds}s"), where)
    assert len(pictures(candidate)) >= 1
    assert where.spent <= max(seconds, 40)
    if seconds == 300:
        assert where.spent > 150
    with torch.no_grad():
        again = Search(algorithm=algorithm, budget=f"{seconds}s").remake(space(batch=2), candidate.trace)
    assert torch.equal(again.state.x, candidate.state.x)


def test_the_clock_is_no_stated_cost() -> None:
    assert cost.states_cost(Search(budget="20nfe")) and not cost.states_cost(Search(budget="3s"))


# --- drafts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["random", "zero-order", "reno"])
def test_drafts_search_cheaply_and_end_with_one_full_walk(algorithm: str) -> None:
    where, plugin = space(), small(algorithm, draft_steps=3)
    candidate = found(plugin, where)
    assert where.spent == plugin.evaluations(20, where.ctx)
    assert Search(candidates=6, draft_steps=3).evaluations(20, where.ctx) == 6 * 6 + 20
    trace: Any = candidate.trace
    *drafts, last = trace
    assert last["chosen"] and not any(row.get("chosen") for row in drafts)
    winner = max(range(len(drafts)), key=lambda i: drafts[i]["score"])
    assert last["again"] == winner and candidate.state.index == STEPS
    if algorithm == "random":
        plain = sampling.draw(Chain(), replace(where.ctx, seeds=(drafts[winner]["seed"],)), SHAPE)
        assert torch.equal(candidate.state.x, plain.x)
    with torch.no_grad():
        assert torch.equal(plugin.remake(space(), candidate.trace).state.x, candidate.state.x)


@pytest.mark.parametrize(
    ("algorithm", "several"),
    [("random", False), ("random", True), ("zero-order", False), ("zero-order", True), ("reno", False)],
)
@pytest.mark.parametrize("error", [None, ValueError("gone")])
def test_a_full_picture_that_cannot_be_judged_has_the_drafts_score(
    algorithm: str, several: bool, error: Exception | None, warned: list[warnings.WarningMessage]
) -> None:
    verifiers = (ToyScorer(), *([Brightness()] if several else []))
    plugin, counting = small(algorithm, draft_steps=3), Failing(after=10**6)
    whole = found(plugin, space(counting, *verifiers[1:]))
    failing = Failing(after=counting.calls - 1, error=error)
    candidate = found(plugin, where := space(failing, *verifiers[1:]))
    assert torch.equal(candidate.state.x, whole.state.x), "nothing that was drawn is lost"
    assert where.spent == plugin.evaluations(20, where.ctx)
    last, row = candidate.trace[-1], candidate.trace[int(str(candidate.trace[-1]["again"]))]
    assert last["chosen"] and ("gone" in str(last["error"]) if error else "NaN" in str(last["error"]))
    assert last["scores"] == row["scores"] if several else last["score"] == row["score"] == candidate.score
    assert any("has its draft's score" in str(each.message) for each in warned)
    with torch.no_grad():
        assert torch.equal(plugin.remake(space(), candidate.trace).state.x, whole.state.x)


def test_one_candidate_needs_no_draft() -> None:
    where = space()
    found(Search(candidates=1, draft_steps=3), where)
    assert where.spent == 20


# --- verifiers that go wrong --------------------------------------------------------------------------------------


@pytest.fixture
def warned() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


@pytest.mark.parametrize("algorithm", ["random", "zero-order", "paths", "fk"])
def test_no_number_at_all_is_one_clear_line(algorithm: str) -> None:
    with pytest.raises(UsageError, match=r"verifier=v0 gave no number \(NaN\) for (\d) of \1 candidates") as raised:
        found(small(algorithm), space(Failing()))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_verifier_that_raises_at_once_is_named(algorithm: str) -> None:
    with pytest.raises(
        PluginError, match="the scorer 'v0' failed: ValueError: no such token; choose another"
    ) as raised:
        found(small(algorithm), space(Failing(error=ValueError("no such token\nand more"))))
    assert "\n" not in str(raised.value)
    with pytest.raises(UsageError, match="outside the grammar"):
        found(small(algorithm), space(Failing(error=UsageError("outside the grammar"))))


@pytest.mark.parametrize("algorithm", ["random", "zero-order", "paths", "fk"])
def test_a_verifier_that_fails_later_leaves_the_best_so_far(
    algorithm: str, warned: list[warnings.WarningMessage]
) -> None:
    more = {"chunk": 2} if algorithm == "random" else {}
    verifier = Failing(after=1, error=ValueError("gone"))
    candidate = found(small(algorithm, **more), space(verifier))
    assert math.isfinite(candidate.score) and candidate.state.index == STEPS
    assert [str(each.message) for each in warned if "ended early" in str(each.message)]
    assert any("gone" in str(row.get("error")) for row in candidate.trace)
    with torch.no_grad():
        again = small(algorithm, **more).remake(space(), candidate.trace)
    assert torch.allclose(again.state.x, candidate.state.x, atol=1e-6)


def test_a_candidate_without_a_number_never_wins(warned: list[warnings.WarningMessage]) -> None:
    class Half(Brightness):
        def score(self, *, images: Tensor, prompts: Sequence[str], rows: object = None) -> Tensor:
            scores = super().score(images=images, prompts=prompts)
            return torch.where(torch.arange(len(scores)) < 3, torch.nan, scores)

    candidate = found(Search(candidates=6), space(Half()))
    assert [math.isnan(row["score"]) for row in pictures(candidate)] == [True] * 3 + [False] * 3
    assert candidate.score == max(row["score"] for row in pictures(candidate)[3:])
    assert any("NaN) for 3 of 6 candidates" in str(each.message) for each in warned)


def test_of_several_verifiers_the_silent_one_is_named(warned: list[warnings.WarningMessage]) -> None:
    for algorithm in ("random", "paths"):
        with pytest.raises(
            UsageError, match=r"^verifier=v1 gave no number \(NaN\) for (\d) of \1 candidates"
        ) as raised:
            found(small(algorithm), space(Brightness(), Failing()))
        assert "v0" not in str(raised.value)
    found(Search(candidates=4, chunk=1), space(Brightness(), Failing(after=3)))  # one call for each
    (told,) = (str(each.message) for each in warned if "NaN" in str(each.message))
    assert told == "verifier=v1 gave no number (NaN) for 1 of 4 candidates"


def test_previews_without_a_number_are_counted(warned: list[warnings.WarningMessage]) -> None:
    found(small("fk"), space(Mute(at=1)))
    (told,) = (str(each.message) for each in warned if "NaN" in str(each.message))
    assert told == "verifier=v0 gave no number (NaN) for 5 of 20 previews"


def test_without_a_verifier_the_error_says_what_to_do() -> None:
    where = replace(space(), panel=Panel())
    with pytest.raises(UsageError, match="verifier="):
        found(Search(), where)


def test_random_draws_are_nested_and_chunks_change_nothing() -> None:
    large, few = found(Search(candidates=8), space()), found(Search(candidates=3), space())
    assert [row["seed"] for row in large.trace[:3]] == [row["seed"] for row in few.trace]
    assert [row["seed"] for row in large.trace] == [derived_seed(SEED, i) for i in range(8)]
    for chunk, batch in ((1, 4), (3, 8), (16, 1), (5, 2)):
        parts = found(Search(candidates=8, chunk=chunk), space(batch=batch))
        assert torch.allclose(parts.state.x, large.state.x, atol=1e-5)
        assert [row["seed"] for row in parts.trace] == [row["seed"] for row in large.trace]


def test_steering_that_would_never_resample_is_refused() -> None:
    with pytest.raises(UsageError, match=r"search.start=0.5 is after search.stop=0.1: no particle would be resampled"):
        Search(algorithm="fk", start=0.5, stop=0.1).check_words({"steps": 10})
