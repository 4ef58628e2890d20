"""Where a path or a particle came from: the seed of its first noise and every fork on its way.

A hop `[at, to, copy, row, of]`: at step `at` it was the `copy`-th copy of its parent, went back to step `to`, and
walked on as row `row` of `of`. Streams are data, so this is enough to walk it again, alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from genbench.errors import GenbenchError
from genbench.kinds import Space, State
from genbench_search.ranks import Scores, best_of, merits
from genbench_search.running import Pool, row_of

Hop = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Lineage:
    """The way of one row so far."""

    seed: int
    row: int
    of: int
    hops: tuple[Hop, ...] = ()

    def made(self, space: Space) -> dict[str, object]:
        """Return it as a trace holds it."""
        hops = {"hops": [list(hop) for hop in self.hops]} if self.hops else {}
        return {"seed": self.seed, **row_of(space, self.row, self.of), **hops}


def founders(seeds: Sequence[int]) -> list[Lineage]:
    """Return the lineages of fresh noises."""
    return [Lineage(seed, row, len(seeds)) for row, seed in enumerate(seeds)]


def branch(
    space: Space, states: State, ways: Sequence[Lineage], index: Sequence[int], to: int
) -> tuple[State, list[Lineage]]:
    """Select or repeat rows, give repeats streams of their own, and go back to step `to`."""
    forked = states.fork(index)
    counts: dict[int, int] = {}
    grown: list[Lineage] = []
    for row, parent in enumerate(index):
        copy = counts[parent] = counts.get(parent, -1) + 1
        way = ways[parent]
        hop = (states.index, to, copy, row, len(index))
        grown.append(Lineage(way.seed, way.row, way.of, (*way.hops, hop)))
    return forked if to == states.index else space.renoise(forked, to), grown


def previews(space: Space, ways: Sequence[Lineage], step: int, scores: Sequence[Scores]) -> list[dict[str, object]]:
    """Return the records of candidates that were judged at `step`, unfinished."""
    names, shown = space.verifiers, list[dict[str, object]]()
    for way, value, own in zip(ways, merits(scores), scores, strict=True):
        each = {"scores": dict(zip(names, own, strict=True))} if len(names) > 1 else {}
        shown.append({**way.made(space), "preview": True, "step": step, "score": value, **each})
    return shown


@dataclass
class Promising:
    """The most promising unfinished candidate of the last judgement: what is left where the verifier fails midway."""

    state: State | None = None
    way: Lineage | None = None
    scores: Scores = ()

    def note(self, states: State, ways: Sequence[Lineage], scores: Sequence[Scores]) -> None:
        """Remember the best of n states; the earlier one stays where none has a number."""
        top = best_of(merits(scores))
        if top is not None:
            self.state, self.way, self.scores = states.rows([top]), ways[top], scores[top]

    def salvaged(self, space: Space, pool: Pool, error: GenbenchError) -> Pool:
        """End with the best so far: the pool's, else this one, walked to the end and not judged again. Raises `error`
        where nothing was judged.
        """
        if pool.leader is None and (self.state is None or self.way is None):
            raise error
        if pool.leader is None and self.state is not None and self.way is not None:
            hop = (self.state.index, self.state.index, 0, 0, 1)
            made = replace(self.way, hops=(*self.way.hops, hop)).made(space)
            pool = pool.add(space.run(self.state), [made], [self.scores], [{}], str(error))
        return replace(pool, stopped=str(error))


def walked(space: Space, made: Mapping[str, Any]) -> State:
    """Walk a lineage again to the end, alone."""
    seed, alike = int(made["seed"]), space.among(*made.get("row", (0, 1)))
    state = alike.start(space.redraw([seed]), [seed])
    for at, to, copy, row, of in made.get("hops", ()):
        state = alike.run(state, at).fork([0] * (copy + 1)).rows([copy])
        state = state if to == at else space.renoise(state, to)
        alike = space.among(row, of)
    return alike.run(state)
