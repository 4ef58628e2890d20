"""Several scorers as one: a weighted sum of their scores, or of their ranks among the pictures of one prompt.

rank (Ma et al., arXiv:2501.09732, verifier ensemble): of the pictures of one prompt that are judged together, a
picture's rank by a scorer is the share of the others that it beats, ties counting half: 1 for the best, 0 the worst.
Ranks of different calls cannot be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import genbench
from genbench.errors import UsageError
from genbench.kinds import About
from genbench_scorers.clip import Rows

Options = tuple[str, ...]


def ranks(scores: Tensor) -> Tensor:
    """Ranks (n,) in [0, 1] of scores (n,), n >= 2; 1 is best, ties share."""
    beaten = (scores[:, None] > scores).sum(1) + ((scores[:, None] == scores).sum(1) - 1) / 2
    return beaten.to(scores.dtype) / (len(scores) - 1)


def check_candidates(prompts: Sequence[str]) -> None:
    """Refuse what has no rank: a picture alone, or pictures of several prompts. Raises UsageError."""
    if len(prompts) < 2 or len(set(prompts)) > 1:
        raise UsageError(
            f"ensemble.rule=rank compares two or more pictures of one prompt, got {len(prompts)} of "
            f"{len(set(prompts))}; use rule=sum to judge single pictures"
        )


def sorted_options(options: Options, names: Sequence[str]) -> dict[str, dict[str, object]]:
    """Options by scorer from `name.option=value` words. Raises UsageError for another form or another name."""
    found: dict[str, dict[str, object]] = {name: {} for name in names}
    for word in options:
        owner, equals, value = word.partition("=")
        name, dot, option = owner.rpartition(".")
        if not (equals and dot) or name not in found:
            raise UsageError(f"ensemble.options={word}: write NAME.OPTION=VALUE, NAME one of {', '.join(names)}")
        found[name][option] = value
    return found


@cache
def members(names: tuple[str, ...], options: Options) -> tuple[Any, ...]:
    """The scorers, built. Raises PluginError or UsageError for what does not exist."""
    given = sorted_options(options, names)
    build: Any = genbench.build  # the package's front says no types
    return tuple(build(name, given[name], ("scorer",)) for name in names)


@dataclass(frozen=True)
class Ensemble:
    """Weighted sum of other scorers' scores or ranks; a rank has no gradient."""

    scorers: tuple[str, ...]  # names of the scorers, two or more
    rule: Literal["rank", "sum"] = "sum"  # add ranks within one prompt's pictures, or the scores themselves
    weights: tuple[float, ...] = ()  # one per scorer; none: 1 / number of scorers each
    options: Options = ()  # of the scorers, as NAME.OPTION=VALUE

    resize: ClassVar[str] = "as each of its scorers"
    about: ClassVar[About] = About(
        "A weighted sum of several scorers, or of their ranks among the pictures of one prompt.",
        paper="Ma et al., Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps, CVPR 2025",
        url="https://arxiv.org/abs/2501.09732",
        license="Apache-2.0; each scorer has its own",
        cost="that of its scorers",
    )

    def __post_init__(self) -> None:
        if len(set(self.scorers)) < 2 or len(set(self.scorers)) != len(self.scorers) or "ensemble" in self.scorers:
            raise UsageError(f"ensemble.scorers={','.join(self.scorers)}: name two or more other scorers, each once")
        if self.weights and len(self.weights) != len(self.scorers):
            raise UsageError(f"ensemble.weights has {len(self.weights)} numbers for {len(self.scorers)} scorers")
        sorted_options(self.options, self.scorers)

    @property
    def relative(self) -> bool:
        """Whether a score depends on the pictures beside it."""
        return self.rule == "rank"

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Rows | None = None) -> Tensor:
        """(b,); with rule=sum differentiable where its scorers are."""
        if self.rule == "rank":
            check_candidates(prompts)
        found = members(self.scorers, self.options)
        parts = [each.object.score(images=images, prompts=prompts, rows=rows) for each in found]
        if self.rule == "rank":
            parts = [ranks(part) for part in parts]
        shares = self.weights or (1 / len(parts),) * len(parts)
        return torch.stack([share * part for share, part in zip(shares, parts, strict=True)]).sum(0)

    def version(self) -> str:
        """The versions of its scorers."""
        return "; ".join(f"{each.name} {each.fingerprint}" for each in members(self.scorers, self.options))
