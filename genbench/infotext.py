"""The text `parameters` that A1111, Forge, Civitai and their kin read from a picture.

    the prompt, as many lines as it has
    Negative prompt: the negative prompt
    Steps: 30, Sampler: DDIM, CFG scale: 5, Seed: 7, Size: 64x64, Model hash: 31768bfe48, Model: solids, ...

A value that holds a comma, a colon or a newline is written as a JSON string.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

LABELS: Mapping[str, str] = {
    "DDIMScheduler": "DDIM", "DDPMScheduler": "DDPM", "PNDMScheduler": "PLMS", "EulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler a", "HeunDiscreteScheduler": "Heun", "LMSDiscreteScheduler": "LMS",
    "KDPM2DiscreteScheduler": "DPM2", "KDPM2AncestralDiscreteScheduler": "DPM2 a", "LCMScheduler": "LCM",
    "DPMSolverMultistepScheduler": "DPM++ 2M", "DPMSolverSinglestepScheduler": "DPM++ SDE",
    "UniPCMultistepScheduler": "UniPC", "FlowMatchEulerDiscreteScheduler": "Euler",
    "euler": "Euler", "euler_a": "Euler a", "heun": "Heun", "lms": "LMS", "ddim": "DDIM", "ddpm": "DDPM",
    "pndm": "PLMS", "dpm2": "DPM2", "dpm2_a": "DPM2 a", "dpmpp_2m": "DPM++ 2M", "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_sde": "DPM++ SDE", "unipc": "UniPC", "lcm": "LCM",
}  # fmt: skip
"""Labels of those tools for diffusers' class names and our short names."""
SCHEDULES = {"_karras": "Karras", "_exponential": "Exponential", "_beta": "Beta", "_sgm_uniform": "SGM Uniform"}


def infotext(prompt: str, negative_prompt: str, settings: Mapping[str, object]) -> str:
    """Return the text; settings without a value (None, empty) are left out."""
    negative = f"\nNegative prompt: {negative_prompt}" if negative_prompt else ""
    last = ", ".join(f"{key}: {quoted(value)}" for key, value in settings.items() if value not in (None, ""))
    return f"{prompt}{negative}\n{last}".strip()


def quoted(value: object) -> str:
    """Return a value as the last line holds it."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text


def sampler_labels(name: str) -> tuple[str, str | None]:
    """Return (`Sampler`, `Schedule type`) for a sampler's name; unknown names stay as they are."""
    solver, schedule = name, None
    for suffix, label in SCHEDULES.items():
        if name.endswith(suffix):
            solver, schedule = name.removesuffix(suffix), label
    return LABELS.get(solver, solver), schedule
