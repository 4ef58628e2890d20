"""Random search (arXiv:2501.09732, section 4): n_1 .. n_N ~ N(0, I), x_j = Phi(n_j), keep argmax_j V(x_j, c)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from genbench.kinds import Context, Space, State
from genbench_search.budget import Allowance
from genbench_search.running import Pool, row_of


@dataclass(frozen=True)
class Random:
    """The best of `candidates` fresh noises, `chunk` at a time; the first is the picture's own noise.

    Draws are nested: the candidates of a smaller search are the first ones of a larger.
    """

    candidates: int = 4
    chunk: int = 16

    scale: ClassVar[str] = "candidates"
    least: ClassVar[int] = 1
    stepwise: ClassVar[bool] = True
    reward: ClassVar[bool] = False

    def evaluations(self, walk: int, ctx: Context) -> int:
        """N k."""
        return self.candidates * walk

    def search(self, space: Space, pool: Pool, allowance: Allowance) -> Pool:
        """Add candidates as long as they are wanted, allowed and judged."""
        made, size = 0, min(self.chunk, space.batch) if allowance.seconds else self.chunk
        while made < self.candidates and not pool.stopped:
            n = min(size, self.candidates - made)
            if made and allowance.left(space) < n * space.price():
                break
            noise, seeds = space.propose(n)
            finished = space.run(space.start(noise, seeds))
            pool = pool.offer(space, finished, [{"seed": s, **row_of(space, i, n)} for i, s in enumerate(seeds)])
            made += n
        return pool

    def noise(self, space: Space, trace: Sequence[Mapping[str, Any]], row: int) -> tuple[Tensor, int]:
        """Return the noise of a candidate (1, ...) and the seed of its step noise."""
        return space.redraw([trace[row]["seed"]]), trace[row]["seed"]

    def remake(self, space: Space, trace: Sequence[Mapping[str, Any]], row: int) -> State:
        """Return the finished state of a candidate: one walk."""
        noise, seed = self.noise(space, trace, row)
        return again(space, trace[row], noise, seed)


def again(space: Space, made: Mapping[str, Any], noise: Tensor, seed: int) -> State:
    """Walk one noise (1, ...) to the end as a row of the call in which it was drawn."""
    alike = space.among(*made.get("row", (0, 1)))
    return alike.run(alike.start(noise, [seed]))
