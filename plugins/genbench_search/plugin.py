"""The plugin `search`: `genbench run plugin=search search.candidates=8 verifier=... prompt="..."`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from genbench.kinds import About, Candidate, Context, Space
from genbench_search.random_search import random_search


@dataclass(frozen=True)
class Search:
    """Inference-time noise search (arXiv:2501.09732): the best of several noises in the eyes of the run's verifier."""

    candidates: int = field(default=4, metadata={"range": (1, None)})  # noises tried; 1 is neutral
    algorithm: Literal["random"] = "random"  # how noises are proposed
    chunk: int = field(default=16, metadata={"range": (1, None)})  # decoded and scored at once; changes no result

    about: ClassVar[About] = About(
        "Inference-time scaling by noise search: several noises, one verifier, the best picture.",
        paper="Ma et al., Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps, CVPR 2025",
        url="https://arxiv.org/abs/2501.09732",
        cost="candidates x plain",
        neutral={"candidates": 1},
        cache_safe=True,
    )

    def search(self, space: Space) -> Candidate:
        """Return the best candidate of one prompt and one seed, with every candidate's seed and score."""
        return random_search(space, self.candidates, self.chunk)

    def evaluations(self, plain: int, ctx: Context) -> int:
        """Network evaluations of one searched picture, where a plain one takes `plain`."""
        return self.candidates * plain
