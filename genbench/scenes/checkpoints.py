"""A scene's checkpoint: one file beside the run's record, whole or absent, gone when the scene is finished."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from genbench import files
from genbench.errors import ModelError

FILE = "checkpoint.pt"


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write it whole or not at all. Raises OutputError where it cannot be written; the old one stays."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, buffer.getvalue())


def read(path: Path, settings: Mapping[str, object]) -> dict[str, Any]:
    """Return a checkpoint of these settings. Raises ModelError for a file that is none, or one of others."""
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path} is no checkpoint ({str(error).splitlines()[0]}); delete it to begin anew") from error
    if not isinstance(state, dict) or "scene" not in state:
        raise ModelError(f"{path} is no checkpoint of a scene; delete it to begin anew")
    found = cast(dict[str, Any], state)
    changed = [name for name, value in settings.items() if found["settings"].get(name) != value]
    if changed:
        was = ", ".join(f"{name}={found['settings'].get(name)}" for name in changed)
        raise ModelError(f"{path} was made with {was}; give the same words again, or begin anew without resume=true")
    return found
