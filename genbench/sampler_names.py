"""Names of samplers: short names, diffusers class names and A1111 labels, without importing torch.

All three spellings meet in one normal form: `DPM++ 2M Karras`, `dpmpp_2m_karras` and `DPMpp-2M karras` are the same
word. A schedule suffix (`_karras`, `_exponential`, `_beta`, `_trailing`) goes with every solver that walks sigmas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from genbench.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class SamplerName:
    """One resolved name: the diffusers scheduler class and the settings that the name stands for.

    `flow_class` serves the same name on rectified-flow models ("" where the solver has no flow form).
    """

    scheduler: str
    overrides: Mapping[str, object] = field(default_factory=dict[str, object])
    flow_class: str = ""


MULTISTEP = "DPMSolverMultistepScheduler"
PLUS_PLUS = {"algorithm_type": "dpmsolver++"}
NOISE = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
"""The first DPM-Solver, in the noise prediction; it cannot end at sigma = 0."""

SHORT: Mapping[str, SamplerName] = {
    "ddim": SamplerName("DDIMScheduler"),
    "ddpm": SamplerName("DDPMScheduler"),
    "pndm": SamplerName("PNDMScheduler"),
    "plms": SamplerName("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": SamplerName("EulerDiscreteScheduler", flow_class="FlowMatchEulerDiscreteScheduler"),
    "euler_a": SamplerName("EulerAncestralDiscreteScheduler"),
    "heun": SamplerName("HeunDiscreteScheduler", flow_class="FlowMatchHeunDiscreteScheduler"),
    "lms": SamplerName("LMSDiscreteScheduler"),
    "dpm2": SamplerName("KDPM2DiscreteScheduler"),
    "dpm2_a": SamplerName("KDPM2AncestralDiscreteScheduler"),
    "dpm_1m": SamplerName(MULTISTEP, {"solver_order": 1, **NOISE}),
    "dpm_2m": SamplerName(MULTISTEP, {"solver_order": 2, **NOISE}),
    "dpm_3m": SamplerName(MULTISTEP, {"solver_order": 3, **NOISE}),
    "dpmpp_1m": SamplerName(MULTISTEP, {"solver_order": 1, **PLUS_PLUS}, MULTISTEP),
    "dpmpp_2m": SamplerName(MULTISTEP, {"solver_order": 2, **PLUS_PLUS}, MULTISTEP),
    "dpmpp_3m": SamplerName(MULTISTEP, {"solver_order": 3, **PLUS_PLUS}, MULTISTEP),
    "dpmpp_2m_sde": SamplerName(MULTISTEP, {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_sde": SamplerName("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2s": SamplerName("DPMSolverSinglestepScheduler", {"solver_order": 2, **PLUS_PLUS}),
    "deis": SamplerName("DEISMultistepScheduler"),
    "unipc": SamplerName("UniPCMultistepScheduler", flow_class="UniPCMultistepScheduler"),
    "lcm": SamplerName("LCMScheduler"),
    "tcd": SamplerName("TCDScheduler"),
}

CLASSES: tuple[str, ...] = (
    *dict.fromkeys(name.scheduler for name in SHORT.values()),
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
)

ALIASES: Mapping[str, str] = {
    "euler_ancestral": "euler_a",
    "k_euler": "euler",
    "k_euler_a": "euler_a",
    "k_heun": "heun",
    "k_lms": "lms",
    "dpm_2": "dpm2",
    "dpm_2_a": "dpm2_a",
    "dpm_2_ancestral": "dpm2_a",
    "uni_pc": "unipc",
    "dpmpp2m": "dpmpp_2m",
    "dpm_solver": "dpmpp_2m",
}

SUFFIXES: Mapping[str, Mapping[str, object]] = {
    "_karras": {"use_karras_sigmas": True},
    "_exponential": {"use_exponential_sigmas": True},
    "_beta": {"use_beta_sigmas": True},
    "_trailing": {"timestep_spacing": "trailing"},
    "_sgm_uniform": {"timestep_spacing": "trailing"},
    "_simple": {"timestep_spacing": "trailing"},
}

WITHOUT_SIGMAS = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LCMScheduler", "TCDScheduler")
"""Schedulers that walk training timesteps: Karras and its kin do not apply, trailing spacing does."""

SAMPLERS: tuple[str, ...] = (*SHORT, "dpmpp_2m_karras", "dpmpp_2m_sde_karras", *CLASSES)
"""The names to show a user; suffixes multiply them."""


def normalised(word: str) -> str:
    """Return the one spelling of a sampler's name: lower case, `++` as `pp`, everything else `_`."""
    return re.sub(r"[^a-z0-9]+", "_", word.lower().replace("++", "pp")).strip("_")


def sampler_name(word: str) -> SamplerName:
    """Resolve a sampler's name. Raises UsageError with the nearest known name."""
    by_class = {normalised(name): name for name in CLASSES}
    key = normalised(word)
    if key in by_class:
        flow = by_class[key] if by_class[key].startswith("FlowMatch") else ""
        return SamplerName(by_class[key], flow_class=flow)
    solver, extra = _split(key)
    known = SHORT.get(ALIASES.get(solver, solver))
    if known is None:
        raise UsageError(f"sampler='{word}' is not known{did_you_mean(word, SAMPLERS)}")
    if known.scheduler in WITHOUT_SIGMAS and any(name.startswith("use_") for name in extra):
        raise UsageError(f"sampler='{word}': {solver} walks timesteps and has no such schedule; use sampler={solver}")
    return SamplerName(known.scheduler, {**known.overrides, **extra}, known.flow_class)


def _split(key: str) -> tuple[str, Mapping[str, object]]:
    for suffix, overrides in SUFFIXES.items():
        if key.endswith(suffix):
            return key.removesuffix(suffix), overrides
    return key, {}
