"""Where published weights lie: a local file or folder, or the Hub; what they are called; how they open.

Nothing here runs code that a file brings along: safetensors, or pickles read with `weights_only`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genbench import hub
from genbench.errors import MissingDependency, ModelError
from genbench.models import file_hash

HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja")
SAFE, PICKLED = ("model*.safetensors",), ("pytorch_model*.bin",)
_BLOB = re.compile(r"[0-9a-f]{64}")


def package(name: str, scorer: str) -> Any:
    """Import a package of the extra `eval`. Raises MissingDependency with the line that installs it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingDependency(f"{scorer} needs the package '{error.name}': pip install 'genbench[eval]'") from error


def found_file(word: str, option: str, published: str = "") -> Path:
    """Return the weight file that `option` names: a path, or `hf:org/name/file` for one of the Hub.

    `published` says where the file can be had. Raises ModelError naming what to download and the option to give.
    """
    if hub.is_hub_file(word):
        try:
            return hub.fetch(word)
        except ModelError as error:
            raise ModelError(f"{error}, with {option}=FILE") from error
    path = Path(word).expanduser()
    if not word or not path.is_file():
        missing = f"{option}={word} does not exist" if word else f"{option}= has to name the weights"
        raise ModelError(f"{missing}; {published or 'give the path of a file, or hf:org/name/file'}")
    return path


def found_folder(word: str, option: str) -> Path:
    """Return the transformers folder that `option` names: a local one, or the snapshot of a Hub id (org/name).

    Of the Hub only settings and weights are fetched, safetensors where there are any. Raises ModelError.
    """
    return _found(word, option, ("config.json",), _with_weights)


def found_tokenizer(word: str, option: str) -> Path:
    """As `found_folder`, for a folder of which only the tokenizer is wanted."""
    return _found(word, option, ("tokenizer.json", "tokenizer_config.json", "vocab.txt"), _snapshot)


def _found(word: str, option: str, any_of: Sequence[str], fetch: Callable[[str], Path]) -> Path:
    path = Path(word).expanduser()
    if path.is_dir():
        if not any((path / name).is_file() for name in any_of):
            raise ModelError(f"{option}={word} holds no {' or '.join(any_of)}; give a folder as transformers saves it")
        return path
    if not HUB_ID.fullmatch(word):
        raise ModelError(f"{option}={word} is neither a folder nor a Hub id (org/name)")
    try:
        return fetch(word)
    except (OSError, ValueError, RuntimeError) as error:
        why = f"the Hub is out of bounds ({hub.OFFLINE})" if hub.is_closed() else "cannot be fetched"
        raise ModelError(
            f"{option}={word} is not on this machine and {why}; run `hf download {word}` where there is a "
            f"network and give {option}=FOLDER"
        ) from error


@cache
def _snapshot(word: str, *more: str) -> Path:
    """Ask the Hub once per process."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(word, allow_patterns=[*SETTINGS, *more]))


def _with_weights(word: str) -> Path:
    folder = _snapshot(word, *SAFE)
    if not weights_in(folder):
        folder = _snapshot(word, *PICKLED)
    if not weights_in(folder):
        raise OSError(f"{word} holds no weights")
    return folder


def weights_in(folder: Path) -> list[Path]:
    """Return the weight files of a transformers folder."""
    return sorted(path for pattern in (*SAFE, *PICKLED) for path in folder.glob(pattern))


def settings_in(folder: Path) -> list[Path]:
    """Return the files of a transformers folder that are no weights: configs and tokenizer."""
    return sorted(path for pattern in SETTINGS for path in folder.glob(pattern))


def version(*places: Path) -> str:
    """Return `weights` and 12 hex digits of a hash of these files and transformers folders.

    It is part of a scorer's version, so that values of unlike weights are never compared.
    """
    files = [
        file for place in places for file in ([place] if place.is_file() else [*weights_in(place), *settings_in(place)])
    ]
    lines = sorted(f"{file.name} {_content(file)}" for file in files)
    return f"weights {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:12]}"


def _content(file: Path) -> str:
    """SHA-256 of a file; the Hub's cache names large files by it, which saves reading gigabytes."""
    blob = file.resolve()
    return blob.name if blob.parent.name == "blobs" and _BLOB.fullmatch(blob.name) else file_hash(file)


def state_dict(file: Path) -> dict[str, Tensor]:
    """Read a file of tensors, on the CPU: .safetensors, or a pickle of tensors alone, also under `state_dict`.

    Raises ModelError where it is neither.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what a broken pickle raises is anyone's guess
        first = str(error).strip().splitlines()[0][:160]
        raise ModelError(f"{file} cannot be read as tensors ({first}); save its state dict as .safetensors") from error
    return found.get("state_dict", found)


def filled(module: torch.nn.Module, state: dict[str, Tensor], file: Path, ignore: Sequence[str] = ()) -> Any:
    """Load a state dict into a module and freeze it. Raises ModelError where a key or a shape does not fit.

    `ignore` are beginnings of keys that the file may hold beyond the module's.
    """
    kept = {name: value for name, value in state.items() if not name.startswith(tuple(ignore))}
    try:
        module.load_state_dict(kept)
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise ModelError(f"{file} does not fit the network: {lines[min(1, len(lines) - 1)].strip()[:160]}") from error
    return module.eval().requires_grad_(False)


@cache
def pretrained(cls: str, folder: Path, device: str, dtype: torch.dtype | str = torch.float32) -> Any:
    """Open a transformers model from a folder, frozen, on a device; once per process.

    Raises ModelError where the weights leave a part of the network unfilled.
    """
    import transformers

    from genbench.backbones.loading import quiet

    with quiet(local_only=True):
        model, report = getattr(transformers, cls).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, dtype=dtype, output_loading_info=True
        )
    lacking = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if lacking:
        raise ModelError(f"the weights in '{folder}' do not fill {len(lacking)} parts of a {cls}, first {lacking[0]}")
    return model.to(device).eval().requires_grad_(False)
