"""Zero-order search (arXiv:2501.09732): climb among neighbours of a pivot noise.

1. Pivot n ~ N(0, I). 2. Draw N neighbours y with |y| = |n| and cos(y, n) = rho. 3. Sample all, score. 4. The best of
pivot and neighbours becomes the pivot; repeat. The pivot is scored once and kept where no neighbour beats it (the
public port redraws it, and loses what it had found).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from genbench.kinds import Context, Space, State
from genbench_search.budget import Allowance
from genbench_search.random_search import again
from genbench_search.running import Pool, row_of


@dataclass(frozen=True)
class ZeroOrder:
    """`iterations` rounds of `neighbours` at cosine `cosine`. Step noise, where a sampler draws it, stays the same."""

    iterations: int = 4
    neighbours: int = 2
    cosine: float = 0.95

    scale: ClassVar[str] = "iterations"
    least: ClassVar[int] = 0
    stepwise: ClassVar[bool] = True
    reward: ClassVar[bool] = False

    def evaluations(self, walk: int, ctx: Context) -> int:
        """(1 + I N) k."""
        return (1 + self.iterations * self.neighbours) * walk

    def search(self, space: Space, pool: Pool, allowance: Allowance) -> Pool:
        """Climb for as many rounds as are wanted and allowed."""
        noise, own = space.propose(1)
        noises = [noise]
        pool = pool.offer(space, space.run(space.start(noise, own)), [{"seed": own[0]}])
        for _ in range(self.iterations):
            if pool.stopped or allowance.left(space) < self.neighbours * space.price():
                break
            pivot = pool.leader or 0
            near, seeds = space.propose(self.neighbours, around=noises[pivot], cosine=self.cosine)
            finished = space.run(space.start(near, own * self.neighbours))
            made = [self._made(space, seed, i, pivot) for i, seed in enumerate(seeds)]
            pool = pool.offer(space, finished, made)
            noises += list(near.split(1))
        return pool

    def _made(self, space: Space, seed: int, i: int, pivot: int) -> dict[str, object]:
        return {"seed": seed, "around": pivot, "cosine": self.cosine, **row_of(space, i, self.neighbours)}

    def noise(self, space: Space, trace: Sequence[Mapping[str, Any]], row: int) -> tuple[Tensor, int]:
        """Return the noise of a candidate (1, ...), neighbour of neighbours, and the seed of its step noise."""
        made, own = trace[row], space.ctx.seeds[0]
        if "around" not in made:
            return space.redraw([made["seed"]]), own
        pivot, _ = self.noise(space, trace, made["around"])
        return space.redraw([made["seed"]], pivot, made["cosine"]), own

    def remake(self, space: Space, trace: Sequence[Mapping[str, Any]], row: int) -> State:
        """Return the finished state of a candidate: one walk."""
        noise, seed = self.noise(space, trace, row)
        return again(space, trace[row], noise, seed)
