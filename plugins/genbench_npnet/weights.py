"""Weight files of NPNet: the published layouts and our own, recognised by their tensors' names and shapes.

    *.pth            a dict of dicts: unet_svd, unet_embedding, embeeding, and the tensors alpha and beta
    *.safetensors    the same, flat: `unet_svd.mlp1.0.weight`; the text branch is `embeeding.` or `text_embedding.`

Files written here also carry, as JSON in their metadata, the network's shape and how its pairs were made.
"""

# pyright: basic
# safetensors and pickles carry no types; they stop at this module's own signatures.

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from genbench.errors import ModelError, did_you_mean
from genbench.hub import is_hub_file
from genbench.training.checkpoints import save_tensors
from genbench_npnet.network import SWIN_TINY, NPNet, Shape

SHIPPED = Path(__file__).parent / "weights" / "solids.safetensors"
PUBLISHED: Mapping[str, str] = {
    "solids": str(SHIPPED),
    "sdxl": "hf:LucipherDev/Golden-Noise-NPNets/sdxl.safetensors",
    "dreamshaper": "hf:LucipherDev/Golden-Noise-NPNets/dreamshaper.safetensors",
    "dit": "hf:LucipherDev/Golden-Noise-NPNets/dit.safetensors",
}
"""Weights by name: the embedded model's own, and the authors' (Apache-2.0) in their safetensors mirror."""

FAMILY: Mapping[str, str] = {"solids": "sd", "sdxl": "sdxl", "dreamshaper": "sdxl", "dit": "hunyuan"}
"""The family that weights by name are for."""

MADE_FOR: Mapping[str, str] = {
    "solids": "solids",
    "solids/weak": "solids",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "lykon/dreamshaper-xl-v2-turbo": "dreamshaper",
    "tencent-hunyuan/hunyuandit-v1.2-diffusers": "dit",
}
"""Models for which weights exist, in lower case."""

EMBEDDINGS: Mapping[int, tuple[int, int]] = {77 * 2048: (77, 2048), 77 * 1024: (77, 1024)}
"""Published text branches: SDXL's (tokens, width) and Hunyuan-DiT's."""

OLD_TIMM = ("relative_position_index", "attn_mask", "swin.layers.0.downsample")
METADATA = "npnet"
RESULT = "npnet.safetensors"
"""What training calls its result."""


@dataclass(frozen=True)
class Weights:
    """A network ready to use and what its file says of itself (empty for published files)."""

    network: NPNet
    told: Mapping[str, Any]


HOW_TO_TRAIN = "train some: genbench train plugin=npnet model={} prompts=FILE scorer=NAME"


def known(model: str) -> bool:
    """Whether weights for this model exist under its name."""
    return model.lower() in MADE_FOR


def source_for(word: str, model: str) -> str:
    """Return the file (a path or a word for the Hub) that the option `weights` means for a model.

    Raises ModelError where nothing is known for the model, with the command that trains weights for it.
    """
    if word in PUBLISHED:
        return PUBLISHED[word]
    if word != "auto":
        return word if is_hub_file(word) else str(_file(word))
    name = MADE_FOR.get(model.lower())
    if name is None:
        raise ModelError(
            f"no npnet weights are known for model='{model}'; {HOW_TO_TRAIN.format(model)}; or name some: "
            f"npnet.weights={'|'.join(PUBLISHED)}|FILE"
        )
    return PUBLISHED[name]


def _file(word: str) -> Path:
    path = Path(word).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise ModelError(f"npnet.weights={word} is a folder; name the file in it, such as {path / RESULT}")
    if path.suffix:
        raise ModelError(f"npnet.weights={word} does not exist; give the path of a file")
    raise ModelError(f"npnet.weights={word} is neither a file nor a name{did_you_mean(word, PUBLISHED)}")


def load(path: Path) -> Weights:
    """Open a weight file of any of the layouts, strictly, for inference in float32.

    Raises ModelError for a file that is damaged, a LoRA, of the layout of timm before 0.9, or no NPNet.
    """
    tensors, told = read(path)
    network = NPNet(checked(tensors, told, path))
    network.load_state_dict(tensors)
    return Weights(network.float().eval().requires_grad_(False), told)


