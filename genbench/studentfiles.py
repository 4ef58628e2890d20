"""Files of distilled networks: our own with what they say of themselves, and the published layouts, strictly read.

student.safetensors          the network's tensors under its own diffusers names, a `StudentFile` in the metadata
*.safetensors, *.bin         the same names and nothing more (tensors alone are unpickled)
FOLDER                       a training's, or a diffusers folder: config.json, diffusion_pytorch_model.safetensors
"""

# pyright: basic
# safetensors and pickles carry no types; they stop at this module's own signatures.

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from genbench import files
from genbench.backbones import NETWORKS
from genbench.backbones.caches import sharing_copy
from genbench.backbones.folders import check_safetensors
from genbench.errors import ModelError

FILE = "student.safetensors"
METADATA = "genbench"
WEIGHTS = "diffusion_pytorch_model.safetensors"
TENSORS = (".bin", ".pt", ".pth")
"""Pickles of which tensors alone are read."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class StudentFile:
    """What a student says of itself.

    `base` is the word of the model that it was made of and `base_hash` that model's hash ("" where it is not known);
    `module` its denoising network's name; `times` those of its steps and `init_scale` the scale of its first noise, see
    `genbench.fewstep.FewStep`; `recommended` the request fields that it brings.
    """

    method: str
    base: str
    base_hash: str
    module: str
    times: tuple[float, ...]
    recommended: Mapping[str, object] = field(default_factory=dict[str, object])
    init_scale: float | None = None


def save_student(path: Path, network_state: Mapping[str, Tensor], about: StudentFile) -> None:
    """Write a student whole or not at all, its tensors as they are. Raises OutputError."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network_state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, save(tensors, {METADATA: json.dumps(asdict(about))}))


def read_about(path: Path) -> StudentFile | None:
    """What a file says of itself, from its header alone; None where it says nothing.

    Raises ModelError for a file that is truncated, or of another genbench.
    """
    if path.suffix != ".safetensors":
        return None
    told = (check_safetensors(path).get("__metadata__") or {}).get(METADATA)
    if told is None:
        return None
    try:
        found = StudentFile(**json.loads(told))
        return StudentFile(**{**asdict(found), "times": tuple(float(time) for time in found.times)})
    except (TypeError, ValueError) as error:
        raise ModelError(f"'{path}' is no student of this genbench ({_first_line(error)}); train it anew") from error


# --- where ----------------------------------------------------------------------------------------------------------


def weight_files(place: Path) -> tuple[Path, ...]:
    """The files that hold a network's tensors: the file itself, or those of a folder; empty where there are none."""
    if not place.is_dir():
        return (place,) if place.is_file() else ()
    for folder in (place, *(place / name for name in NETWORKS)):
        for name in (FILE, WEIGHTS):
            if (folder / name).is_file():
                return (folder / name,)
        index = folder / f"{WEIGHTS}.index.json"
        if index.is_file():
            return tuple(folder / name for name in _shards(index))
    return ()


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"'{index}' does not say which files it consists of; copy or download it again") from error


# --- tensors --------------------------------------------------------------------------------------------------------


def network_of(weights: Sequence[Path], base: nn.Module, said: str, model: str) -> nn.Module:
    """A network like `base` with the tensors of these files, in base's dtypes and on its device; base stays.

    Raises ModelError that begins with `said` and names the first layer that does not fit the network of `model`.
    """
    own = base.state_dict()
    check_shapes(_shapes(weights, said), {name: tuple(tensor.shape) for name, tensor in own.items()}, said, model)
    network = sharing_copy(base)
    read = {name: tensor.to(own[name].device, own[name].dtype) for name, tensor in _tensors(weights, said)}
    network.load_state_dict(read, assign=True)
    if base._compiled_call_impl is not None:  # a copy loses it
        network.compile()
    return network


def check_shapes(found: Shapes, expected: Shapes, said: str, model: str) -> None:
    """Raise ModelError unless a file has exactly a network's tensors."""
    _check_kind(found, said)
    for name, shape in expected.items():
        if found.get(name) != shape:
            there = f"is {list(found[name])}" if name in found else "is not there"
            raise ModelError(f"{said} does not fit model={model}: its {name} {there}, and {list(shape)} is expected")
    unknown = [name for name in found if name not in expected]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ModelError(f"{said} does not fit model={model}, whose network has no {unknown[0]}{more}")


def _check_kind(found: Shapes, said: str) -> None:
    """Refuse files that lie beside a student and are none."""
    guides = [name for name in found if name.startswith(("fake_unet.", "real_unet.", "cls_pred_branch."))]
    if guides:
        raise ModelError(
            f"{said} holds {guides[0]}: it is what a student was trained against, not the student; name the "
            "generator's file beside it (pytorch_model.bin)"
        )
    if any("lora" in name.lower() for name in found):
        raise ModelError(f"{said} is a LoRA, not a network; draw with it by lora=FILE sampler=lcm guidance_scale=1")


def _shapes(weights: Sequence[Path], said: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes, of safetensors from the header."""
    found: dict[str, tuple[int, ...]] = {}
    for path in weights:
        if path.suffix == ".safetensors":
            header = check_safetensors(path)
            found |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
        else:
            found |= {name: tuple(tensor.shape) for name, tensor in _unpickled(path, said).items()}
    return found


def _tensors(weights: Sequence[Path], said: str) -> Iterator[tuple[str, Tensor]]:
    for path in weights:
        if path.suffix != ".safetensors":
            yield from _unpickled(path, said).items()
            continue
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  # no mapping
                    yield name, file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{said} cannot be read ({_first_line(error)})") from error


def _unpickled(path: Path, said: str) -> dict[str, Tensor]:
    """A pickle's tensors by name; anything else in it is refused, and nothing of it runs."""
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        raise ModelError(f"{said} is no file of tensors alone ({_first_line(error)})") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ModelError(f"{said} does not hold a network's tensors by name")
    return dict(found)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
