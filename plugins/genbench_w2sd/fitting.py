"""Whether a weak model walks the same latents on the same noise levels as the strong one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genbench.errors import ModelError
from genbench.kinds import Model

SCALINGS = ("scaling_factor", "shift_factor")


def check_fit(strong: Model, weak: Model, height: int, width: int) -> None:
    """Raise ModelError where the models' latents or noise schedules differ.

    Epsilon, v and sample prediction convert into each other on one schedule and may be mixed; flow may not.
    """
    said = f"weak_model={weak.name or weak.family} does not go with model={strong.name or strong.family}"
    shapes = [tuple(model.latent_shape(height, width)) for model in (strong, weak)]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"{said}: its latents are {_by(shapes[1])}, not {_by(shapes[0])}; give one of the same latents"
        )
    scalings = [_scaling(model) for model in (strong, weak)]
    if scalings[0] != scalings[1]:
        raise ModelError(f"{said}: its autoencoder scales latents by {scalings[1]}, not {scalings[0]}")
    flows = [model.prediction_type == "flow_prediction" for model in (strong, weak)]
    if flows[0] != flows[1]:
        raise ModelError(f"{said}: it predicts {weak.prediction_type}, not {strong.prediction_type}")
    if not flows[0] and not _alike(_noise(strong), _noise(weak)):
        raise ModelError(f"{said}: its noise schedule is another one; a pair shares its noise levels")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _scaling(model: Model) -> tuple[object, ...]:
    """What turns the autoencoder's latents into the network's; empty where there is no autoencoder."""
    config: Any = getattr(model.modules.get("vae"), "config", None)
    return () if config is None else tuple(config.get(name) for name in SCALINGS)


def _noise(model: Model) -> Tensor | None:
    """alpha-bar of every training timestep, where the model's scheduler has them."""
    return getattr(getattr(model.sampler, "scheduler", None), "alphas_cumprod", None)


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and torch.allclose(one.cpu(), other.cpu(), rtol=1e-3, atol=1e-6)
