"""LoRA (arXiv:2106.09685) for training: a view of a model with a fresh adapter, which starts as the model itself.

The view shares the base's weights, so the model that it was made from stays the reference: nothing is switched off
to ask it. What is written is diffusers' own format and loads with `lora=`.
"""

# pyright: basic
# diffusers and peft carry no types here; they stop at this module's own signatures.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from genbench import files
from genbench.backbones import network_name
from genbench.backbones.caches import sharing_copy
from genbench.errors import MissingDependency, ModelError
from genbench.kinds import Model
from genbench.training.checkpoints import save_tensors

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The projections of every attention: what diffusers' own scripts adapt."""
FILE = "pytorch_lora_weights.safetensors"
ADAPTER = "default"


@dataclass(frozen=True)
class Adapted:
    """A model with an adapter that can be trained: `network` is its denoising network, called `name`."""

    model: Model
    name: str
    network: nn.Module
    rank: int
    alpha: int

    @property
    def strength(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The adapter's own parameters, in float32."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}


def with_adapter(
    model: Model, rank: int = 4, alpha: int | None = None, targets: Sequence[str] = ATTENTION, seed: int = 0
) -> Adapted:
    """Return a view of the model with a fresh LoRA of `rank`; `alpha` (default: the rank) scales it by alpha / rank.

    A is Gaussian and B zero: bit by bit the model that it was made from. Raises ModelError for a model without layers
    of these names, or whose family diffusers loads no LoRA for; MissingDependency without peft.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingDependency("a LoRA needs peft; install it: pip install peft") from error
    _check_loader(model)
    name = network_name(model)
    if name is None:
        there = ", ".join(model.modules)
        raise ModelError(f"model={model.name} has no denoising network that is known (it has {there})")
    network = sharing_copy(model.modules[name]).requires_grad_(False)
    config = LoraConfig(
        r=rank, lora_alpha=rank if alpha is None else alpha, init_lora_weights="gaussian", target_modules=list(targets)
    )
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            inject_adapter_in_model(config, network, ADAPTER)
    except ValueError as error:
        raise ModelError(f"model={model.name} has no layers called {', '.join(targets)} to adapt") from error
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # an update of 1e-4 is lost in half precision
    adapted = model.replace(modules={name: network})
    return Adapted(adapted, name, network, rank, rank if alpha is None else alpha)


def checkpoint_blocks(adapted: Adapted) -> None:
    """Let the network compute its own blocks again in the backward pass. Raises ModelError where it cannot."""
    enable = getattr(adapted.network, "enable_gradient_checkpointing", None)
    if enable is None:
        raise ModelError(f"checkpointing=true: model={adapted.model.name} has no blocks that can be computed again")
    adapted.network.train()  # diffusers does it in training mode alone
    enable()


def load_into(adapted: Adapted, path: Path) -> None:
    """Put the weights of a LoRA file into a fresh adapter of the same rank and layers. Raises ModelError."""
    theirs, mine = to_peft(load_file(path)), adapted.parameters
    if missing := sorted(set(mine) - set(theirs)):
        raise ModelError(f"{path} lacks {len(missing)} weights, first {missing[0]}; was it made for this model?")
    with torch.no_grad():
        for name, parameter in mine.items():
            if theirs[name].shape != parameter.shape:
                raise ModelError(f"{path}: {name} is {tuple(theirs[name].shape)}, not {tuple(parameter.shape)}")
            parameter.copy_(theirs[name] / (adapted.strength if ".lora_B." in name else 1.0))


def save_adapter(adapted: Adapted, weights: Mapping[str, Tensor], folder: Path, dtype: torch.dtype) -> Path:
    """Write `weights` (as `Adapted.parameters` names them) as diffusers does; returns the file. Raises OutputError.

    alpha / rank goes into B, for readers that know no alpha.
    """
    prefix = "unet" if adapted.name == "unet" else "transformer"
    scaled = {name: value * (adapted.strength if ".lora_B." in name else 1.0) for name, value in weights.items()}
    tensors = {f"{prefix}.{to_diffusers(name)}": value.detach().to(dtype) for name, value in scaled.items()}
    save_tensors(tensors, folder / FILE, {"format": "pt"})
    return folder / FILE


def to_diffusers(name: str) -> str:
    """`x.to_q.lora_A.default.weight` -> `x.to_q.lora_A.weight`."""
    return name.replace(f".{ADAPTER}.weight", ".weight")


def to_peft(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A LoRA file's keys as the network's own parameters are called."""
    known: dict[str, Tensor] = {}
    for name, value in tensors.items():
        own = name.partition(".")[2] if name.startswith(("unet.", "transformer.")) else name
        known[own.replace(".weight", f".{ADAPTER}.weight")] = value
    return known


def write_card(folder: Path, text: str) -> Path:
    """Write the model card beside the weights."""
    path = folder / "README.md"
    files.write_whole(path, text.encode())
    return path


def _check_loader(model: Any) -> None:
    if not getattr(model, "lora_loader", False):
        raise ModelError(
            f"diffusers loads no LoRA for {model.family}, so none can be trained for it; families that take one: "
            "sd, sdxl, sd3, flux"
        )
