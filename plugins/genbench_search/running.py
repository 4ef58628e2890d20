"""What every search algorithm shares: candidates with all their scores, and the running best.

The best so far survives every round, so quality is monotone in the budget (the public port of the paper keeps only
the last round's winner). Several verifiers decide by the mean of their ranks. A rank depends on what it is compared
with, so raw scores are kept and all candidates are ranked together, see `ranks.Ranking`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from math import isnan, nan
from typing import Any, Protocol

from torch import Tensor

from genbench.errors import GenbenchError, UsageError
from genbench.kinds import Candidate, Space, State
from genbench_search.ranks import Ranking, Scores

Made = Mapping[str, Any]


def judged(space: Space, images: Tensor) -> list[Scores]:
    """Return every verifier's raw score of each image. Raises GenbenchError where a verifier cannot say."""
    asked = [values.detach().tolist() for values in space.judge(images).values()]
    return list(zip(*asked, strict=True))


def held(space: Space, images: Tensor) -> list[dict[str, float]]:
    """Return the holdouts' scores of each image."""
    asked = {name: values.tolist() for name, values in space.watch(images).items()}
    return [{name: values[i] for name, values in asked.items()} for i in range(len(images))]


def row_of(space: Space, row: int, of: int) -> dict[str, object]:
    """Say in which network call a candidate was drawn, where it was not alone in it."""
    return {} if min(space.batch, of) == 1 else {"row": [row, of]}


@dataclass(frozen=True)
class Judged:
    """One candidate: how its noise was made, its raw scores, and the holdouts'."""

    made: Made
    scores: Scores
    held: Mapping[str, float] = field(default_factory=dict[str, float])
    error: str = ""


class Fallback(Protocol):
    """What is left where the verifier fails before any picture is finished."""

    def salvaged(self, space: Space, pool: Pool, error: GenbenchError) -> Pool: ...


@dataclass(frozen=True)
class Pool:
    """Every finished candidate so far; `previews` are records of unfinished ones. `stopped` says why no more come;
    `states` are those of the candidates that can still win.
    """

    rows: tuple[Judged, ...] = ()
    previews: tuple[Made, ...] = ()
    stopped: str = ""
    ranking: Ranking = field(default_factory=Ranking)
    states: Mapping[int, State] = field(default_factory=dict[int, State])

    @property
    def leader(self) -> int | None:
        """The best candidate so far, None before one has a number."""
        return self.ranking.leader

    def offer(self, space: Space, finished: State, made: Sequence[Made], best: Fallback | None = None) -> Pool:
        """Judge n finished states. Where the verifier fails the best so far stands (`best`: unfinished); raises its
        error without one.
        """
        images = space.decode(finished)
        try:
            scores = judged(space, images)
        except GenbenchError as error:
            if best is not None:
                return best.salvaged(space, self, error)
            if self.leader is None:
                raise
            unknown = (nan,) * len(space.verifiers)
            return self.add(finished, made, [unknown] * len(made), [{}] * len(made), str(error))
        return self.add(finished, made, scores, held(space, images))

    def add(
        self,
        finished: State,
        made: Sequence[Made],
        scores: Sequence[Scores],
        watched: Sequence[Mapping[str, float]],
        error: str = "",
    ) -> Pool:
        """Return the pool with n more candidates whose scores are known."""
        first, ranking = len(self.rows), reduce(Ranking.add, scores, self.ranking)
        new = [Judged(each, own, watch, error) for each, own, watch in zip(made, scores, watched, strict=True)]
        states = {i: self.states[i] if i < first else row_alone(finished, i - first) for i in ranking.front.tolist()}
        return replace(self, rows=(*self.rows, *new), ranking=ranking, states=states, stopped=error or self.stopped)

    def seen(self, previews: Sequence[Made]) -> Pool:
        """Return the pool with records of candidates that were judged unfinished."""
        return replace(self, previews=(*self.previews, *previews))

    def candidate(self, space: Space) -> Candidate:
        """Return what the search found, the leader. Raises UsageError where no candidate has a number."""
        if not self.rows:
            raise UsageError("a search needs at least one candidate; set search.candidates=1 or more")
        chosen, names = self.leader, space.verifiers
        if chosen is None:
            raise UsageError(
                f"{self.silence(names)}: there is nothing to choose by; choose another verifier, or plugin= without a "
                "search"
            )
        values = self.ranking.merits.tolist()
        return Candidate(self.states[chosen], values[chosen], (*self.previews, *self._trace(names, values, chosen)))

    def silence(self, names: Sequence[str]) -> str:
        """Say which verifiers gave no number and how often, nothing where all did. One that raised is not counted."""
        told = list[str]()
        for v, name in enumerate(names):
            last = sum(isnan(row.scores[v]) for row in self.rows if not row.error)
            seen = sum(isnan(row.get("scores", {}).get(name, row["score"])) for row in self.previews)
            counts = (f"{last} of {len(self.rows)} candidates", f"{seen} of {len(self.previews)} previews")
            where = " and ".join(text for n, text in zip((last, seen), counts, strict=True) if n)
            told += [f"verifier={name} gave no number (NaN) for {where}"] if where else []
        return ", ".join(told)

    def _trace(self, names: Sequence[str], values: Sequence[float], chosen: int) -> list[Made]:
        shown, bests = list[Made](), self.ranking.bests
        for i, row in enumerate(self.rows):
            made = {name: value for name, value in row.made.items() if name != "noise" or i == chosen}
            told: dict[str, Any] = {**made, "score": values[i], "best": bests[i]}
            told |= {"scores": dict(zip(names, row.scores, strict=True))} if len(names) > 1 else {}
            told |= {"holdout": dict(row.held)} if row.held else {}
            told |= {"error": row.error} if row.error else {}
            shown.append({**told, "chosen": True} if i == chosen else told)
        return shown


def row_alone(states: State, i: int) -> State:
    """Return one row by itself, without its gradient."""
    return states.rows([i]).replace(x=states.x[[i]].detach())
