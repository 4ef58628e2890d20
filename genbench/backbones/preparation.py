"""After loading: adapters, attention backend, step cache, device, offload, compilation; and what is refused before."""

# pyright: basic
# diffusers, transformers and JSON carry no types here; they stop at this module's own signatures.

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from genbench.backbones import adapter_class
from genbench.backbones.caches import cache_config
from genbench.backbones.lora import with_lora
from genbench.errors import MissingDependency, ModelError, UsageError, did_you_mean

if TYPE_CHECKING:
    from genbench.backbones.base import PipelineModel

OFFLOADS = ("model", "sequential")


@dataclass(frozen=True)
class LoraWord:
    """One `path:scale`."""

    source: str
    scale: float = 1.0


def parse_lora(text: str) -> LoraWord:
    """Read `path`, `path:0.8` or `org/name:0.8`. Raises UsageError for a scale that is no number."""
    source, colon, scale = text.rpartition(":")
    if not colon:
        return LoraWord(text)
    try:
        return LoraWord(source, finite(scale))
    except ValueError:
        if Path(text).exists():
            return LoraWord(text)
        raise UsageError(f"lora='{text}': '{scale}' is no number; write lora={source}:0.8") from None


def finite(text: str) -> float:
    """Read a finite number. Raises ValueError."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def check_options(
    attention: str | None, offload: str | None, cache: str | None, lora: Sequence[str], device: torch.device
) -> None:
    """Refuse what cannot work on this machine. Raises UsageError, MissingDependency or ModelError."""
    if attention is not None:
        _check_attention(attention, device)
    if offload is not None and offload not in OFFLOADS:
        raise UsageError(f"offload='{offload}' is not known{did_you_mean(offload, OFFLOADS)}")
    if offload is not None and device.type == "cpu":
        raise UsageError(f"offload={offload} moves parts to an accelerator and there is none; leave it out")
    if cache is not None:
        cache_config(cache)
    for text in lora:
        _check_lora(parse_lora(text))


def _check_attention(name: str, device: torch.device) -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName

    known = [backend.value for backend in AttentionBackendName]
    if name not in known:
        raise UsageError(f"attention='{name}' is not known{did_you_mean(name, known)}")
    if name.endswith("_hub"):
        raise UsageError(f"attention={name} downloads code at run time, which is never done; use native or xformers")
    if not name.lstrip("_").startswith(("native", "flex")) and device.type != "cuda":
        raise UsageError(f"attention={name} has no operator for {device.type}; leave it out or use device=cuda")
    if name == "xformers" and importlib.util.find_spec("xformers") is None:
        raise MissingDependency("attention=xformers needs xformers; install it: pip install 'genbench[xformers]'")


def _check_lora(lora: LoraWord) -> None:
    from genbench.backbones.lora import location

    if importlib.util.find_spec("peft") is None:
        raise MissingDependency("lora= needs peft; install it with: pip install peft")
    location(lora.source)


def check_family(pipeline_class: str, cache: str | None, lora: Sequence[str], true_cfg: float = 1.0) -> None:
    """Refuse options that a family cannot honour, before its weights load. Raises ModelError."""
    family = adapter_class(pipeline_class)
    if cache is not None and not family.step_caches:
        raise ModelError(f"cache={cache}: diffusers has no step cache for {family.family}; families with one: flux")
    if true_cfg != 1.0 and family.family != "flux":
        raise ModelError(f"true_cfg={true_cfg} is FLUX's second guidance; {family.family} has guidance_scale alone")
    if lora and not family.lora_loader:
        raise ModelError(f"diffusers loads no LoRA for {family.family}; families that take one: sd, sdxl, sd3, flux")


def prepared(
    model: PipelineModel,
    device: torch.device,
    *,
    lora: Sequence[LoraWord] = (),
    attention: str | None = None,
    offload: str | None = None,
    cache: str | None = None,
    compile: bool = False,
    local_only: bool = False,
) -> PipelineModel:
    """Return a freshly loaded model with its adapters, on its device; nothing else holds its modules yet."""
    pipeline = model.pipeline
    pipeline.set_progress_bar_config(disable=True)
    for adapter in lora:
        pipeline = with_lora(pipeline, adapter.source, adapter.scale, local_only)
    network = getattr(pipeline, model.network_name)
    if cache is not None:
        network.enable_cache(cache_config(cache))
    if attention is not None:
        _set_attention(network, attention, model.family)
    _place(pipeline, device, offload)
    if compile:
        network.compile()
    return replace(model, pipeline=pipeline, device=pipeline._execution_device, local_only=local_only)


def _place(pipeline: Any, device: torch.device, offload: str | None) -> None:
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)


def _set_attention(network: Any, name: str, family: str) -> None:
    """Through diffusers' dispatcher where the network's processors use it, else xformers' own switch."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    processors = list(getattr(network, "attn_processors", {}).values())
    if any(hasattr(processor, "_attention_backend") for processor in processors):
        before = _AttentionBackendRegistry._active_backend
        network.set_attention_backend(name)
        # diffusers also makes it the default of every other model in the process.
        _AttentionBackendRegistry._active_backend = before
    elif name == "xformers":
        network.enable_xformers_memory_efficient_attention()
    elif name != "native":
        raise ModelError(f"attention={name}: the network of {family} takes only native or xformers")
