"""The plugin `search`: `genbench run plugin=search search.candidates=8 verifier=... prompt="..."`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Literal, Protocol

from genbench import cost, searchspace
from genbench.backbones.caches import cache_config
from genbench.errors import GenbenchError, UsageError
from genbench.kinds import About, Candidate, Context, Space, State
from genbench.options import Range
from genbench_search import budget
from genbench_search.budget import Allowance
from genbench_search.fk import FK, Potential
from genbench_search.paths import Paths
from genbench_search.random_search import Random
from genbench_search.reno import ReNO
from genbench_search.running import Pool
from genbench_search.zero_order import ZeroOrder

Count = Annotated[int, Range(1)]
Share = Annotated[float, Range(0, 1)]
SomeShare = Annotated[float, Range(0, 1, low_open=True)]
Positive = Annotated[float, Range(0, low_open=True)]
Trace = Sequence[Mapping[str, Any]]


class Algorithm(Protocol):
    """One way to propose candidates. Its fields are options of the plugin; `scale` is the one that a budget sets, from
    `least` up; `stepwise`: it can end after any round; `reward`: it needs one verifier's score, not ranks.
    """

    scale: ClassVar[str]
    least: ClassVar[int]
    stepwise: ClassVar[bool]
    reward: ClassVar[bool]

    def evaluations(self, walk: int, ctx: Context) -> int: ...
    def search(self, space: Space, pool: Pool, allowance: Allowance) -> Pool: ...
    def remake(self, space: Space, trace: Trace, row: int) -> State: ...


ALGORITHMS: Mapping[str, Any] = {"random": Random, "zero-order": ZeroOrder, "paths": Paths, "fk": FK, "reno": ReNO}
OWN = ("algorithm", "budget")
DRAFTS = {"draft_steps": ("random", "zero-order", "reno"), "draft_cache": ("random", "zero-order", "reno")}


@dataclass(frozen=True)
class Search:
    """Inference-time noise search (arXiv:2501.09732): the best of several noises in the eyes of the run's verifiers."""

    algorithm: Literal["random", "zero-order", "paths", "fk", "reno"] = "random"  # how noises are proposed
    budget: str = ""  # of one picture, 200nfe or 30s: as many candidates as fit
    candidates: Count | None = None  # random: noises tried (4); 1 is neutral, with every algorithm
    chunk: Count | None = None  # random: decoded and scored at once (16); changes no result
    iterations: Count | None = None  # zero-order: rounds (4); reno: walks (50)
    neighbours: Count | None = None  # zero-order: tried around the pivot in each round (2)
    cosine: Annotated[float, Range(-1, 1)] | None = None  # zero-order: of a neighbour to the pivot (0.95)
    survivors: Count | None = None  # paths: kept in each round (2)
    branches: Count | None = None  # paths: of each survivor in each round (2)
    back: SomeShare | None = None  # paths: share of the steps that a branch goes back (0.1)
    forward: Positive | None = None  # paths: share of the steps walked before the next choice (0.2)
    start: Share | None = None  # paths, fk: share of the steps before the first choice (0.3, 0.2)
    stop: Share | None = None  # fk: share of the steps after which nothing is resampled (0.8)
    every: Positive | None = None  # fk: share of the steps between resamplings (0.2)
    particles: Count | None = None  # fk: walked together (4)
    potential: Potential | None = None  # fk: what a reward is compared with (max)
    strength: Annotated[float, Range(0)] | None = None  # fk: lambda, the tilt of the reward (10)
    ess: bool | None = None  # fk: resample only where few particles carry the weight (false)
    rate: Positive | None = None  # reno: learning rate (5)
    clip: Positive | None = None  # reno: largest norm of a gradient (0.1)
    regulariser: Annotated[float, Range(0)] | None = None  # reno: weight of the noise's norm (0.01)
    draft_steps: Count | None = None  # random, zero-order, reno: search with so many steps, end with all
    draft_cache: str | None = None  # random, zero-order, reno: search with a step cache, end without

    about: ClassVar[About] = About(
        "Inference-time scaling by noise search: several noises, one or more verifiers, the best picture.",
        paper="Ma et al., Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps, CVPR 2025",
        url="https://arxiv.org/abs/2501.09732",
        cost="candidates x plain",
        neutral={"candidates": 1},
        cache_safe=True,
    )

    def __post_init__(self) -> None:
        for name in self._set:
            users = users_of(name)
            if self.algorithm not in users and not (name == "candidates" and self.candidates == 1):
                raise UsageError(f"search.{name}= is for algorithm={' or '.join(users)}, not for {self.algorithm}")
        budget.parse(self.budget)
        if self.draft_cache is not None:
            cache_config(self.draft_cache)
        method = ALGORITHMS[self.algorithm]
        for option in fields(method):  # what nobody set is the algorithm's; what a budget decides stays open
            if getattr(self, option.name) is None and not (self.budget and option.name == method.scale):
                object.__setattr__(self, option.name, option.default)

    @property
    def _set(self) -> dict[str, Any]:
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in OWN}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def chosen(self) -> Algorithm:
        """The algorithm with its options."""
        if self.candidates == 1:
            return Random(1)
        return ALGORITHMS[self.algorithm](**{name: value for name, value in self._set.items() if name not in DRAFTS})

    @property
    def timed(self) -> bool:
        """Whether the clock decides how many evaluations it takes."""
        return budget.parse(self.budget).seconds is not None

    @property
    def drafts(self) -> bool:
        """Whether the search walks other steps than the picture."""
        return self.draft_steps is not None or self.draft_cache is not None

    # --- cost -----------------------------------------------------------------------------------------------------

    def check(self, model: str, family: str) -> None:
        """Refuse a step cache that the family lacks. Raises ModelError."""
        if self.draft_cache is not None:
            searchspace.check_cache_of(family, self.draft_cache)

    def check_words(self, words: Mapping[str, object]) -> None:
        """Refuse a budget below the fewest evaluations of one picture (one per step), steps that cannot be branched,
        a step cache beside plugins that it cannot run with, and ranks as a reward. Raises UsageError or PluginError.
        """
        steps, nfe, plugins = words.get("steps"), budget.parse(self.budget).nfe, words.get("plugin")
        if isinstance(steps, int) and nfe is not None and nfe < steps:
            raise UsageError(
                f"search.budget={self.budget} is below one picture, which takes at least {steps} evaluations"
            )
        if isinstance(self.chosen, FK) and self.chosen.stop < self.chosen.start:
            between = f"search.start={self.chosen.start:g} is after search.stop={self.chosen.stop:g}"
            raise UsageError(f"{between}: no particle would be resampled; lower search.start")
        if isinstance(steps, int) and isinstance(self.chosen, Paths):
            list(self.chosen.rounds(steps))
        if self.draft_cache is not None and isinstance(plugins, tuple):
            searchspace.check_cache_beside(plugins, f"search.draft_cache={self.draft_cache}")
        names = str(words.get("verifier") or "")
        if self.chosen.reward and "," in names:
            raise UsageError(f"algorithm={self.algorithm} needs one reward and verifier={names} are ranked; name one")

    def evaluations(self, plain: int, ctx: Context) -> int:
        """Network evaluations of one searched picture, where a plain one takes `plain`. Raises UsageError."""
        return self._total(self.sized(plain, ctx), plain, ctx)

    def _total(self, algorithm: Algorithm, plain: int, ctx: Context) -> int:
        if not self.drafts or algorithm == alone(algorithm):
            return algorithm.evaluations(plain, ctx)
        draft = searchspace.drafted(ctx, self.draft_steps)
        return algorithm.evaluations(cost.price(draft), draft) + plain

    def sized(self, plain: int, ctx: Context) -> Algorithm:
        """Return the algorithm as large as the budget allows. Raises UsageError where not even the least fits."""
        algorithm, nfe = self.chosen, budget.parse(self.budget).nfe
        return algorithm if nfe is None else self._fitted(algorithm, nfe, plain, ctx)

    def _fitted(self, algorithm: Algorithm, nfe: float, plain: int, ctx: Context) -> Algorithm:
        def fits(n: int) -> bool:
            return self._total(scaled(algorithm, n), plain, ctx) <= nfe

        n = budget.largest(fits, algorithm.least, self._set.get(algorithm.scale))
        if n is None:
            least = self._total(scaled(algorithm, algorithm.least), plain, ctx)
            raise UsageError(
                f"search.budget={self.budget} is below the least of algorithm={self.algorithm}, {least} evaluations "
                f"(one picture: {plain}); raise it"
            )
        return scaled(algorithm, n)

    # --- search ---------------------------------------------------------------------------------------------------

    def search(self, space: Space) -> Candidate:
        """Return the best candidate of one prompt and one seed, with every candidate's noise and score."""
        walk = space.price()
        algorithm, seconds = self.sized(walk, space.ctx), budget.parse(self.budget).seconds
        algorithm.evaluations(walk, space.ctx)  # says now what cannot be walked
        if algorithm.reward and len(space.verifiers) > 1:
            self.check_words({"verifier": ",".join(space.verifiers)})
        drafting = self.drafts and algorithm != alone(algorithm)
        found = space.draft(self.draft_steps, self.draft_cache) if drafting else space
        allowance = Allowance(seconds, walk if drafting else 0)
        if seconds is None or algorithm.stepwise:
            if seconds is not None and self._set.get(algorithm.scale) is None:
                algorithm = scaled(algorithm, 10**9)
            pool = algorithm.search(found, Pool(), allowance)
        else:
            pool = self._timed(algorithm, found, allowance)
        told(pool, space)
        candidate = pool.candidate(space)
        return self._final(algorithm, space, candidate) if drafting else candidate

    def _timed(self, algorithm: Algorithm, space: Space, allowance: Allowance) -> Pool:
        """Draw the plain picture first, which shows the speed; then search as widely as the time left allows."""
        pool = Random(1).search(space, Pool(), allowance)
        left = allowance.left(space)

        def fits(n: int) -> bool:
            return scaled(algorithm, n).evaluations(space.price(), space.ctx) <= left

        n = budget.largest(fits, algorithm.least, self._set.get(algorithm.scale))
        return pool if n is None else scaled(algorithm, n).search(space, pool, allowance)

    def _final(self, algorithm: Any, space: Space, found: Candidate) -> Candidate:
        """Walk the winner's noise once more at full quality; what cannot be judged then has its draft's score."""
        row = next(i for i, each in enumerate(found.trace) if each.get("chosen"))
        noise, seed = algorithm.noise(space, found.trace, row)
        finished = space.run(space.start(noise, [seed]))
        made, pool = {"again": row}, Pool()
        try:
            pool = pool.offer(space, finished, [made])
            problem = pool.silence(space.verifiers)
        except GenbenchError as error:
            problem = str(error)
        if problem:
            warnings.warn(f"the picture at full quality has its draft's score: {problem}", stacklevel=2)
            pool = Pool().add(finished, [made], [scores_of(found.trace[row])], [{}], problem)
        last = pool.candidate(space)
        drafts = [{name: value for name, value in each.items() if name != "chosen"} for each in found.trace]
        return replace(last, trace=(*drafts, *last.trace))

    def remake(self, space: Space, trace: Trace) -> Candidate:
        """Return the winner of an earlier search alone, from its trace. Raises UsageError where that names none."""
        row = next((i for i, each in enumerate(trace) if each.get("chosen")), None)
        if row is None:
            raise UsageError("this record does not say which candidate won; search again with a changed word")
        algorithm: Any = self.chosen
        made = trace[row]
        if "again" in made:
            noise, seed = algorithm.noise(space, trace, made["again"])
            state = space.run(space.start(noise, [seed]))
        else:
            state = (Random() if row_is_plain(made) else algorithm).remake(space, trace, row)
        return Candidate(state, float(made["score"]), tuple(trace))


