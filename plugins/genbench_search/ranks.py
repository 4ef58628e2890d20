"""Who is best by one or several verifiers, counted up as candidates come.

One verifier decides by its score. Of several, a candidate's merit is the mean over verifiers of the share of the others
that it beats, ties counting half. Each new candidate changes every merit; what is kept are counts, so that adding the
n-th costs n V comparisons (V verifiers) and nothing is left to do at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from math import isnan, nan
from typing import Any

import numpy as np

Scores = tuple[float, ...]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Ranking:
    """n candidates by V verifiers. `scores` (n, V); `beaten` (n,): how many others each beats, summed over verifiers,
    NaN where a verifier gave NaN; `bests`: the leader's merit after each; `front`: those that can still win, ascending,
    for no other is at least as good by every verifier.
    """

    scores: Array = field(default_factory=partial(np.empty, (0, 0)))
    beaten: Array = field(default_factory=partial(np.empty, 0))
    bests: tuple[float, ...] = ()
    front: Array = field(default_factory=partial(np.empty, 0, np.int64))

    @classmethod
    def of(cls, scores: Iterable[Scores]) -> Ranking:
        """Return the ranking of candidates in the order given."""
        return reduce(cls.add, scores, cls())

    def add(self, own: Scores) -> Ranking:
        """Return the ranking with one more candidate."""
        n, new = len(self.beaten), np.array([own], dtype=np.float64)
        old = self.scores if n else np.empty((0, len(own)))
        beaten, front = np.append(self.beaten, nan), self.front
        if not np.isnan(new).any():
            ties = (old == new).sum(1) / 2
            beaten[:n] += (old > new).sum(1) + ties
            beaten[n] = ((old < new).sum(1) + ties)[~np.isnan(self.beaten)].sum()
            rivals = old[front]
            if not (rivals >= new).all(1).any():
                front = np.append(front[~(rivals <= new).all(1)], n)
        grown = Ranking(np.concatenate([old, new]), beaten, self.bests, front)
        leader = grown.leader
        best = nan if leader is None else float(grown.merits[leader])
        return replace(grown, bests=(*self.bests, best))

    @property
    def merits(self) -> Array:
        """One number per candidate (n,), larger is better, NaN where a verifier gave NaN."""
        if self.scores.shape[1] == 1:
            return self.scores[:, 0]
        known = np.count_nonzero(~np.isnan(self.beaten))
        return self.beaten / self.scores.shape[1] / (known - 1) if known > 1 else self.beaten + 1

    @property
    def leader(self) -> int | None:
        """The best candidate, of equal ones the earliest; None before one has a number."""
        return int(self.front[self.merits[self.front].argmax()]) if len(self.front) else None


def merits(scores: Sequence[Scores]) -> list[float]:
    """Return one number per candidate, larger is better; see `Ranking`."""
    return Ranking.of(scores).merits.tolist() if scores else []


def order(values: Sequence[float]) -> list[int]:
    """Return the candidates from best to worst; of equal ones the earliest first, NaN last."""
    return sorted(range(len(values)), key=lambda i: (isnan(values[i]), -values[i] if not isnan(values[i]) else 0.0))


def best_of(values: Sequence[float]) -> int | None:
    """Return the best candidate, None where none has a number."""
    first = order(values)[:1]
    return first[0] if first and not isnan(values[first[0]]) else None