def checked(tensors: Mapping[str, Tensor], told: Mapping[str, Any], path: Path) -> Shape:
    """Return what a file's network is made for. Raises ModelError unless it has exactly that network's tensors."""
    shape = shape_of(tensors, told, path)
    with torch.device("meta"):
        expected = NPNet(shape).state_dict()
    for name, tensor in expected.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            found = tuple(tensors[name].shape) if name in tensors else "missing"
            raise ModelError(f"'{path}' does not fit: '{name}' is {found}, and {tuple(tensor.shape)} is expected")
    unknown = sorted(tensors.keys() - expected.keys())
    if unknown:
        raise ModelError(f"'{path}' does not fit: nothing is known of '{unknown[0]}' ({len(unknown)} such tensors)")
    return shape


def read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Return a file's tensors under flat names, and its metadata. Raises ModelError as `load`."""
    if path.suffix == ".safetensors":
        tensors, told = _safetensors(path)
    else:
        tensors, told = _pickle(path), {}
    named = {re.sub(r"^text_embedding\.", "embeeding.", name): tensor for name, tensor in tensors.items()}
    if any("lora" in name.lower() for name in named):
        raise ModelError(f"'{path}' is a LoRA, not the weights of an NPNet; LoRAs go to lora={path}")
    if any(mark in name for name in named for mark in OLD_TIMM):
        raise ModelError(
            f"'{path}' has the tensors of timm before 0.9, whose transformer says other things; take the file "
            "that is published today: npnet.weights=sdxl, dreamshaper or dit"
        )
    if "embeeding.linear.weight" not in named or "unet_svd.mlp3.0.weight" not in named:
        raise ModelError(f"'{path}' holds no NPNet: it has no tensors 'embeeding.*' and 'unet_svd.*'")
    return named, told


def _safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, told  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"'{path}' cannot be opened as safetensors ({_first_line(error)})") from error


def _pickle(path: Path) -> dict[str, Tensor]:
    """Only tensors are unpickled; the outer dict's entries are dicts of tensors or tensors."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        raise ModelError(f"'{path}' is no checkpoint of tensors ({_first_line(error)})") from error
    if not isinstance(loaded, Mapping):
        raise ModelError(f"'{path}' holds a {type(loaded).__name__}, not the weights of an NPNet")
    flat: dict[str, Tensor] = {}
    for name, value in loaded.items():
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        flat |= {f"{name}.{part}".rstrip("."): tensor.detach() for part, tensor in parts if isinstance(tensor, Tensor)}
    return flat


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def shape_of(tensors: Mapping[str, Tensor], told: Mapping[str, Any], path: Path) -> Shape:
    """Return what a file's network is made for: as its metadata says, else the published shapes of its tensors."""
    if "shape" in told:
        try:
            shape = dict(told["shape"])
            swin = {key: tuple(value) if isinstance(value, list) else value for key, value in shape.pop("swin").items()}
            return Shape(**shape, swin=swin)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ModelError(
                f"'{path}' is of another version of genbench ({_first_line(error)}); train anew"
            ) from error
    if tensors["embeeding.linear.weight"].ndim != 2:
        raise ModelError(f"'{path}' holds no NPNet: 'embeeding.linear.weight' is no matrix")
    rows, embedding = tensors["embeeding.linear.weight"].shape
    channels, side = rows // 2, len(tensors["unet_svd.mlp3.0.weight"])
    if embedding not in EMBEDDINGS:
        known = ", ".join(f"{tokens} x {width}" for tokens, width in EMBEDDINGS.values())
        raise ModelError(f"'{path}' reads text embeddings of {embedding} numbers; published are {known}")
    return Shape(channels, side // isqrt(channels), *EMBEDDINGS[embedding], SWIN_TINY)


def save(network: NPNet, path: Path, told: Mapping[str, Any], dtype: torch.dtype = torch.float16) -> None:
    """Write a network and how it was made, whole or not at all."""
    tensors = {
        name: tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype).cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    save_tensors(tensors, path, {METADATA: json.dumps({"shape": asdict(network.shape), **told})})
