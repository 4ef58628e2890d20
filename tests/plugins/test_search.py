"""Noise search: the best-of-N law, the running best, nesting, neutrality and counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch

from genbench import sampling
from genbench.backbones.toy import Ancestral, ToyModel, ToyScorer
from genbench.chain import Chain
from genbench.errors import UsageError
from genbench.kinds import Candidate, Context, Ledger, Scorer, State
from genbench.streams import derived_seed
from genbench_search import Search
from genbench_search.running import Best

PROMPT, SEED, STEPS, SHAPE = "red blue", 7, 4, (3, 8, 8)


@dataclass
class GaussianSpace:
    """Identity sampler, images are the noise itself, verifier the first coordinate: only what a search calls."""

    seed: int = 0
    proposed: int = 0
    chunks: list[int] = field(default_factory=list)

    def propose(self, n: int, around: object = None, cosine: object = None) -> tuple[torch.Tensor, tuple[int, ...]]:
        seeds = tuple(derived_seed(self.seed, self.proposed + i) for i in range(n))
        self.proposed += n
        self.chunks.append(n)
        draw = lambda seed: torch.randn(3, generator=torch.Generator().manual_seed(seed))  # noqa: E731
        return torch.stack([draw(seed) for seed in seeds]), seeds

    def start(self, noise: torch.Tensor, seeds: Sequence[int]) -> State:
        return State(noise, rng=tuple(torch.zeros(1) for _ in seeds))

    def run(self, state: State, until: int | None = None) -> State:
        return state

    def decode(self, state: State) -> torch.Tensor:
        return state.x

    def score(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0]


def toy_space(scorer: Scorer | None = None, batch: int = 16, eta: float = 0.0) -> sampling.TrajectorySpace:
    """The real space over the toy model."""
    ledger = Ledger()
    model = ToyModel(ledger=ledger)
    sampler = Ancestral(eta)
    ctx = Context(
        ledger=ledger,
        load_file=lambda path, build: None,
        open_model=lambda word: model,
        model=model,
        sampler=sampler,
        schedule=sampler.schedule(STEPS, model, SHAPE),
        conditioning=model.encode_prompt([PROMPT]),
        prompts=(PROMPT,),
        seeds=(SEED,),
        guidance_scale=2.0,
        height=8,
        width=8,
    )
    return sampling.TrajectorySpace(Chain(), ctx, SHAPE, scorer or ToyScorer(), batch, {})


def search(n: int, chunk: int = 16, **space: object) -> Candidate:
    return Search(candidates=n, chunk=chunk).search(toy_space(**space))  # type: ignore[arg-type]


def scores_of(found: Candidate) -> list[float]:
    return [float(str(row["score"])) for row in found.trace]


@pytest.mark.parametrize(("n", "expected"), [(4, 1.03), (16, 1.77), (64, 2.34)])
def test_best_of_n_law(n: int, expected: float) -> None:
    """E[max of N standard normals], the paper's sheet: a linear verifier on Gaussian samples."""
    repeats = 400 if n < 64 else 150
    best = torch.tensor([Search(candidates=n).search(GaussianSpace(seed)).score for seed in range(repeats)])
    assert abs(best.mean() - expected) < 4 * best.std() / math.sqrt(repeats)


def test_best_of_256() -> None:
    """The same law at 256 from 40 disjoint searches."""
    best = torch.tensor([Search(candidates=256).search(GaussianSpace(1000 + seed)).score for seed in range(40)])
    assert abs(best.mean() - 2.83) < 4 * best.std() / math.sqrt(40)


def test_one_candidate_is_the_plain_run_bit_for_bit() -> None:
    for eta in (0.0, 1.0):
        space = toy_space(eta=eta)
        plain = sampling.draw(Chain(), space.ctx, SHAPE)
        found = Search(candidates=1).search(space)
        assert torch.equal(found.state.x, plain.x)
        assert all(torch.equal(a, b) for a, b in zip(found.state.rng, plain.rng, strict=True))


def test_the_default_changes_something() -> None:
    scores = scores_of(search(16))
    assert len(set(scores)) == 16
    assert search(16).score == max(scores) > scores[0]


def test_running_best_is_monotone_and_draws_are_nested() -> None:
    large, small = search(16), search(4)
    assert [row["seed"] for row in large.trace[:4]] == [row["seed"] for row in small.trace]
    assert scores_of(large)[:4] == pytest.approx(scores_of(small), abs=1e-6)
    best = [float(str(row["best"])) for row in large.trace]
    assert best == sorted(best) and best[-1] == large.score
    assert best == pytest.approx([max(scores_of(large)[: i + 1]) for i in range(16)])


def test_first_candidate_is_the_pictures_own_seed() -> None:
    assert search(4).trace[0]["seed"] == SEED
    assert len({row["seed"] for row in search(16).trace}) == 16


def test_a_candidates_seed_remakes_it() -> None:
    found = search(8)
    winner = next(row for row in found.trace if row["score"] == found.score)
    space = toy_space()
    again = sampling.draw(Chain(), replace(space.ctx, seeds=(winner["seed"],)), SHAPE)
    assert torch.allclose(again.x, found.state.x, atol=1e-5)


def test_evaluations_are_candidates_times_plain() -> None:
    space = toy_space()
    Search(candidates=6).search(space)
    assert space.spent == 6 * STEPS * 2  # guidance counts as two


@pytest.mark.parametrize(("chunk", "batch"), [(1, 16), (3, 16), (16, 1), (5, 2)])
def test_chunks_change_no_result(chunk: int, batch: int) -> None:
    whole, parts = search(8), search(8, chunk=chunk, batch=batch)
    assert [row["seed"] for row in parts.trace] == [row["seed"] for row in whole.trace]
    assert torch.allclose(parts.state.x, whole.state.x, atol=1e-5)
    assert parts.score == pytest.approx(whole.score, abs=1e-5)


def test_chunks_bound_what_is_drawn_at_once() -> None:
    space = GaussianSpace()
    Search(candidates=10, chunk=4).search(space)  # type: ignore[arg-type]
    assert space.chunks == [4, 4, 2]


def test_ties_go_to_the_earliest_and_nan_never_wins() -> None:
    states = State(torch.arange(4.0)[:, None], rng=tuple(torch.zeros(1) for _ in range(4)))
    offer = lambda *scores: Best().offer(states, scores, range(4)).candidate()  # noqa: E731
    nan = math.nan
    assert offer(1.0, 2.0, 2.0, 0.0).state.x.item() == 1
    assert offer(nan, -5.0, nan, -7.0).state.x.item() == 1
    assert offer(3.0, nan, nan, 1.0).score == 3.0
    assert offer(-math.inf, -math.inf, 0.0, nan).state.x.item() == 2
    hopeless = offer(nan, nan, nan, nan)
    assert hopeless.state.x.item() == 0 and math.isnan(hopeless.score)


def test_two_rounds_keep_the_best_of_the_first() -> None:
    states = State(torch.arange(2.0)[:, None], rng=(torch.zeros(1),) * 2)
    best = Best().offer(states, [5.0, 1.0], [0, 1]).offer(states, [2.0, 4.0], [2, 3])
    assert best.score == 5.0 and [row["best"] for row in best.trace] == [5.0] * 4


def test_without_a_verifier_the_error_says_what_to_do() -> None:
    space = toy_space()
    space.scorer = None
    with pytest.raises(UsageError, match="verifier="):
        Search().search(space)


def test_nothing_offered_is_explained() -> None:
    with pytest.raises(UsageError, match="at least one"):
        Best().candidate()
