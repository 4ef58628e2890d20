"""diffusers' step caches: switched on for a transformer, owned by one trajectory each.

A cache keeps its memory per named context; a denoiser names its own contexts and forgets them when it goes.
"""

# pyright: basic
# diffusers, transformers and JSON carry no types here; they stop at this module's own signatures.

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from genbench.errors import ModelError, UsageError, did_you_mean
from genbench.kinds import Model


def _first_block(threshold: float) -> Any:
    from diffusers.hooks.first_block_cache import FirstBlockCacheConfig

    return FirstBlockCacheConfig(threshold=threshold)


def _taylorseer(interval: float) -> Any:
    from diffusers.hooks.taylorseer_cache import TaylorSeerCacheConfig

    return TaylorSeerCacheConfig(cache_interval=int(interval))


@dataclass(frozen=True)
class Cache:
    """One step cache: how diffusers' config is built, the default strength, its range and what it means."""

    build: Callable[[float], Any]
    default: float
    low: float
    high: float
    meaning: str


CACHES: Mapping[str, Cache] = {
    "first_block": Cache(_first_block, 0.05, 0, 1, "threshold of change in the first block, in [0, 1]"),
    "taylorseer": Cache(_taylorseer, 5, 1, 1000, "steps from one full evaluation to the next, 1 to 1000"),
}
"""Only caches with memory per context are offered."""


def cache_config(word: str) -> Any:
    """Return diffusers' config for `name` or `name:strength`. Raises UsageError for other words."""
    name, _, strength = word.partition(":")
    if name not in CACHES:
        raise UsageError(f"cache='{word}' is not known{did_you_mean(name, CACHES)}")
    cache = CACHES[name]
    try:
        value = float(strength) if strength else cache.default
    except ValueError:
        value = float("nan")
    if not cache.low <= value <= cache.high:
        raise UsageError(f"cache='{word}': {strength!r} does not fit; after the colon stands the {cache.meaning}")
    return cache.build(value)


def cached(model: Model, word: str) -> Model:
    """Return a model that shares its weights and has the step cache `word`. Raises UsageError, and ModelError for a
    model without the door.
    """
    name = str(getattr(model, "network_name", ""))
    if not getattr(model, "step_caches", False):
        raise ModelError(f"cache={word}: diffusers has no step cache for {model.family}; families with one: flux")
    network: Any = sharing_copy(model.modules[name])
    if network.is_cache_enabled:
        network.disable_cache()
    network.enable_cache(cache_config(word))
    return model.replace(modules={name: network})


def sharing_copy(module: nn.Module) -> nn.Module:
    """Copy a module's structure; parameters and buffers stay the same tensors."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    made: Any = copy.deepcopy(module, shared)
    if getattr(made, "is_cache_enabled", False):  # its hooks would run the blocks of the module they were made for
        config = made._cache_config
        made.disable_cache()
        made.enable_cache(config)
    return cast(nn.Module, made)


def forget(network: weakref.ref[nn.Module], names: tuple[str, ...]) -> None:
    """Drop what the caches of `network` remember for the contexts `names`."""
    from diffusers.hooks.hooks import StateManager

    module = network()
    for part in module.modules() if module is not None else ():
        registry = getattr(part, "_diffusers_hook", None)
        for hook in registry.hooks.values() if registry is not None else ():
            for value in vars(hook).values():
                if isinstance(value, StateManager):
                    for name in names:
                        value._state_cache.pop(name, None)
