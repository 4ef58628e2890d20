"""From a place to a loaded pipeline: diffusers folders, single .safetensors files, the Hub and its cache."""

# pyright: basic
# diffusers, transformers and JSON carry no types here; they stop at this module's own signatures.

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from genbench import hub
from genbench.backbones import ADAPTERS
from genbench.backbones.folders import PICKLES, ModelFolder, check_folder, check_safetensors, read_index
from genbench.errors import ModelError, did_you_mean


def inspected(
    place: Path, variant: str | None = None, config: str | None = None, local_only: bool = False
) -> ModelFolder:
    """Check a folder or a file without loading it. Raises ModelError naming what is missing, truncated or unsafe."""
    if place.is_dir():
        return check_folder(place, variant)
    if place.suffix != ".safetensors":
        raise ModelError(
            f"'{place}' is not a .safetensors file; pickles such as {', '.join(PICKLES[:3])} can run code when opened: "
            "convert it first"
        )
    header = check_safetensors(place)
    configs = _config_folder(place, header, config, local_only)
    name = str(read_index(configs).get("_class_name", "?"))
    if name not in ADAPTERS:
        raise ModelError(f"'{place}' is a {name}, which is not supported{did_you_mean(name, ADAPTERS)}")
    return ModelFolder(configs, name, {}, (place,), single_file=True)


def load(folder: ModelFolder, dtype: torch.dtype, variant: str | None = None) -> Any:
    """Load what `inspected` found, on the CPU. Raises ModelError with the library's first line."""
    import diffusers

    pipeline_class = getattr(diffusers, folder.pipeline_class)
    if folder.single_file and not hasattr(pipeline_class, "from_single_file"):
        raise ModelError(f"diffusers opens no single file for {folder.pipeline_class}; convert it to a folder")
    shared = {"dtype": dtype, "local_files_only": True, **_without_checker(pipeline_class)}
    try:
        if folder.single_file:
            return pipeline_class.from_single_file(str(folder.files[0]), config=str(folder.path), **shared)
        return pipeline_class.from_pretrained(folder.path, variant=variant, use_safetensors=True, **shared)
    except Exception as error:
        raise ModelError(f"'{folder.path}' cannot be loaded ({str(error).strip().splitlines()[0]})") from error


def _without_checker(pipeline_class: type) -> dict[str, Any]:
    """Pipelines with a safety checker are loaded without it: it is no part of sampling and would blacken pictures."""
    if "safety_checker" not in inspect.signature(pipeline_class).parameters:
        return {}
    return {"safety_checker": None, "requires_safety_checker": False}


def from_hub(word: str, revision: str | None, variant: str | None, local_only: bool) -> Path:
    """Return the snapshot folder of a Hub model; offline only what the cache holds. Raises ModelError."""
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from huggingface_hub import snapshot_download

    try:
        if local_only:
            return Path(snapshot_download(word, revision=revision, local_files_only=True))
        return Path(
            DiffusionPipeline.download(
                word, revision=revision, variant=variant, use_safetensors=True, trust_remote_code=False
            )
        )
    except (OSError, ValueError, RuntimeError) as error:
        if local_only:
            raise ModelError(
                f"model='{word}' is not in the local cache and offline=true; run it once online"
            ) from error
        raise ModelError(f"model='{word}' cannot be fetched ({str(error).splitlines()[0]})") from error


def _config_folder(place: Path, header: Mapping[str, Any], config: str | None, local_only: bool) -> Path:
    """Where the configs of a single file lie: `config=`, a folder of the same name beside it, or the Hub's cache."""
    beside = place.with_suffix("")
    for candidate in (config, beside):
        if candidate is not None and (Path(candidate) / "model_index.json").is_file():
            return Path(candidate)
    if config is not None:
        raise ModelError(f"config='{config}' holds no model_index.json; give a diffusers folder of this family")
    repository = _config_repository(header)
    try:
        return _from_hub_configs(repository, local_only)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"'{place}' needs the configs of {repository}, which are not here; put its files except the weights in "
            f"'{beside}'"
        ) from error


def _config_repository(header: Mapping[str, Any]) -> str:
    """The Hub repository whose architecture a single file has, told from its tensors' names and shapes."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    tensors = {name: torch.empty(entry["shape"], device="meta") for name, entry in header.items() if name[:2] != "__"}
    return str(fetch_diffusers_config(tensors)["pretrained_model_name_or_path"])


def _from_hub_configs(repository: str, local_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    small = ["*.json", "*.txt", "*.model", "*/*.json", "*/*.txt", "*/*.model"]
    folder = Path(snapshot_download(repository, allow_patterns=small, local_files_only=local_only))
    if not (folder / "model_index.json").is_file():
        raise OSError(f"{repository} is not in the cache")
    return folder


@contextmanager
def quiet(local_only: bool) -> Iterator[None]:
    """While libraries load: no progress bars, and with `local_only` no request to the Hub; all of it is put back."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    bars = [log for log in (diffusers_log, transformers_log) if log._tqdm_active]
    for log in bars:
        setattr(log, "_tqdm_active", False)  # noqa: B010  # the public switch also sets a process-wide variable
    try:
        with hub.closed(local_only):
            yield
    finally:
        for log in bars:
            setattr(log, "_tqdm_active", True)  # noqa: B010
