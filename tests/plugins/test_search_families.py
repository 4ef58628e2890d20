"""Every algorithm on every family, with the samplers that they ship with: counts, the winner remade, chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import PNDMScheduler
from torch import Tensor

from genbench import cost, sampling
from genbench.backbones import adapt
from genbench.chain import Chain
from genbench.errors import UsageError
from genbench.judging import Panel
from genbench.kinds import Ledger, Resources
from genbench.schedulers import SchedulerSampler, named_sampler
from genbench.searchspace import TrajectorySpace
from genbench_npnet import Redenoise
from genbench_search import Search
from genbench_w2sd import W2SD
from tests.tiny import FAMILIES, SD_SCHEDULE, tiny

STEPS = 5
SMALL: dict[str, dict[str, Any]] = {
    "random": {"candidates": 3},
    "zero-order": {"iterations": 1},
    "paths": {"start": 0.4, "back": 0.2, "forward": 0.4},
    "fk": {"particles": 3, "start": 0.4, "every": 0.4},
    "reno": {"iterations": 2},
}


@dataclass(frozen=True)
class Redness:
    def score(self, *, images: Tensor, prompts: Sequence[str], rows: object = None) -> Tensor:
        return (images[:, 0] - images[:, 2]).mean((1, 2))


@cache
def loaded(family: str) -> Any:
    """One model per family: the tests below compare bits, and building it takes longest."""
    return adapt(tiny(family), Ledger())


def opened(family: str, chain: Chain | None = None, sampler: str | None = None, batch: int = 2) -> TrajectorySpace:
    """A search space over a tiny random model, guided where the family is."""
    ledger, chain = Ledger(), chain or Chain()
    model = loaded(family).replace(ledger=ledger)
    walker = named_sampler(sampler, model.sampler.scheduler) if sampler else model.sampler
    side = 64 if family == "hunyuan" else 16 if model.family == "unconditional" else 32
    resources = Resources(ledger, lambda source, build: None, lambda word: model)
    prompt = "3" if family == "class_conditional" else "a red cube"
    ctx = sampling.context(
        resources, model, walker, prompts=[prompt], seeds=[4], steps=STEPS, guidance_scale=3.0, height=side, width=side
    )
    return TrajectorySpace(chain, ctx, model.latent_shape(side, side), Panel({"v": Redness()}), batch, {})


@pytest.mark.parametrize("algorithm", list(SMALL))
@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_algorithm_on_every_family(family: str, algorithm: Any) -> None:
    where = opened(family)
    plugin = Search(algorithm=algorithm, **SMALL[algorithm])
    with torch.no_grad():
        plain = cost.plain_evaluations(where.ctx)
        stated = plugin.evaluations(plain, where.ctx)
        found = plugin.search(where)
        assert where.spent == stated
        assert torch.isfinite(found.state.x).all() and found.state.index == where.ctx.schedule.steps
        again = plugin.remake(replace(where), found.trace)
    assert torch.equal(again.state.x, found.state.x)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_one_candidate_is_the_plain_picture(family: str) -> None:
    where = opened(family)
    with torch.no_grad():
        plain = sampling.draw(Chain(), where.ctx, where.shape).x
        assert torch.equal(Search(candidates=1).search(where).state.x, plain)


@pytest.mark.parametrize("sampler", ["ddim", "euler_a", "dpmpp_2m", "heun", "unipc", "lms", "plms"])
@pytest.mark.parametrize("algorithm", ["paths", "fk"])
def test_walks_that_begin_midway_count_right_with_every_solver(sampler: str, algorithm: Any) -> None:
    where = opened("sd", sampler=sampler)
    plugin = Search(algorithm=algorithm, **SMALL[algorithm])
    with torch.no_grad():
        found = plugin.search(where)
        assert where.spent == plugin.evaluations(cost.plain_evaluations(where.ctx), where.ctx)
        again = plugin.remake(replace(where), found.trace)
    assert torch.equal(again.state.x, found.state.x)


@pytest.mark.parametrize("algorithm", list(SMALL))
def test_only_walks_that_begin_midway_refuse_a_runge_kutta_start(algorithm: Any) -> None:
    """PNDM of that kind, which no family here ships with: paths and steering say so before they draw."""
    where, plugin = opened("sd"), Search(algorithm=algorithm, **SMALL[algorithm])
    walker = SchedulerSampler(PNDMScheduler(**SD_SCHEDULE, skip_prk_steps=False))
    schedule = walker.schedule(STEPS, where.ctx.model, where.shape)
    where = replace(where, ctx=replace(where.ctx, sampler=walker, schedule=schedule))
    with torch.no_grad():
        if algorithm in ("paths", "fk"):
            with pytest.raises(UsageError, match="PNDM with a Runge-Kutta start cannot begin midway"):
                plugin.search(where)
            assert where.spent == 0
        else:
            plugin.search(where)
            assert where.spent == plugin.evaluations(cost.plain_evaluations(where.ctx), where.ctx)


@pytest.mark.parametrize("algorithm", list(SMALL))
def test_noise_that_is_made_golden_first(algorithm: Any) -> None:
    """Noise transforms apply to every candidate, and what they evaluate is counted."""
    chain = Chain(noise=(Redenoise(high=4.0, steps=3),))
    where, plugin = opened("sd", chain, "ddim"), Search(algorithm=algorithm, **SMALL[algorithm])
    with torch.no_grad():
        found = plugin.search(where)
        assert where.spent == cost.picture_evaluations(replace(chain, search=plugin), where.ctx)
        assert torch.equal(plugin.remake(replace(where), found.trace).state.x, found.state.x)


@pytest.mark.parametrize("algorithm", list(SMALL))
def test_three_methods_in_one_run(algorithm: Any) -> None:
    """Golden noise, reflection and search: each candidate has all of it, and the ledger is the closed formula."""
    chain = Chain(noise=(Redenoise(high=4.0, steps=3),), steps=(W2SD(stop=2),))
    where, plugin = opened("sd", chain, "ddim"), Search(algorithm=algorithm, **SMALL[algorithm])
    with torch.no_grad():
        found = plugin.search(where)
        assert where.spent == cost.picture_evaluations(replace(chain, search=plugin), where.ctx)
        assert torch.equal(plugin.remake(replace(where), found.trace).state.x, found.state.x)


def test_drafts_with_a_step_cache_leave_the_model_as_it_is() -> None:
    with torch.no_grad():
        where = opened("flux")
        plain = sampling.draw(Chain(), opened("flux").ctx, where.shape).x
        plugin = Search(candidates=3, draft_cache="first_block:0.9")
        found = plugin.search(where)
        assert where.spent == plugin.evaluations(STEPS, where.ctx) == 4 * STEPS
        scores = [row["score"] for row in found.trace]
        exact = [row["score"] for row in Search(candidates=3).search(opened("flux")).trace]
        assert scores[:3] != exact, "the drafts were cheaper walks"
        assert torch.equal(sampling.draw(Chain(), where.ctx, where.shape).x, plain)
        winner = int(str(found.trace[-1]["again"]))
        assert scores[3] == pytest.approx(exact[winner], abs=1e-6)


def test_a_step_cache_that_the_family_lacks_is_refused() -> None:
    with torch.no_grad(), pytest.raises(Exception, match="diffusers has no step cache for sd; families with one: flux"):
        Search(draft_cache="first_block").search(opened("sd"))
