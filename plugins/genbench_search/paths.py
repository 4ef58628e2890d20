"""Search over paths (arXiv:2501.09732): walk part of the way, branch by new noise, keep the most promising, walk on.

1. Draw N noises and walk them to a level. 2. Give each M branches: forward-noise it by `back` steps with the exact
marginal (VP, VE and rectified flow alike, see `Space.renoise`). 3. Walk `forward` steps on. 4. Score one-step
predictions of the clean picture and keep the top N of all; repeat 2-4 to the end. 5. Keep the best finished picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from genbench import cost
from genbench.errors import GenbenchError, UsageError
from genbench.kinds import Context, Space, State
from genbench_search.budget import Allowance
from genbench_search.lineage import Lineage, Promising, branch, founders, previews, walked
from genbench_search.ranks import merits, order
from genbench_search.running import Pool, judged


@dataclass(frozen=True)
class Paths:
    """`survivors` (N) paths with `branches` (M) each; `start`, `back` and `forward` are shares of the outer steps."""

    branches: int = 2
    survivors: int = 2
    start: float = 0.3
    back: float = 0.1
    forward: float = 0.2

    scale: ClassVar[str] = "branches"
    least: ClassVar[int] = 1
    stepwise: ClassVar[bool] = False
    reward: ClassVar[bool] = False

    def rounds(self, steps: int) -> Iterator[tuple[int, int, int]]:
        """Yield (step reached, step gone back to, step walked to) of each round, the last of which ends the walk.

        Raises UsageError where none is left to branch in.
        """
        if steps < 2:
            raise UsageError(
                f"algorithm=paths branches between steps; steps={steps} is too few: use random, or 2 or more"
            )
        back = max(1, round(self.back * steps))
        forward = max(back + 1, round(self.forward * steps))
        at = max(back, round(self.start * steps))
        if at >= steps:
            name = "back" if back >= steps else "start"
            raise UsageError(
                f"search.{name}={getattr(self, name):g} leaves none of steps={steps} to branch in: at most "
                f"{math.floor(1000 * (steps - 1) / steps) / 1000:g}, which is step {steps - 1}"
            )
        while at < steps:
            stop = min(at - back + forward, steps)
            yield at, at - back, stop
            at = stop

    def evaluations(self, walk: int, ctx: Context) -> int:
        """N k(0 to start) + N M (steps of each round + 1 for its x0, none for the last)."""
        steps, wide, one = ctx.schedule.steps, self.survivors * self.branches, cost.rows_per_call(ctx)
        rounds = list(self.rounds(steps))
        walks = sum(cost.price(ctx, to, stop) for _, to, stop in rounds)
        first = self.survivors * cost.price(ctx, 0, rounds[0][0])
        return first + wide * (walks + one * (len(rounds) - 1))

    def search(self, space: Space, pool: Pool, allowance: Allowance) -> Pool:
        """Add the finished branches of the last round; where the verifier fails midway, the best so far, unjudged."""
        best = Promising()
        states, ways, pool = self.walk(space, pool, best)
        return pool if pool.stopped else pool.offer(space, states, [way.made(space) for way in ways], best)

    def walk(self, space: Space, pool: Pool, best: Promising) -> tuple[State, list[Lineage], Pool]:
        """Walk N M branches to the end: their states, ways, and the pool with previews."""
        rounds = list(self.rounds(space.ctx.schedule.steps))
        noise, seeds = space.propose(self.survivors)
        states, ways = space.run(space.start(noise, seeds), rounds[0][0]), founders(seeds)
        for _, to, stop in rounds:
            index = [i for i in range(len(ways)) for _ in range(self.branches)]
            states, ways = branch(space, states, ways, index, to)
            states = space.run(states, stop)
            if stop == space.ctx.schedule.steps:
                break
            images = space.preview(states)
            try:
                scores = judged(space, images)
            except GenbenchError as error:
                return states, ways, best.salvaged(space, pool, error)
            best.note(states, ways, scores)
            pool = pool.seen(previews(space, ways, stop, scores))
            keep = order(merits(scores))[: self.survivors]
            states, ways = states.rows(keep), [ways[i] for i in keep]
        return states, ways, pool

    def remake(self, space: Space, trace: Sequence[Mapping[str, Any]], row: int) -> State:
        """Return the finished state of a candidate: the segments of its own way."""
        return walked(space, trace[row])
