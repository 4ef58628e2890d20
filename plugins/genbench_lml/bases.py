"""The solvers that are corrected: which one a model walks, and how its steps respond to Gaussian data."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from genbench.errors import UsageError
from genbench.kinds import Model, Sampler, Schedule
from genbench.schedulers import SchedulerSampler, named_sampler, scheduler_prediction_type
from genbench_lml.curvature import data_gain, secant_gain

Kind = Literal["ddim", "dpm", "dpmpp", "euler"]
FLOW = "flow_prediction"
FLOW_FAMILIES, OTHER_FAMILIES = ("sd3", "flux"), ("pixart", "hunyuan", "unconditional")
"""Families that are of one kind for certain; checkpoints of the others may have been trained either way."""
MULTISTEP: dict[str, Kind] = {"dpmsolver": "dpm", "dpmsolver++": "dpmpp"}


@dataclass(frozen=True)
class Base:
    """A sampler that calls the network once a step, and which solver it is."""

    sampler: Sampler
    kind: Kind
    order: int = 1


@dataclass(frozen=True)
class Point:
    """One level in plain numbers; tau = sigma / alpha, inf at alpha = 0."""

    alpha: float
    sigma: float
    t: float

    @property
    def tau(self) -> float:
        return math.inf if self.alpha == 0 else self.sigma / self.alpha


def points(schedule: Schedule) -> tuple[Point, ...]:
    return tuple(Point(float(level.alpha), float(level.sigma), float(level.t)) for level in schedule.levels)


def own(model: Model) -> Base | None:
    """Return the model's own sampler where it is a deterministic solver of a kind that can be corrected, else None."""
    sampler = model.sampler
    if not isinstance(sampler, SchedulerSampler):
        return None
    config: Any = sampler.scheduler.config
    match type(sampler.scheduler).__name__:
        case "DDIMScheduler" if sampler.eta == 0:
            return Base(sampler, "ddim")
        case "FlowMatchEulerDiscreteScheduler" if not config.get("stochastic_sampling", False):
            return Base(sampler, "euler")
        case "DPMSolverMultistepScheduler" if config.algorithm_type in MULTISTEP and config.solver_type == "midpoint":
            return Base(sampler, MULTISTEP[config.algorithm_type], int(config.solver_order))
        case _:
            return None


def named(word: str, order: int, model: Model) -> Base:
    """Return the solver `word` (auto, or a Kind) on the model's own noise schedule.

    Raises UsageError where it does not fit the model's prediction type, or where the model has no noise schedule.
    """
    scheduler = getattr(model.sampler, "scheduler", None)
    if scheduler is None:
        raise UsageError(f"lml needs a model with a diffusers noise schedule; model={model.name} brings none")
    predicts = scheduler_prediction_type(scheduler)
    if word == "auto":
        return own(model) or named("euler" if predicts == FLOW else "ddim", order, model)
    check_fit(word, predicts)
    name = {"dpm": f"dpm_{order}m", "dpmpp": f"dpmpp_{order}m"}.get(word, word)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers will drop algorithm_type=dpmsolver one day
        sampler = named_sampler(name, scheduler)
    return Base(sampler, word, order if word in MULTISTEP.values() else 1)  # type: ignore[arg-type]


def check_fit(word: str, predicts: str) -> None:
    """Raise UsageError where the solver does not walk what a model of this prediction type was trained on."""
    if predicts == FLOW and word in ("ddim", "dpm"):
        raise UsageError(f"lml.base={word} does not fit a rectified-flow model; write lml.base=euler or lml.base=dpmpp")
    if predicts != FLOW and word == "euler":
        raise UsageError(f"lml.base=euler walks rectified flow and this model predicts {predicts}; write lml.base=ddim")


def orders(base: Base, steps: int) -> tuple[int, ...]:
    """The order that diffusers gives each step once earlier predictions are there; the first step has order 1."""
    if base.kind in ("ddim", "euler"):
        return (1,) * steps
    config = base.sampler.scheduler.config  # type: ignore[attr-defined]
    short = config.lower_order_final and steps < 15
    ends = config.euler_at_final or short or config.final_sigmas_type == "zero"
    allowed = [base.order] * steps
    if short and steps > 1:
        allowed[-2] = min(base.order, 2)
    if ends:
        allowed[-1] = 1
    return tuple(min(order, i + 1) for i, order in enumerate(allowed))


def base_gain(j: Tensor, kind: Kind, order: int, r: float, ratio: float) -> Tensor:
    """What a step of this order adds to DDIM's along an eigendirection j, in units of tau eps.

    Second order, midpoint: dpm adds (1 - r) k (psi - 1) from its eps, dpmpp (1 - r) k Delta from its x0, with
    k = h / (2 h_before), h = ln(1 / r), h_before = ln ratio (arXiv:2206.00927, arXiv:2211.01095).
    """
    if order == 1 or r == 0 or math.isinf(ratio):
        return torch.zeros_like(j)
    weight = (1 - r) * -math.log(r) / (2 * math.log(ratio))
    return weight * (secant_gain(j, ratio) - 1 if kind == "dpm" else data_gain(j, ratio))
