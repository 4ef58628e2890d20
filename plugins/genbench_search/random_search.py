"""Random search (arXiv:2501.09732, section 4): n_1 .. n_N ~ N(0, I), x_j = Phi(n_j), keep argmax_j V(x_j, c)."""

from __future__ import annotations

from genbench.kinds import Candidate, Space
from genbench_search.running import Best, finish


def random_search(space: Space, candidates: int, chunk: int) -> Candidate:
    """Return the best of `candidates` fresh noises, `chunk` at a time; the first is the picture's own noise.

    Draws are nested: the candidates of a smaller search are the first ones of a larger.
    """
    best = Best()
    for first in range(0, candidates, chunk):
        noise, seeds = space.propose(min(chunk, candidates - first))
        finished, scores = finish(space, noise, seeds)
        best = best.offer(finished, scores, seeds)
    return best.candidate()
