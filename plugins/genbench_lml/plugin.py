"""LML as a sampler: a base solver's own step, with its increment transformed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genbench.errors import UsageError
from genbench.kinds import About, Context, Denoise, Level, Model, Prediction, Schedule, State
from genbench_lml import bases, transform
from genbench_lml.bases import Base
from genbench_lml.curvature import lanczos
from genbench_lml.products import hessian_product
from genbench_lml.walk import Walk, laid_out, weighed

MEMORY = "lml"
TRAINED = 1000  # timesteps of training, by which `freeze` counts


@dataclass(frozen=True)
class LML:
    """Steps bent by the curvature of the diffused density (Levenberg-Marquardt-Langevin, arXiv:2505.24222).

    mode=published computes what the released code computes, in float32: with its default kappa=0 that is the base
    solver plus rounding noise (see `transform.literal`), which no other resolution, dtype or machine reproduces.
    """

    mode: Literal["curvature", "stable", "published"] = "curvature"  # what bends a step; published: mostly rounding
    base: Literal["auto", "ddim", "dpm", "dpmpp", "euler"] = "auto"  # the solver; auto: the model's own, ddim or euler
    strength: float | None = field(default=None, metadata={"range": (0, None)})  # default 1, stable 0.1; 0 is neutral
    damping: float = field(default=0.0, metadata={"range": (0, None)})  # mu of curvature
    rank: int = field(default=0, metadata={"range": (0, 32)})  # Hessian products a step; 0: from earlier steps, free
    ritz: Literal["secant", "spectrum"] = "secant"  # of rank 0: each picture's own changes, or a scale-free spectrum
    products: Literal["difference", "forward"] = "difference"  # how Hessian products are taken
    order: int = field(default=2, metadata={"range": (1, 3)})  # of dpm and dpmpp
    freeze: float = field(default=0.0, metadata={"range": (0, 1)})  # share of early, noisy time left alone
    lamb: float = field(default=1e-3, metadata={"range": (0, None)})  # lambda of published
    kappa: float = field(default=0.0, metadata={"range": (0, 1)})  # weight of the previous term, published and stable

    about: ClassVar[About] = About(
        "Steps bent by the curvature of the diffused density, from what sampling already has.",
        paper="Wang et al., Unleashing High-Quality Image Generation in Diffusion Sampling Using Second-Order "
        "Levenberg-Marquardt-Langevin, ICCV 2025",
        url="https://arxiv.org/abs/2505.24222",
        cost="plain; with rank=k, k more calls a step",
        neutral={"strength": 0.0},
        cache_safe=True,
    )

    def __post_init__(self) -> None:
        for name, holds in self._ignored().items():
            if getattr(self, name) != getattr(LML, name):
                raise UsageError(f"lml.{name}= is for {holds}; leave it out")
        if self.mode == "curvature" and self.order == 3 and self.base in ("dpm", "dpmpp"):
            raise UsageError("lml.order=3 is of stable and published; mode=curvature corrects orders 1 and 2")

    def _ignored(self) -> dict[str, str]:
        """The options that these settings would ignore, and what they are for."""
        curved, solver = self.mode == "curvature", self.base in ("dpm", "dpmpp")
        rules = {
            "damping": (curved, "lml.mode=curvature"),
            "rank": (curved, "lml.mode=curvature"),
            "ritz": (curved and not self.rank, "lml.mode=curvature lml.rank=0"),
            "products": (curved and self.rank, "lml.mode=curvature with lml.rank= above 0"),
            "order": (solver, "lml.base=dpm and lml.base=dpmpp"),
            "lamb": (self.mode == "published", "lml.mode=published"),
            "kappa": (not curved, "lml.mode=stable and lml.mode=published"),
        }
        return {name: holds for name, (used, holds) in rules.items() if not used}

    @property
    def amount(self) -> float:
        """The strength in force."""
        return (0.1 if self.mode == "stable" else 1.0) if self.strength is None else self.strength

    def check_words(self, words: Mapping[str, object]) -> None:
        """Warn of `published`: at few steps its rounding noise can take over the picture."""
        if self.mode == "published" and self.amount > 0:
            warnings.warn(
                "lml.mode=published is its base solver plus rounding noise, which can take over at few steps or large "
                "pictures; lml.mode=stable is what it means without rounding",
                stacklevel=2,
            )

    def check(self, model: str, family: str) -> None:
        """Raise UsageError where the base cannot fit a family, before its weights load."""
        if family in bases.FLOW_FAMILIES + bases.OTHER_FAMILIES:
            bases.check_fit(self.base, bases.FLOW if family in bases.FLOW_FAMILIES else "noise")

    # --- a sampler ------------------------------------------------------------------------------------------------

    def schedule(self, steps: int, model: Model, shape: tuple[int, ...]) -> Schedule:
        """The base's own schedule, with the calls of Hessian products. Raises UsageError where the base does not fit.

        At strength 0 base=auto is the model's own sampler, whatever it is.
        """
        if self.amount == 0 and self.base == "auto":
            plain = model.sampler.schedule(steps, model, shape)
            return replace(plain, plan=Walk(Base(model.sampler, "ddim"), plain))
        base = bases.named(self.base, self.order, model)
        plain = base.sampler.schedule(steps, model, shape)
        walk = laid_out(base, plain)
        if self.mode == "curvature":
            walk = weighed(walk, self.damping)
        calls = tuple(each * (1 + self._products(walk, i)) for i, each in enumerate(plain.evaluations))
        return replace(plain, plan=walk, evaluations=calls)

    def entered(self, schedule: Schedule, index: int) -> tuple[Level, ...]:
        """The network calls of outer step `index` in a walk that begins there; at strength 0 a solver may warm up."""
        walk: Walk = schedule.plan
        warm: Any = getattr(walk.base.sampler, "entered", None) if self.amount == 0 else None
        return schedule.evaluations[index] if warm is None else warm(walk.schedule, index)

    def step(self, state: State, denoise: Denoise, ctx: Context) -> State:
        """The base's step, with its increment transformed; the term of this step goes into the state's memory."""
        walk: Walk = ctx.schedule.plan
        seen: list[Prediction] = []

        def noting(x: Tensor, level: Level) -> Prediction:
            seen.append(denoise(x, level))
            return seen[-1]

        plain = walk.base.sampler.step(state, noting, replace(ctx, schedule=walk.schedule))
        if self.amount == 0:
            return plain
        kept: Mapping[str, Any] = state.memory.get(MEMORY, {})
        bend = self._curved if self.mode == "curvature" else self._tilted
        change, kept = bend(walk, state, seen[0], plain.x, kept, denoise)
        x = plain.x if change is None else (plain.x + change).to(plain.x.dtype)
        return plain.replace(x=x, memory={**plain.memory, MEMORY: kept})

    def _acts(self, walk: Walk, index: int) -> bool:
        return self.freeze == 0 or walk.points[index].t < TRAINED * (1 - self.freeze)

    def _products(self, walk: Walk, index: int) -> int:
        """Hessian products of one step; where alpha is 0 the Hessian is the identity's."""
        curved = self.mode == "curvature" and self.amount > 0 and self._acts(walk, index)
        return self.rank if curved and walk.points[index].alpha > 0 else 0

    # --- the released transform -----------------------------------------------------------------------------------

    def _tilted(
        self, walk: Walk, state: State, told: Prediction, plain: Tensor, kept: Mapping[str, Any], denoise: Denoise
    ) -> tuple[Tensor | None, Mapping[str, Any]]:
        v, scale = _term(walk, state, told, plain)
        following = {"term": v}
        if not self._acts(walk, state.index):
            return None, following
        p: Tensor | None = kept.get("term")
        if self.mode == "stable":
            return scale * (transform.tilt(v, p, self.amount, self.kappa) - v), following
        return scale * self.amount * (transform.literal(v, p, self.lamb, self.kappa) - v), following

    # --- curvature ------------------------------------------------------------------------------------------------

    def _curved(
        self, walk: Walk, state: State, told: Prediction, plain: Tensor, kept: Mapping[str, Any], denoise: Denoise
    ) -> tuple[Tensor | None, Mapping[str, Any]]:
        here, there = walk.points[state.index : state.index + 2]
        eps = _float(told).eps
        history: tuple[Tensor, ...] = kept.get("eps", ())
        following = {"eps": (eps, *history[: 1 if self.ritz == "secant" else 0])}
        unit = self.amount * there.alpha * here.tau
        if not self._acts(walk, state.index) or here.alpha == 0:
            return None, following
        if self.rank:
            apply = partial(hessian_product, denoise, told, self.products)
            gain = partial(walk.gain, state.index, order=walk.orders[state.index] if history else 1)
            return unit * lanczos(apply, eps, self.rank, gain), following
        if not history:
            return None, following
        return unit * walk.weight(state.index, eps, history) * (history[0] - eps), following


def _term(walk: Walk, state: State, told: Prediction, plain: Tensor) -> tuple[Tensor, float]:
    """v and its scale in the step: x' = ratio x + scale v. eps for ddim, the velocity for euler, else the increment.

    (a', s' are the next level's) ddim: x' = a' x0 + s' eps; dpm: x' = (a'/a) x + N; dpmpp: x' = (s'/s) x + N.
    """
    here, there = walk.points[state.index : state.index + 2]
    match walk.base.kind:
        case "ddim":
            return _float(told).eps, there.sigma
        case "euler":
            return _float(told).flow, there.sigma - here.sigma
        case "dpm":
            return plain.float() - there.alpha / here.alpha * state.x.float(), 1.0
        case "dpmpp":
            return plain.float() - there.sigma / here.sigma * state.x.float(), 1.0


def _float(told: Prediction) -> Prediction:
    """The prediction in float32 or better: differences of predictions need it."""
    wide = torch.promote_types(told.raw.dtype, torch.float32)
    if told.raw.dtype == wide and told.x.dtype == wide:
        return told
    return Prediction(told.raw.to(wide), told.x.to(wide), told.level, told.type)
