"""LoRA as a view: the module tree is copied, the weights are shared, the adapter is injected into the copy alone."""

# pyright: basic
# diffusers, transformers and JSON carry no types here; they stop at this module's own signatures.

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from genbench.backbones.base import with_modules
from genbench.backbones.caches import sharing_copy
from genbench.backbones.folders import PICKLES, check_safetensors
from genbench.errors import MissingDependency, ModelError

FILE = "pytorch_lora_weights.safetensors"


def with_lora(pipeline: Any, source: str, scale: float, local_only: bool = False) -> Any:
    """Return a pipeline that shares `pipeline`'s weights and adds the LoRA `source` (file, folder or Hub id).

    Raises ModelError naming what is missing or does not fit, MissingDependency without peft.
    """
    clone = with_modules(pipeline, {name: sharing_copy(module) for name, module in _adapted(pipeline).items()})
    name = f"lora{len(_adapters(clone))}"
    where = {"adapter_name": name, "local_files_only": local_only, "use_safetensors": True}
    try:
        with warnings.catch_warnings(), _unsaid():
            # Several adapters on one network are what is asked for.
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
            clone.load_lora_weights(readable(source, _adapted(pipeline)), **where)
    except ImportError as error:
        raise MissingDependency("lora= needs peft; install it with: pip install peft") from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"lora='{source}' cannot be loaded ({str(error).splitlines()[0]})") from error
    if name not in _adapters(clone):
        raise ModelError(f"lora='{source}' has no weights for this model; check that it was made for this family")
    clone.set_adapters([*_adapters(pipeline), name], [*_scales(pipeline), scale])
    clone._genbench_lora_scales = (*_scales(pipeline), scale)
    return clone


@contextmanager
def _unsaid() -> Iterator[None]:
    """Without diffusers' line for each part that a LoRA leaves alone; one that fits no part is refused here."""
    loggers = [logging.getLogger(f"diffusers.loaders.{name}") for name in ("lora_base", "peft")]
    for logger in loggers:
        logger.addFilter(_matters)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_matters)


def _matters(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("No LoRA keys associated")


def readable(source: str, parts: Mapping[str, nn.Module]) -> str | dict[str, Tensor]:
    """Return a LoRA as diffusers takes it: where it is, or its tensors where the file is of an older kind.

    Older kinds: pickles of tensors alone, and files of one network whose keys do not name it (`save_attn_procs`).
    """
    path = Path(location(source))
    if path.is_dir() and (path / FILE).is_file():
        path = path / FILE
    if not path.is_file():
        return source
    tensors = unpickled(path) if path.suffix in PICKLES else load_file(path)
    named = (*(f"{name}." for name in parts), "lora_")
    network = next((name for name in ("unet", "transformer") if name in parts), "")
    if any(key.startswith(named) for key in tensors):
        return tensors if path.suffix in PICKLES else str(path)
    return {f"{network}.{key}": tensor for key, tensor in tensors.items()}


def unpickled(path: Path) -> dict[str, Tensor]:
    """Read a pickle that holds tensors by name and nothing else; no code runs. Raises ModelError."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ModelError(
            f"lora='{path}' is a pickle of more than tensors, which can run code; convert it to .safetensors"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ModelError(f"lora='{path}' is a pickle without tensors by name; give a LoRA")
    return found


def location(source: str) -> str:
    """Return where diffusers finds a LoRA. Raises ModelError for a truncated or a missing file."""
    path = Path(source)
    local = path.is_absolute() or source.startswith(".") or path.suffix in (".safetensors", *PICKLES)
    if local and not path.exists():
        raise ModelError(f"lora='{source}' does not exist; give a .safetensors file, a folder or a Hub id")
    if path.is_file() and path.suffix not in PICKLES:
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
