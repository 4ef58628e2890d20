"""What every search algorithm shares: candidates with all their scores, and the running best.

The best so far survives every round, so quality is monotone in the budget (the public port of the paper keeps only
the last round's winner). Several verifiers decide by the mean of their ranks. A rank depends on what it is compared
with, so raw scores are kept and all candidates are ranked anew, together, whenever some are added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan, nan
from typing import Any, Protocol

from torch import Tensor

from genbench.errors import GenbenchError, UsageError
from genbench.kinds import Candidate, Space, State

Made = Mapping[str, object]
Scores = tuple[float, ...]


def merits(scores: Sequence[Scores]) -> list[float]:
    """Return one number per candidate, larger is better: the score of the one verifier, else the mean over verifiers
    of the share of the others that a candidate beats, ties counting half. NaN where a verifier gave NaN.
    """
    good = [each for each in scores if not any(map(isnan, each))]
    if len(next(iter(scores), ())) == 1:
        return [each[0] for each in scores]
    return [nan if any(map(isnan, each)) else _mean_rank(each, good) for each in scores]


def _mean_rank(own: Scores, good: Sequence[Scores]) -> float:
    if len(good) == 1:
        return 1.0
    shares = [
        sum((mine > other[v]) + (mine == other[v]) / 2 for other in good) - 0.5  # itself is one of the good
        for v, mine in enumerate(own)
    ]
    return sum(shares) / len(own) / (len(good) - 1)


def order(values: Sequence[float]) -> list[int]:
    """Return the candidates from best to worst; of equal ones the earliest first, NaN last."""
    return sorted(range(len(values)), key=lambda i: (isnan(values[i]), -values[i] if not isnan(values[i]) else 0.0))


def best_of(values: Sequence[float]) -> int | None:
    """Return the best candidate, None where none has a number."""
    first = order(values)[:1]
    return first[0] if first and not isnan(values[first[0]]) else None


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
    """One candidate: how its noise was made, its raw scores, the holdouts', and its state while it may yet win."""

    made: Made
    scores: Scores
    held: Mapping[str, float] = field(default_factory=dict[str, float])
    state: State | None = None
    error: str = ""


class Fallback(Protocol):
    """What is left where the verifier fails before any picture is finished."""

    def salvaged(self, space: Space, pool: Pool, error: GenbenchError) -> Pool: ...


@dataclass(frozen=True)
class Pool:
    """Every finished candidate so far; `previews` are records of unfinished ones. `stopped` says why no more come."""

    rows: tuple[Judged, ...] = ()
    previews: tuple[Made, ...] = ()
    stopped: str = ""

    @property
    def leader(self) -> int | None:
        """The best candidate so far, None before one has a number."""
        return best_of(merits([row.scores for row in self.rows]))

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
        new = [
            Judged(each, scores[i], watched[i], finished.rows([i]).replace(x=finished.x[[i]].detach()), error)
            for i, each in enumerate(made)
        ]
        return replace(self, rows=_pruned((*self.rows, *new)), stopped=error or self.stopped)

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
                f"verifier={','.join(names)} gave no number for any of the {len(self.rows)} candidates (NaN); choose "
                "another verifier, or plugin= without a search"
            )
        state = self.rows[chosen].state
        assert state is not None, "the leader is never pruned"
        values = merits([row.scores for row in self.rows])
        return Candidate(state, values[chosen], (*self.previews, *self._trace(names, values, chosen)))

    def _trace(self, names: Sequence[str], values: Sequence[float], chosen: int) -> list[Made]:
        shown, bests = list[Made](), self._bests()
        for i, row in enumerate(self.rows):
            made = {name: value for name, value in row.made.items() if name != "noise" or i == chosen}
            told: dict[str, Any] = {**made, "score": values[i], "best": bests[i]}
            told |= {"scores": dict(zip(names, row.scores, strict=True))} if len(names) > 1 else {}
            told |= {"holdout": dict(row.held)} if row.held else {}
            told |= {"error": row.error} if row.error else {}
            shown.append({**told, "chosen": True} if i == chosen else told)
        return shown

    def _bests(self) -> list[float]:
        """The leader's score after each candidate; of several verifiers its rank among those so far."""
        scores, bests = [row.scores for row in self.rows], list[float]()
        for i in range(len(scores)):
            if len(scores[i]) == 1:
                before = bests[-1] if bests else nan
                bests.append(before if isnan(scores[i][0]) or before >= scores[i][0] else scores[i][0])
            else:
                values = merits(scores[: i + 1])
                leader = best_of(values)
                bests.append(nan if leader is None else values[leader])
        return bests


def _pruned(rows: Sequence[Judged]) -> tuple[Judged, ...]:
    """Drop the states of candidates that another one is at least as good as by every verifier: they cannot win."""
    return tuple(
        row if row.state is None or not _beaten(rows, i) else replace(row, state=None) for i, row in enumerate(rows)
    )


def _beaten(rows: Sequence[Judged], i: int) -> bool:
    own = rows[i].scores
    if any(map(isnan, own)):
        return True
    return any(
        all(a >= b for a, b in zip(other.scores, own, strict=True)) and (other.scores != own or j < i)
        for j, other in enumerate(rows)
        if j != i
    )
