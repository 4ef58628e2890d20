"""One adapter file per diffusers family, and the toy model. `adapt` finds the adapter of a loaded pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genbench.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    from genbench.backbones.base import PipelineModel
    from genbench.kinds import Ledger, Model

ADAPTERS: Mapping[str, str] = {
    "StableDiffusionPipeline": "sd:StableDiffusionModel",
    "StableDiffusionXLPipeline": "sdxl:StableDiffusionXLModel",
    "PixArtAlphaPipeline": "pixart:PixArtAlphaModel",
    "PixArtSigmaPipeline": "pixart:PixArtModel",
    "HunyuanDiTPipeline": "hunyuan:HunyuanModel",
    "StableDiffusion3Pipeline": "sd3:StableDiffusion3Model",
    "FluxPipeline": "flux:FluxModel",
    "DDPMPipeline": "unconditional:UnconditionalModel",
    "DDIMPipeline": "unconditional:UnconditionalModel",
}
"""diffusers pipeline class -> module and class of its adapter, imported when a model of that family is opened."""

NETWORKS = ("unet", "transformer", "network")
"""How the families, and the toy, call their denoising network."""


def network_name(model: Model) -> str | None:
    """What a model calls its denoising network; None where that is not known."""
    return next((name for name in NETWORKS if name in model.modules), None)


def adapter_class(pipeline_class: str) -> type[PipelineModel]:
    """Return the adapter of a diffusers pipeline class by name. Raises ModelError naming the supported ones."""
    if pipeline_class not in ADAPTERS:
        raise ModelError(f"pipeline {pipeline_class} is not supported{did_you_mean(pipeline_class, ADAPTERS)}")
    module, _, name = ADAPTERS[pipeline_class].partition(":")
    return getattr(import_module(f"genbench.backbones.{module}"), name)


def adapt(pipeline: Any, ledger: Ledger, files: tuple[Path, ...] = ()) -> PipelineModel:
    """Return a loaded diffusers pipeline as a `kinds.Model` that counts in `ledger`."""
    return adapter_class(type(pipeline).__name__).from_pipeline(pipeline, ledger, files)
