"""Any supported diffusers scheduler as a pure `Sampler`.

diffusers' schedulers keep hidden state: a step counter, lists of earlier outputs, the sample of a half-finished Heun
step. Here a step copies the scheduler shallowly, puts the state's own memory in, takes the stock step and takes the
memory out again. The arithmetic is diffusers' own, so a walk is bit-equal to the stock pipeline's.
"""

# pyright: basic
# diffusers' schedulers carry no types; they stop at this module's own signatures.

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import diffusers
import torch
from torch import Tensor

from genbench import streams
from genbench.errors import UsageError
from genbench.kinds import Context, Denoise, Level, Model, PredictionType, Schedule, State
from genbench.sampler_names import SAMPLERS, sampler_name

__all__ = ["SAMPLERS", "SchedulerSampler", "named_sampler"]

Walk = Literal["timestep", "sigma", "exploding", "flow"]
Grouping = Literal["single", "pairs", "pndm"]


@dataclass(frozen=True)
class Traits:
    """What must be known of one scheduler class: how its levels are read, what it remembers, how entries group.

    `memory` names the attributes that live from one outer step to the next.
    """

    walk: Walk
    memory: tuple[str, ...] = ()
    grouping: Grouping = "single"


MULTISTEP = ("model_outputs", "lower_order_nums")
TRAITS: Mapping[str, Traits] = {
    "DDIMScheduler": Traits("timestep"),
    "DDPMScheduler": Traits("timestep"),
    "LCMScheduler": Traits("timestep"),
    "TCDScheduler": Traits("timestep"),
    "PNDMScheduler": Traits("timestep", ("ets", "counter", "cur_model_output", "cur_sample"), "pndm"),
    "DPMSolverMultistepScheduler": Traits("sigma", MULTISTEP),
    "DPMSolverSinglestepScheduler": Traits("sigma", ("model_outputs", "sample")),
    "DEISMultistepScheduler": Traits("sigma", MULTISTEP),
    "UniPCMultistepScheduler": Traits("sigma", (*MULTISTEP, "timestep_list", "last_sample", "this_order")),
    "EulerDiscreteScheduler": Traits("exploding"),
    "EulerAncestralDiscreteScheduler": Traits("exploding"),
    "LMSDiscreteScheduler": Traits("exploding", ("derivatives",)),
    "HeunDiscreteScheduler": Traits("exploding", grouping="pairs"),
    "KDPM2DiscreteScheduler": Traits("exploding", grouping="pairs"),
    "KDPM2AncestralDiscreteScheduler": Traits("exploding", grouping="pairs"),
    "FlowMatchEulerDiscreteScheduler": Traits("flow"),
    "FlowMatchHeunDiscreteScheduler": Traits("flow", grouping="pairs"),
}

LMS_ORDER = 4


@dataclass(frozen=True)
class Plan:
    """A scheduler with its timesteps set (never stepped itself), one level per network call, calls per outer step."""

    scheduler: Any
    levels: tuple[Level, ...]
    groups: tuple[tuple[int, ...], ...]

    @property
    def traits(self) -> Traits:
        return TRAITS[type(self.scheduler).__name__]

    def entries(self, state: State) -> tuple[int, ...]:
        """Return the network calls of outer step `state.index`; PNDM needs its first two wherever it starts."""
        group = self.groups[state.index]
        fresh = self.traits.grouping == "pndm" and "counter" not in state.memory and state.index > 0
        if not fresh:
            return group
        if not self.scheduler.config.skip_prk_steps:
            raise UsageError("PNDM with a Runge-Kutta start cannot begin midway; use sampler=plms or sampler=ddim")
        return tuple(entry for entry in (group[0], group[0] + 1) if entry < len(self.levels))


