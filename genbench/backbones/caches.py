"""diffusers' step caches: switched on for a transformer, owned by one trajectory each.

A cache keeps its memory per named context; a denoiser names its own contexts and forgets them when it goes.
"""

# pyright: basic
# diffusers, transformers and JSON carry no types here; they stop at this module's own signatures.

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from genbench.errors import UsageError, did_you_mean


def _first_block(threshold: float) -> Any:
    from diffusers.hooks.first_block_cache import FirstBlockCacheConfig

    return FirstBlockCacheConfig(threshold=threshold)


def _taylorseer(interval: float) -> Any:
    from diffusers.hooks.taylorseer_cache import TaylorSeerCacheConfig

    return TaylorSeerCacheConfig(cache_interval=int(interval))


CACHES: Mapping[str, tuple[Callable[[float], Any], float, str]] = {
    "first_block": (_first_block, 0.05, "threshold of change in the first block, in [0, 1]"),
    "taylorseer": (_taylorseer, 5, "full evaluations every n steps"),
}
"""name -> (build, default strength, what the strength means). Only caches with memory per context are offered."""


def cache_config(word: str) -> Any:
    """Return diffusers' config for `name` or `name:strength`. Raises UsageError for other words."""
    name, _, strength = word.partition(":")
    if name not in CACHES:
        raise UsageError(f"cache='{word}' is not known{did_you_mean(name, CACHES)}")
    build, default, meaning = CACHES[name]
    try:
        return build(float(strength) if strength else default)
    except ValueError:
        raise UsageError(f"cache='{word}': {strength!r} is no number; after the colon stands the {meaning}") from None


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
