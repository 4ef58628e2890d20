"""A quantized network: put together from integers, saved with its configuration, loaded without calibration.

quantized.safetensors holds a whole denoising network: for each quantized layer `NAME.weight` (int8, or two 4-bit
integers to a byte), `NAME.weight_scale` (float32, per output channel) and, where inputs are quantized too,
`NAME.input_scale` (float32) and `NAME.input_zero_point` (uint8); every other tensor under its own name, in float32. The
metadata `quantization_config` says the rest.
"""

# pyright: basic
# safetensors carries no types; it stops at this module's own signatures.

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from genbench.backbones.caches import sharing_copy
from genbench.backbones.folders import check_safetensors
from genbench.errors import ModelError
from genbench.training.checkpoints import save_tensors
from genbench_ptq4dm.layers import alike, fingerprint, float_layers, replace_layers
from genbench_ptq4dm.quantizer import Grid, Rounded, pack4, unpack4

FILE = "quantized.safetensors"
METADATA = "quantization_config"
FINGERPRINT = "fingerprint"
FLOATING = "floating point"


@dataclass(frozen=True)
class QuantizedFile:
    """What a quantized network says of itself.

    `base` is the word of the model that it was made of and `before` the model plugins that came first; `module` its
    denoising network's name; `shapes` those of the quantized layers' weights; `calibration` says how the set was
    drawn, with its hash; None of it is needed to draw.
    """

    base: str
    module: str
    bits: int
    shapes: Mapping[str, tuple[int, ...]]
    before: tuple[str, ...] = ()
    calibration: Mapping[str, object] = field(default_factory=dict[str, object])
    method: str = "ptq4dm"
    activations: str = "uint8, per tensor"
    weights: str = "signed, per output channel"

    @property
    def weights_alone(self) -> bool:
        """Whether inputs stay in floating point."""
        return self.activations == FLOATING

    @property
    def made_of(self) -> str:
        """The model and the plugins that came first, as they are typed."""
        return f"model={self.base}" + (f" plugin={','.join(self.before)}" if self.before else "")


# --- a network --------------------------------------------------------------------------------------------------------


def quantized(network: nn.Module, rounded: Mapping[str, Rounded]) -> nn.Module:
    """A copy of a network that shares what is not quantized, with these integers in its layers."""
    made = sharing_copy(network)
    replace_layers(made, rounded)
    return made


# --- a file -----------------------------------------------------------------------------------------------------------


def save(path: Path, network: nn.Module, rounded: Mapping[str, Rounded], about: QuantizedFile) -> None:
    """Write a network with these integers in the place of its own weights. Raises OutputError."""
    layers = float_layers(network)
    inside = {f"{name}.weight" for name in rounded}
    tensors = {name: t.detach().float().cpu().contiguous() for name, t in network.state_dict().items()}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in inside}
    for name, each in rounded.items():
        tensors |= {f"{name}.{part}": value.cpu().contiguous() for part, value in _parts(each).items()}
    tensors[FINGERPRINT] = fingerprint({name: layers[name] for name in rounded})
    save_tensors(tensors, path, {METADATA: json.dumps(asdict(about))})


def _parts(rounded: Rounded) -> dict[str, Tensor]:
    weight = rounded.weight if rounded.bits == 8 else pack4(rounded.weight)
    parts = {"weight": weight, "weight_scale": rounded.scale}
    if rounded.grid is None:
        return parts
    scale, zero = torch.tensor(rounded.grid.scale), torch.tensor(rounded.grid.zero, dtype=torch.uint8)
    return {**parts, "input_scale": scale, "input_zero_point": zero}


def read_about(path: Path, said: str) -> QuantizedFile:
    """What a file says of itself, from its header alone. Raises ModelError that begins with `said`."""
    told = (check_safetensors(path).get("__metadata__") or {}).get(METADATA)
    if told is None:
        raise ModelError(f"{said} has no {METADATA} in its header: it is no quantized network of this genbench")
    try:
        known = json.loads(told)
        shapes = {name: tuple(shape) for name, shape in known.pop("shapes").items()}
        return QuantizedFile(**{**known, "before": tuple(known["before"]), "shapes": shapes})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{said} is of another genbench ({str(error).splitlines()[0]}); train it anew") from error


def load(path: Path, network: nn.Module, about: QuantizedFile, said: str) -> nn.Module:
    """The network of a file, in the place of `network`, which stays. Raises ModelError that begins with `said`.

    Layers of `network` that have a LoRA keep it. What is not quantized keeps network's dtype.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{said} cannot be read ({str(error).splitlines()[0]})") from error
    layers = float_layers(network)
    _check_fit(about, layers, said)
    try:
        if not fits(tensors[FINGERPRINT], about, layers):
            raise ModelError(f"{said} was made of {about.made_of}; the network here has other weights")
        return quantized(network, {name: _rounded(name, about, tensors) for name in about.shapes})
    except KeyError as error:
        raise ModelError(f"{said} lacks {error}; train it anew") from error


def fits(known: Tensor, about: QuantizedFile, layers: Mapping[str, Any]) -> bool:
    """Whether layers have the weights that a file was made of."""
    return alike(known, fingerprint({name: layers[name] for name in about.shapes}))


def _check_fit(about: QuantizedFile, layers: Mapping[str, Any], said: str) -> None:
    for name, shape in about.shapes.items():
        there = tuple(layers[name].weight.shape) if name in layers else None
        if there != shape:
            here = f"it is {list(there)}" if there else "there is none"
            raise ModelError(f"{said} does not fit: its {name} is {list(shape)}, and here {here}")


def _rounded(name: str, about: QuantizedFile, tensors: Mapping[str, Tensor]) -> Rounded:
    weight, scale = tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"]
    weight = weight if about.bits == 8 else unpack4(weight, about.shapes[name])
    if f"{name}.input_scale" not in tensors:
        return Rounded(weight, scale, about.bits)
    grid = Grid(float(tensors[f"{name}.input_scale"]), int(tensors[f"{name}.input_zero_point"]))
    return Rounded(weight, scale, about.bits, grid)
