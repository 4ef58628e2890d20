"""The plugin `newname`: tries several noises and keeps the picture that the verifier likes best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from genbench.kinds import About, Candidate, Space
from genbench.options import Range


@dataclass(frozen=True)
class Newname:
    """Best of n."""

    candidates: Annotated[int, Range(1)] = 4  # noises tried; 1 is neutral

    about: ClassVar[About] = About(
        "One line: how this searches.",
        contract=1,
        paper="Author et al., Title",
        url="",
        license="",
        cost="candidates x plain",
        neutral={"candidates": 1},
        cache_safe=True,
    )

    def search(self, space: Space) -> Candidate:
        """Return the best candidate and what every candidate scored."""
        noise, seeds = space.propose(self.candidates)
        states = space.run(space.start(noise, seeds))
        scores = space.score(space.decode(states)).tolist()
        best = max(range(self.candidates), key=scores.__getitem__)
        trace = tuple({"seed": seed, "score": score} for seed, score in zip(seeds, scores, strict=True))
        return Candidate(states.rows([best]), scores[best], trace)