@dataclass(frozen=True)
class SchedulerSampler:
    """A diffusers scheduler as a `Sampler`: the same numbers, no hidden state, usable with gradients.

    `eta` in [0, 1] is DDIM's and TCD's share of fresh noise. Raises UsageError for a scheduler class that is not in
    `TRAITS` or a setting that a pure step cannot honour.
    """

    scheduler: Any
    eta: float = 0.0

    def __post_init__(self) -> None:
        _check_supported(self.scheduler)

    @property
    def prediction_type(self) -> PredictionType:
        """The convention in which this scheduler wants the network's output."""
        return scheduler_prediction_type(self.scheduler)

    def schedule(self, steps: int, model: Model, shape: tuple[int, ...]) -> Schedule:
        """Return the levels of `steps` outer steps; some schedulers round the number (`len(evaluations)` tells)."""
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(**_timestep_arguments(scheduler, steps, model, shape), device=model.device)
        scheduler.is_scale_input_called = True
        traits = TRAITS[type(scheduler).__name__]
        levels = tuple(_level(scheduler, traits.walk, entry) for entry in range(len(scheduler.timesteps)))
        groups = _groups(scheduler, traits.grouping)
        outer = [levels[group[0]] for group in groups]
        return Schedule(
            levels=(*outer, _last_level(scheduler, traits.walk)),
            evaluations=tuple(tuple(levels[entry] for entry in group) for group in groups),
            init_scale=getattr(scheduler, "init_noise_sigma", 1.0),
            plan=Plan(scheduler, levels, groups),
        )

    def entered(self, schedule: Schedule, index: int) -> tuple[Level, ...]:
        """Return the levels of the network calls of outer step `index` in a walk that begins there."""
        plan: Plan = schedule.plan
        return tuple(plan.levels[entry] for entry in plan.entries(State(schedule.levels[index].t, index)))

    def step(self, state: State, denoise: Denoise, ctx: Context) -> State:
        """Take outer step `state.index`; `state.memory["step_noise"]` (b, steps, ...) replaces the sampler's draws."""
        plan: Plan = ctx.schedule.plan
        scheduler = _resumed(plan, state)
        opened = streams.generators(state.rng) if _draws(scheduler, self.eta) else []
        x = state.x
        for entry in plan.entries(state):
            prediction = denoise(x, plan.levels[entry]).to(self.prediction_type)
            scheduler._step_index = entry
            arguments = _step_arguments(scheduler, state, opened, self.eta)
            t = scheduler.timesteps[entry]
            x = scheduler.step(prediction, t, x, return_dict=False, **arguments)[0]
        rng = streams.states(opened) if opened else state.rng
        return State(x, state.index + 1, _remembered(plan, scheduler, state), rng)


def named_sampler(word: str, base_scheduler: Any, eta: float = 0.0) -> SchedulerSampler:
    """Return the sampler `word` names, on the noise schedule of `base_scheduler` (the model's own).

    Raises UsageError where the name is unknown or does not fit the model (a flow solver on a diffusion model).
    """
    name = sampler_name(word)
    flow = scheduler_prediction_type(base_scheduler) == "flow_prediction"
    if flow and not name.flow_class:
        raise UsageError(f"sampler='{word}' does not walk rectified flow; use euler, heun, dpmpp_2m or unipc")
    if not flow and name.scheduler.startswith("FlowMatch"):
        raise UsageError(f"sampler='{word}' needs a rectified-flow model; use sampler=euler for this one")
    scheduler_class = getattr(diffusers, name.flow_class if flow else name.scheduler)
    overrides = {**name.overrides, **(_flow_overrides(scheduler_class, base_scheduler, word) if flow else {})}
    return SchedulerSampler(scheduler_class.from_config(dict(base_scheduler.config), **overrides), eta)


def scheduler_prediction_type(scheduler: Any) -> PredictionType:
    """Return what a scheduler expects of the network; flow-matching schedulers do not say it in their config."""
    if type(scheduler).__name__.startswith("FlowMatch"):
        return "flow_prediction"
    return scheduler.config.get("prediction_type", "epsilon")


# --- schedule -----------------------------------------------------------------------------------------------------


def _timestep_arguments(scheduler: Any, steps: int, model: Model, shape: tuple[int, ...]) -> dict[str, Any]:
    family = getattr(model, "timestep_arguments", None)
    return dict(family(scheduler, steps, shape)) if family else {"num_inference_steps": steps}


def _groups(scheduler: Any, grouping: Grouping) -> tuple[tuple[int, ...], ...]:
    entries = len(scheduler.timesteps)
    match grouping:
        case "single":
            return tuple((entry,) for entry in range(entries))
        case "pairs":
            return tuple(tuple(range(entry, min(entry + 2, entries))) for entry in range(0, entries, 2))
        case "pndm":
            warm = [(0, 1)] if entries > 1 else [(0,)]
            if not scheduler.config.skip_prk_steps:
                warm = [tuple(range(first, first + 4)) for first in range(0, len(scheduler.prk_timesteps), 4)]
            start = sum(len(group) for group in warm)
            return (*warm, *((entry,) for entry in range(start, entries)))


def _level(scheduler: Any, walk: Walk, entry: int) -> Level:
    t = scheduler.timesteps[entry]
    if walk == "timestep":
        return _timestep_level(t, scheduler.alphas_cumprod[int(t)])
    second = hasattr(scheduler, "sigmas_interpol") and entry % 2 == 1
    if second:
        ancestral = type(scheduler).__name__ == "KDPM2AncestralDiscreteScheduler"
        return _sigma_level(scheduler, walk, t, scheduler.sigmas_interpol[entry - 1 if ancestral else entry])
    return _sigma_level(scheduler, walk, t, scheduler.sigmas[entry])


def _last_level(scheduler: Any, walk: Walk) -> Level:
    zero = torch.zeros_like(scheduler.timesteps[-1])
    if walk != "timestep":
        return _sigma_level(scheduler, walk, zero, scheduler.sigmas[-1])
    return _timestep_level(zero, _last_alpha_cumprod(scheduler))