def users_of(option: str) -> tuple[str, ...]:
    """Return the algorithms that have an option."""
    named = {name: {field.name for field in fields(each)} for name, each in ALGORITHMS.items()}
    return DRAFTS.get(option) or tuple(name for name, own in named.items() if option in own)


def scaled(algorithm: Any, n: int) -> Any:
    """Return the algorithm with its scale, the option that a budget sets, at n."""
    return replace(algorithm, **{algorithm.scale: n})


def alone(algorithm: Any) -> Any:
    """Return the algorithm that draws one candidate: there is nothing to choose."""
    return scaled(algorithm, algorithm.least)


def row_is_plain(made: Mapping[str, Any]) -> bool:
    """Whether a candidate is a fresh noise walked straight to the end."""
    return not {"around", "noise", "hops", "iteration"} & set(made)


def scores_of(made: Mapping[str, Any]) -> tuple[float, ...]:
    """Return every verifier's raw score of a candidate."""
    return tuple(made["scores"].values()) if "scores" in made else (made["score"],)


def told(pool: Pool, space: Space) -> None:
    """Warn of what went wrong and did not cost the picture."""
    if pool.stopped:
        warnings.warn(f"the search ended early, with the best of {len(pool.rows)}: {pool.stopped}", stacklevel=2)
    silence = pool.silence(space.verifiers)
    if silence and pool.leader is not None:
        warnings.warn(silence, stacklevel=2)
