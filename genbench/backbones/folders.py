"""What can be known of a model before its weights load: the folder's parts, the files' headers, what not to open.

Nothing here reads weights or the network.
"""

# pyright: basic
# diffusers, transformers and JSON carry no types here; they stop at this module's own signatures.

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genbench.backbones import ADAPTERS
from genbench.errors import ModelError, did_you_mean

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
TRUSTED_LIBRARIES = ("diffusers", "transformers")
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of stock folders that sampling from a prompt does not use; they are not loaded."""


@dataclass(frozen=True)
class ModelFolder:
    """A checked model: its pipeline class, its parts as (library, class), the weight files to be read.

    With `single_file`, `path` holds only configs and the weights are one file.
    """

    path: Path
    pipeline_class: str
    parts: Mapping[str, tuple[str, str]]
    files: tuple[Path, ...]
    single_file: bool = False


def check_folder(path: Path, variant: str | None = None) -> ModelFolder:
    """Check a diffusers folder completely, short of reading weights. Raises ModelError naming file and remedy."""
    index = read_index(path)
    name = str(index.get("_class_name", "?"))
    if name not in ADAPTERS:
        raise ModelError(f"'{path}' holds a {name}, which is not supported{did_you_mean(name, ADAPTERS)}")
    parts = dict(_parts(path, index))
    files = [file for part, (_, kind) in parts.items() for file in _part_files(path / part, kind, variant)]
    for file in files:
        check_safetensors(file)
    return ModelFolder(path, name, parts, tuple(files))


def read_index(path: Path) -> Mapping[str, Any]:
    """Read `model_index.json`. Raises ModelError where the folder is no pipeline."""
    index = path / "model_index.json"
    if not index.is_file():
        inside = ", ".join(sorted(child.name for child in path.iterdir())[:6]) or "nothing"
        raise ModelError(f"'{path}' is no diffusers pipeline: model_index.json is missing (it holds {inside})")
    return _read_json(index)


def _parts(path: Path, index: Mapping[str, Any]) -> Iterable[tuple[str, tuple[str, str]]]:
    for part, value in index.items():
        if part in UNUSED or not isinstance(value, list) or len(value) != 2 or value[0] is None or value[1] is None:
            continue
        library, name = value
        # A library that is a file of the folder would be code from the model's author.
        if library not in TRUSTED_LIBRARIES or (path / part / f"{library}.py").exists():
            raise ModelError(f"'{path}' asks for code of its own ({part}: {library}.{name}); remote code is never run")
        if not (path / part).is_dir():
            raise ModelError(f"'{path}' is incomplete: the folder '{part}' ({name}) is missing")
        yield part, (library, name)


def _part_files(folder: Path, kind: str, variant: str | None) -> list[Path]:
    """The weight files of one part; schedulers and tokenizers have none, but their config must be there."""
    if kind.endswith("Scheduler"):
        _require(folder / "scheduler_config.json")
        return []
    if "Tokenizer" in kind:
        _require(folder / "tokenizer_config.json")
        return []
    _require(folder / "config.json")
    stem = "diffusion_pytorch_model" if _is_diffusers(folder) else "model"
    tag = f".{variant}" if variant else ""
    single = folder / f"{stem}{tag}.safetensors"
    index = folder / f"{stem}.safetensors.index{tag}.json"
    if single.is_file():
        return [single]
    if index.is_file():
        names = sorted(set(_read_json(index)["weight_map"].values()))
        return [_require(folder / name) for name in names]
    raise ModelError(_why_no_weights(folder, single, variant))


def _is_diffusers(folder: Path) -> bool:
    return "_class_name" in _read_json(folder / "config.json")


def _why_no_weights(folder: Path, wanted: Path, variant: str | None) -> str:
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        return (
            f"'{folder}' has only {pickles[0]}, a pickle, which can run code when opened; convert it with "
            "diffusers' save_pretrained(safe_serialization=True)"
        )
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    if not others:
        return f"'{wanted}' is missing; copy the whole model folder"
    remedy = (
        "leave variant= out" if variant and any(name.count(".") == 1 for name in others) else "choose with variant="
    )
    return f"'{wanted}' is missing; there is {', '.join(others[:4])}: {remedy}"


def _require(file: Path) -> Path:
    if not file.is_file():
        raise ModelError(f"'{file}' is missing; copy the whole model folder")
    return file


def _read_json(file: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"'{file}' cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelError(f"'{file}' holds {type(value).__name__}, expected a JSON object")
    return value


# --- safetensors --------------------------------------------------------------------------------------------------


def check_safetensors(file: Path) -> Mapping[str, Any]:
    """Read a safetensors header and compare it with the file's size; return the header.

    Format: 8 bytes length n (little endian), n bytes JSON, then the tensors. Raises ModelError for a truncated file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if length > size - 8:
            raise ModelError(f"'{file}' is truncated or no safetensors file ({size} bytes); copy or download it again")
        header = _header(file, stream.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise ModelError(f"'{file}' is truncated: {size} bytes of {expected}; copy or download it again")
    return header


def _header(file: Path, text: bytes) -> Mapping[str, Any]:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ModelError(
            f"'{file}' is no safetensors file (its header is not JSON); copy or download it again"
        ) from error
