"""Checkpoints and weights on the disk: a file that exists is whole."""

# pyright: basic
# torch.load returns what was saved, without a type.

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialised
from torch import Tensor

from genbench import files
from genbench.errors import ModelError
from genbench.training.place import Place


def save_atomically(value: object, path: Path) -> None:
    """Write under another name, flush to disk, rename: a file that exists is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all, readable as the umask says (`save_file` keeps it to its owner).

    Raises OutputError in one line where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, serialised(dict(tensors), dict(metadata)))


def checkpoint_path(place: Place, name: str) -> Path:
    """Where the checkpoint of a training called `name` lies."""
    return place.at("checkpoints", f"{name}.pt")


def read_checkpoint(path: Path, device: str = "cpu") -> dict[str, Any]:
    """Return a checkpoint. Raises ModelError for a file that is none."""
    try:
        state = torch.load(path, map_location=device, weights_only=True, mmap=device == "cpu")
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path} is no checkpoint ({str(error).splitlines()[0]}); delete it to begin anew") from error
    if not isinstance(state, dict) or not {"step", "roles"} <= set(state):
        raise ModelError(f"{path} is no checkpoint of this genbench; delete it to begin anew")
    return state


def load_weights(place: Place, name: str, role: str | None = None) -> dict[str, Tensor]:
    """What a role has become: the moving average where one is kept, else the weights. Default: the only role."""
    roles = read_checkpoint(checkpoint_path(place, name))["roles"]
    state = roles[role or next(iter(roles))]
    return dict(state["average"] or state["weights"])


def save_weights(place: Place, name: str, weights: Mapping[str, Tensor]) -> None:
    """Write weights that no optimiser made, to be read by `load_weights`."""
    role = {"weights": dict(weights), "average": {}}
    save_atomically({"step": 0, "roles": {"module": role}}, checkpoint_path(place, name))


def finished(place: Place, name: str, steps: int) -> bool:
    """Whether a training has a checkpoint of its last step."""
    path = checkpoint_path(place, name)
    return path.exists() and read_checkpoint(path)["step"] >= steps
