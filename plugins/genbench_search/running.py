"""What every search algorithm shares: candidates scored batch by batch, and the running best.

The best so far survives every round, so quality is monotone in the budget (the public port of the paper keeps only
the last round's winner).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan

from torch import Tensor

from genbench.errors import UsageError
from genbench.kinds import Candidate, Space, State


@dataclass(frozen=True)
class Best:
    """The best finished state so far (one row; None before the first), its score, and every candidate's record."""

    state: State | None = None
    score: float = -inf
    trace: tuple[Mapping[str, object], ...] = ()

    def offer(self, finished: State, scores: Sequence[float], seeds: Sequence[int]) -> Best:
        """Return the best after n more candidates. NaN never wins; of equal scores the earliest stays."""
        best = self
        for row, (score, seed) in enumerate(zip(scores, seeds, strict=True)):
            best = best._one(finished, row, score, seed)
        return best

    def _one(self, finished: State, row: int, score: float, seed: int) -> Best:
        first = self.state is None
        wins = first or score > self.score or (isnan(self.score) and not isnan(score))
        state, top = (finished.rows([row]), score) if wins else (self.state, self.score)
        return Best(state, top, (*self.trace, {"seed": seed, "score": score, "best": top}))

    def candidate(self) -> Candidate:
        """Return what the search found. Raises UsageError where no candidate was offered."""
        if self.state is None:
            raise UsageError("a search needs at least one candidate; set search.candidates=1 or more")
        return Candidate(self.state, self.score, self.trace)


def finish(space: Space, noise: Tensor, seeds: Sequence[int]) -> tuple[State, list[float]]:
    """Sample noises (n, ...) to the end, decode and score them: finished states (n rows) and n scores."""
    finished = space.run(space.start(noise, seeds))
    return finished, space.score(space.decode(finished)).tolist()
