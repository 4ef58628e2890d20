"""What a search sees: proposals, parts of walks, going back, previews, drafts, one row among others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genbench import sampling
from genbench.backbones.toy import Ancestral, ToyModel, ToyScorer
from genbench.chain import Chain
from genbench.errors import UsageError
from genbench.judging import Panel
from genbench.searchspace import TrajectorySpace, draws_noise, neighbours
from tests.test_sampling import SHAPE, context


def space(batch: int = 4, panel: Panel | None = None, **words: Any) -> TrajectorySpace:
    return TrajectorySpace(Chain(), context(**words), SHAPE, panel or Panel({"toy": ToyScorer()}), batch, {})

    def test_its_first_proposal_run_to_the_end_is_the_plain_picture() -> None:
        searched = space(model=ToyModel(sampler=Ancestral(1.0)))
        state = searched.run(searched.start(*searched.propose(1)))
        plain = sampling.draw(Chain(), context(model=ToyModel(sampler=Ancestral(1.0))), SHAPE)
        assert torch.equal(state.x, plain.x)

    def test_proposals_are_nested() -> None:
        few, many = space(), space()
        first, _ = few.propose(2)
        second, _ = few.propose(2)
        noise, seeds = many.propose(4)
        assert torch.equal(torch.cat([first, second]), noise)
        assert seeds[0] == 7 and len(set(seeds)) == 4

    def test_neighbours_keep_norm_and_cosine() -> None:
        pivot = torch.randn(1, 4, 32, 32, dtype=torch.float64)
        near = neighbours(pivot, torch.randn(8, 4, 32, 32, dtype=torch.float64), 0.9)
        norms = near.flatten(1).norm(dim=1) / pivot.norm()
        cosines = torch.cosine_similarity(near.flatten(1), pivot.flatten(1))
        assert torch.allclose(norms, torch.ones_like(norms), atol=1e-12)
        assert torch.allclose(cosines, torch.full_like(cosines, 0.9), atol=1e-12)
        between = torch.cosine_similarity(near[0].flatten(), near[1].flatten(), dim=0)
        assert float(between) == pytest.approx(0.81, abs=0.03)

    def test_chunks_do_not_change_the_result() -> None:
        whole, cut = space(batch=8), space(batch=3)
        a, b = (s.run(s.start(*s.propose(8))) for s in (whole, cut))
        assert torch.allclose(a.x, b.x, atol=1e-5)
        assert whole.spent == cut.spent == 8 * 5 * 2

    def test_renoise_goes_back_with_the_marginal_of_that_level() -> None:
        searched = space()
        state = searched.run(searched.start(*searched.propose(1)), until=4)
        many = searched.renoise(state.fork([0] * 400), 2)
        here, there = searched.ctx.schedule.levels[4], searched.ctx.schedule.levels[2]
        ratio = there.alpha / here.alpha
        spread = (there.sigma**2 - (ratio * here.sigma) ** 2) ** 0.5
        assert many.index == 2
        assert torch.allclose(many.x.mean(0), ratio * state.x[0], atol=5 * float(spread) / 20)
        assert float(many.x.std(0).mean()) == pytest.approx(float(spread), rel=0.02)
        with pytest.raises(UsageError, match="earlier"):
            searched.renoise(state, 5)

    def test_preview_is_the_x0_prediction_and_is_paid_for() -> None:
        searched = space()
        state = searched.run(searched.start(*searched.propose(2)), until=3)
        before = searched.spent
        images = searched.preview(state)
        level = searched.ctx.schedule.levels[3]
        x0 = searched.ctx.rows([0, 0]).denoiser()(state.x, level).x0
        assert torch.allclose(images, searched.ctx.model.decode(x0))
        assert before == 2 * 3 * 2 and images.shape == (2, *SHAPE)

    def test_scoring_without_a_verifier_says_what_to_do() -> None:
        lonely = space(panel=Panel())
        with pytest.raises(UsageError, match="verifier="):
            lonely.score(torch.zeros(1, *SHAPE))


def test_a_seed_draws_its_noise_again() -> None:
    searched = space()
    noise, seeds = searched.propose(5)
    assert torch.equal(searched.redraw(seeds[2:4]), noise[2:4]) and searched.proposed == 5
    near, seeds = searched.propose(2, around=noise[:1], cosine=0.9)
    assert torch.equal(searched.redraw(seeds[1:], noise[:1], 0.9), near[1:])


def test_one_row_among_others_gets_the_bits_it_had() -> None:
    searched = space(batch=3, model=ToyModel(sampler=Ancestral(1.0)))
    noise, seeds = searched.propose(8)
    finished = searched.run(searched.start(noise, seeds))
    for row in (0, 4, 7):
        alike = searched.among(row, 8)
        calls = searched.ctx.ledger.calls
        again = alike.run(alike.start(noise[[row]], [seeds[row]]))
        assert torch.equal(again.x[0], finished.x[row]) and torch.equal(again.rng[0], finished.rng[row])
        assert searched.ctx.ledger.calls - calls == 5, "one walk"
    assert searched.among(7, 8).place == (1, 2) and searched.among(4, 8).place == (1, 3)


def test_a_draft_walks_other_steps_from_the_same_noise_and_is_counted() -> None:
    searched = space()
    draft = searched.draft(steps=2)
    assert draft.price() == 2 * 2 and searched.price() == 5 * 2
    noise, seeds = draft.propose(1)
    assert torch.equal(noise, searched.propose(1)[0])
    assert draft.run(draft.start(noise, seeds)).index == 2 and searched.spent == draft.spent == 4


def test_whether_a_sampler_draws_noise_is_seen_from_one_step() -> None:
    for eta in (0.0, 1.0):
        ctx = context(model=ToyModel(sampler=Ancestral(eta)))
        assert draws_noise(ctx, SHAPE) == bool(eta) and ctx.ledger.evaluations == 0


def test_several_verifiers_have_no_one_score() -> None:
    searched = space(panel=Panel({"a": ToyScorer(), "b": ToyScorer()}))
    assert list(searched.judge(torch.zeros(2, *SHAPE))) == ["a", "b"] == list(searched.verifiers)
    with pytest.raises(UsageError, match="follows one score and verifier= names a, b; name one, or verifier=ensemble"):
        searched.score(torch.zeros(2, *SHAPE))
