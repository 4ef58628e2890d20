"""LoRA as a view: the module tree is copied, the weights are shared, the adapter is injected into the copy alone."""

# pyright: basic
# diffusers, transformers and JSON carry no types here; they stop at this module's own signatures.

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from genbench.backbones.base import with_modules
from genbench.backbones.caches import sharing_copy
from genbench.backbones.folders import PICKLES, check_safetensors
from genbench.errors import MissingDependency, ModelError


def with_lora(pipeline: Any, source: str, scale: float, local_only: bool = False) -> Any:
    """Return a pipeline that shares `pipeline`'s weights and adds the LoRA `source` (file, folder or Hub id).

    Raises ModelError naming what is missing or does not fit, MissingDependency without peft.
    """
    clone = with_modules(pipeline, {name: sharing_copy(module) for name, module in _adapted(pipeline).items()})
    name = f"lora{len(_adapters(clone))}"
    where = {"adapter_name": name, "local_files_only": local_only, "use_safetensors": True}
    try:
        with warnings.catch_warnings():
            # Several adapters on one network are what is asked for.
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
            clone.load_lora_weights(location(source), **where)
    except ImportError as error:
        raise MissingDependency("lora= needs peft; install it with: pip install peft") from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"lora='{source}' cannot be loaded ({str(error).splitlines()[0]})") from error
    if name not in _adapters(clone):
        raise ModelError(f"lora='{source}' has no weights for this model; check that it was made for this family")
    clone.set_adapters([*_adapters(pipeline), name], [*_scales(pipeline), scale])
    clone._genbench_lora_scales = (*_scales(pipeline), scale)
    return clone


def location(source: str) -> str:
    """Return where diffusers finds a LoRA. Raises ModelError for a pickle, a truncated or a missing file."""
    path = Path(source)
    if path.suffix in PICKLES:
        raise ModelError(f"lora='{source}' is a pickle, which can run code; convert it to .safetensors")
    local = path.is_absolute() or source.startswith(".") or path.suffix == ".safetensors"
    if local and not path.exists():
        raise ModelError(f"lora='{source}' does not exist; give a .safetensors file, a folder or a Hub id")
    if path.is_file():
        check_safetensors(path)
    return source


def _adapted(pipeline: Any) -> dict[str, nn.Module]:
    names = pipeline._lora_loadable_modules
    parts = {name: getattr(pipeline, name, None) for name in names}
    return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}


def _adapters(pipeline: Any) -> list[str]:
    names: dict[str, None] = {}
    for module in _adapted(pipeline).values():
        names |= dict.fromkeys(getattr(module, "peft_config", {}))
    return list(names)


def _scales(pipeline: Any) -> tuple[float, ...]:
    return getattr(pipeline, "_genbench_lora_scales", ())
