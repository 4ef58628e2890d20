"""Features of a model's denoising network: what some of its blocks say during one call.

    with features(network, feature_names(network)) as found:
        denoise(x, level)
    logits = discriminator(list(found.values()))

Of a UNet the middle block, as SD 1.5 and SDXL in DMD2 and FastGen; of a transformer the middle one of its blocks, of
which FLUX has two kinds. Gradients flow through to x. Where the call joins the halves of guidance, so do the rows.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from genbench.backbones import network_name
from genbench.errors import ModelError
from genbench.kinds import Model

TRANSFORMER_BLOCKS = ("transformer_blocks", "single_transformer_blocks", "blocks")
"""Where diffusers' transformers keep their blocks, in the order they are called."""


class _Enough(Exception):
    """Ends a call of whose output nothing is needed."""


def network_of(model: Model) -> nn.Module:
    """The denoising network of a model. Raises ModelError where none is known."""
    name = network_name(model)
    if name is None:
        raise ModelError(f"model={model.name} has no denoising network to read features of")
    return model.modules[name]


def feature_names(network: nn.Module, blocks: Sequence[int] = ()) -> tuple[str, ...]:
    """Names of the submodules to read: the middle block, or those numbered by `blocks` from 0.

    Numbers count a UNet's down blocks, from the finest, or a transformer's blocks. Raises ModelError where a number is
    too high or the network has no blocks.
    """
    modules: dict[str, nn.Module] = dict(network.named_modules())  # pyright: ignore[reportUnknownArgumentType]
    lists = ("down_blocks",) if "down_blocks" in modules else TRANSFORMER_BLOCKS
    known = [f"{name}.{index}" for name in lists for index in range(_length(modules.get(name)))]
    if not known:
        raise ModelError(f"{type(network).__name__} has no blocks to read features of; a discriminator needs some")
    for number in blocks:
        if not 0 <= number < len(known):
            raise ModelError(f"block {number} was asked for; {type(network).__name__} has 0 to {len(known) - 1}")
    if blocks:
        return tuple(known[number] for number in blocks)
    return ("mid_block",) if "mid_block" in modules else (known[len(known) // 2],)


@contextmanager
def features(network: nn.Module, names: Sequence[str], *, stop: bool = False) -> Generator[dict[str, Tensor]]:
    """Within, the first call of `network` fills the dictionary given: name -> output, in the order of the blocks.

    An output is a map (b, c, height, width) or the picture's tokens (b, n, c). `stop` ends the call, and what stands
    within, once all are there: the rest of the network is spared, and the call is not counted. Hooks go on leaving,
    also by an error. Raises ModelError for a name that the network does not have, or that was not called.
    """
    wanted = dict.fromkeys(names)
    modules: dict[str, nn.Module] = dict(network.named_modules())  # pyright: ignore[reportUnknownArgumentType]
    found: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, arguments: Any, output: Any) -> None:
        if name in found:  # a second call, or a block that is computed again in the backward pass
            return
        found[name] = _hidden(output)
        if stop and len(found) == len(wanted):
            raise _Enough

    if missing := [name for name in wanted if name not in modules]:
        raise ModelError(f"{type(network).__name__} has no submodule {', '.join(missing)} to read features of")
    handles = [modules[name].register_forward_hook(partial(keep, name)) for name in wanted]
    try:
        yield found
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if silent := [name for name in wanted if name not in found]:
        raise ModelError(f"{type(network).__name__} was not called, or left out {', '.join(silent)}: no features")


def _hidden(output: Any) -> Tensor:
    """The picture's part: down blocks return (hidden, skips), blocks of joint attention (text or None, hidden)."""
    if isinstance(output, Tensor):
        return output
    return next(part for part in reversed(output) if isinstance(part, Tensor))


def _length(module: nn.Module | None) -> int:
    return len(module) if isinstance(module, nn.ModuleList) else 0