def _last_alpha_cumprod(scheduler: Any) -> Tensor:
    """alpha-bar after the last step: DDIM and PNDM stop one stride below the last timestep, the others at x0."""
    name = type(scheduler).__name__
    if name in ("DDPMScheduler", "LCMScheduler"):
        return torch.tensor(1.0)
    if name == "TCDScheduler":
        return scheduler.alphas_cumprod[0]
    previous = int(scheduler.timesteps[-1]) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    return scheduler.alphas_cumprod[previous] if previous >= 0 else scheduler.final_alpha_cumprod


def _timestep_level(t: Tensor, alpha_cumprod: Tensor) -> Level:
    return Level(t, alpha_cumprod**0.5, (1 - alpha_cumprod) ** 0.5)


def _sigma_level(scheduler: Any, walk: Walk, t: Tensor, sigma: Tensor) -> Level:
    match walk:
        case "flow":
            return Level(t, 1 - sigma, sigma)
        case "exploding":
            return Level(t, torch.ones_like(sigma), sigma, (sigma**2 + 1) ** 0.5)
        case _:
            alpha, sigma = scheduler._sigma_to_alpha_sigma_t(sigma)
            return Level(t, alpha, sigma)


# --- one step -----------------------------------------------------------------------------------------------------


def _resumed(plan: Plan, state: State) -> Any:
    scheduler = copy.copy(plan.scheduler)
    for name in plan.traits.memory:
        if name in state.memory or hasattr(scheduler, name):
            value = state.memory.get(name, getattr(scheduler, name, None))
            setattr(scheduler, name, list(value) if isinstance(value, list) else value)
    return scheduler


def _remembered(plan: Plan, scheduler: Any, state: State) -> dict[str, Any]:
    memory = {name: getattr(scheduler, name) for name in plan.traits.memory if hasattr(scheduler, name)}
    return {**memory, "step_noise": state.memory["step_noise"]} if "step_noise" in state.memory else memory


def _draws(scheduler: Any, eta: float) -> bool:
    name = type(scheduler).__name__
    if name in ("DDIMScheduler", "TCDScheduler"):
        return eta > 0
    ancestral = ("DDPMScheduler", "LCMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler")
    sde = str(scheduler.config.get("algorithm_type", "")).startswith("sde")
    return name in ancestral or sde or bool(scheduler.config.get("stochastic_sampling", False))


def _step_arguments(scheduler: Any, state: State, opened: list[torch.Generator], eta: float) -> dict[str, Any]:
    accepted = inspect.signature(type(scheduler).step).parameters
    arguments: dict[str, Any] = {"eta": eta} if "eta" in accepted else {}
    if "step_noise" in state.memory:
        honoured = bool(opened) and "variance_noise" in accepted
        return {**arguments, "variance_noise": _prescribed(scheduler, state, honoured)}
    if opened:
        arguments["generator"] = opened
    if type(scheduler).__name__ == "LMSDiscreteScheduler":
        # With fewer derivatives than steps taken (a walk begun in the middle) the full order would not sum to dt.
        arguments["order"] = min(LMS_ORDER, len(scheduler.derivatives) + 1)
    return arguments


def _prescribed(scheduler: Any, state: State, honoured: bool) -> Tensor:
    if not honoured:
        raise UsageError(
            f"{type(scheduler).__name__} cannot take prescribed step noise; use sampler=ddim with eta above 0 or "
            "sampler=dpmpp_2m_sde"
        )
    return state.memory["step_noise"][:, state.index]


# --- what is refused ----------------------------------------------------------------------------------------------


def _check_supported(scheduler: Any) -> None:
    name = type(scheduler).__name__
    if name not in TRAITS:
        raise UsageError(f"{name} is not a supported scheduler; there is {', '.join(sorted(TRAITS))}")
    if name == "UniPCMultistepScheduler" and scheduler.config.solver_p is not None:
        raise UsageError("UniPC with a second solver (solver_p) keeps state of its own; use it without solver_p")
    if name == "DDPMScheduler" and str(scheduler.config.variance_type).startswith("learned"):
        raise UsageError("DDPM with a learned variance is not supported; use sampler=ddim or variance_type=fixed_large")


def _flow_overrides(scheduler_class: type, base: Any, word: str) -> dict[str, object]:
    """Settings that carry a flow-matching schedule over to another solver; `shift` is the resolution shift."""
    name = scheduler_class.__name__
    dynamic = bool(base.config.get("use_dynamic_shifting", False))
    if name == "FlowMatchHeunDiscreteScheduler" and dynamic:
        raise UsageError(f"sampler='{word}' cannot shift with the resolution as this model needs; use euler or unipc")
    if name.startswith("FlowMatch"):
        return {}
    shift = base.config.get("shift", base.config.get("flow_shift", 1.0))
    return {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
