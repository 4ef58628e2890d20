"""Opening a model by one word: an installed name, a Hub id, a local folder or a single .safetensors file.

Everything that can be refused is refused before weights load: options that cannot work here, missing and truncated
files, pickles, code that a model would bring along.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch

from genbench import discovery
from genbench.backbones import adapt, adapter_class
from genbench.backbones.folders import PICKLES
from genbench.backbones.loading import from_hub, inspected, load, quiet
from genbench.backbones.preparation import check_family, check_options, parse_lora, prepared
from genbench.chain import named_source
from genbench.errors import ModelError, UsageError, did_you_mean
from genbench.hashes import file_hash as file_hash
from genbench.kinds import Ledger, Model, Source

if TYPE_CHECKING:
    from genbench.request import Request

Sources = Callable[[str], Source | None]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class ModelOptions:
    """How a model is opened; the words of a run.

    `lora`: `path:scale`, several. `attention`: a backend of diffusers' dispatcher. `offload`: `model`, `sequential`.
    `cache`: `first_block[:threshold]`, `taylorseer[:interval]`. `config`: the folder with the configs of a single
    file. `true_cfg`: FLUX's second guidance, used with a negative prompt; 1 is off.
    """

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    device: str = "auto"
    revision: str | None = None
    variant: str | None = None
    lora: tuple[str, ...] = ()
    attention: str | None = None
    offload: str | None = None
    compile: bool = False
    cache: str | None = None
    offline: bool = False
    config: str | None = None
    true_cfg: float = 1.0

    @classmethod
    def from_request(cls, request: Request) -> ModelOptions:
        """Take the model's words out of a request."""
        return cls(
            dtype=request.dtype,
            device=request.device,
            revision=request.revision,
            variant=request.variant,
            lora=request.lora,
            attention=request.attention,
            offload=request.offload,
            compile=request.compile,
            cache=request.cache,
            offline=request.offline,
            config=request.config,
            true_cfg=request.true_cfg,
        )

    @property
    def local_only(self) -> bool:
        """Whether the network is out of bounds, by `offline=true` or by the Hub's own variable."""
        return self.offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def open_model(
    word: str,
    options: ModelOptions,
    ledger: Ledger,
    sources: Sources | None = None,
    allow: Callable[[str], None] = lambda family: None,
) -> Model:
    """Open the model that `word` names; its network calls are counted in `ledger`.

    `allow(family)` may refuse the model's family by raising, before its weights load. Raises UsageError for options
    that cannot work here and ModelError naming what is missing or wrong.
    """
    device = chosen_device(options.device)
    dtype = chosen_dtype(options.dtype, device)
    check_options(options.attention, options.offload, options.cache, options.lora, device)
    found = located(word, options, sources or installed_source)
    if not isinstance(found.place, Path):
        allow(found.place.family)
        return found.place.replace(ledger=ledger, recommended=found.recommended, name=word)
    folder = inspected(found.place, options.variant, options.config, options.local_only)
    check_family(folder.pipeline_class, options.cache, options.lora, options.true_cfg)
    allow(adapter_class(folder.pipeline_class).family)
    with quiet(options.local_only):
        pipeline = load(folder, dtype, options.variant)
    model = prepared(
        adapt(pipeline, ledger, (*folder.files, *lora_files(options.lora))),
        device,
        lora=[parse_lora(text) for text in options.lora],
        attention=options.attention,
        offload=options.offload,
        cache=options.cache,
        compile=options.compile,
        local_only=options.local_only,
    )
    # A class attribute is no property to the type checker, though it reads like one.
    opened = cast(Model, model.replace(recommended=found.recommended, name=word))
    return opened if options.true_cfg == 1.0 else with_true_cfg(opened, options.true_cfg)


def with_true_cfg(model: Model, scale: float) -> Model:
    """Return the model with a second guidance at `scale`. Raises ModelError where its family has none."""
    if scale == getattr(model, "true_cfg_scale", 1.0):
        return model
    own: Callable[[float], Model] | None = getattr(model, "with_true_cfg", None)
    if own is None:
        raise ModelError(f"true_cfg={scale} is FLUX's second guidance; {model.family} has guidance_scale alone")
    return own(scale)


def checked_family(found: Located, options: ModelOptions) -> str:
    """Return the family of what `located` found, read without weights. Raises ModelError or UsageError for files that
    are missing or wrong and for options that its family cannot honour.
    """
    if not isinstance(found.place, Path):
        if options.true_cfg != 1.0:
            with_true_cfg(found.place, options.true_cfg)
        return found.place.family
    folder = inspected(found.place, options.variant, options.config, options.local_only)
    check_family(folder.pipeline_class, options.cache, options.lora, options.true_cfg)
    return adapter_class(folder.pipeline_class).family


def lora_files(words: Sequence[str]) -> tuple[Path, ...]:
    """Return the LoRA files that lie on this machine; they are part of the model's hash."""
    sources = [Path(parse_lora(word).source) for word in words]
    found = [[place] if place.is_file() else sorted(place.glob("*.safetensors")) for place in sources]
    return tuple(file for files in found for file in files)


def model_hash(model: Model) -> str:
    """SHA-256 of a model's weight files: of the file itself where there is one (its first ten characters are what
    other tools show), else of every part's name and hash. Files are hashed once per process, size and change time.
    """
    files: tuple[Path, ...] = getattr(model, "files", ())
    if not files:
        return hashlib.sha256(model.family.encode()).hexdigest()
    if len(files) == 1:
        return file_hash(files[0])
    lines = sorted(f"{file.parent.name}/{file.name}:{file_hash(file)}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# --- where ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Located:
    """What a word stands for: a folder, a file or a ready model, and the settings its source recommends."""

    place: Path | Model
    recommended: Mapping[str, object]


def located(word: str, options: ModelOptions, sources: Sources) -> Located:
    """Find what `word` names without loading it. Raises ModelError saying what exists."""
    source = sources(word)
    if source is not None:
        return Located(source.open(), source.recommended)
    base, _, view = word.partition("/")
    source = sources(base) if view else None
    if source is not None:
        return Located(_view(source, base, view), source.recommended)
    path = Path(word).expanduser()
    if path.exists():
        return Located(path, {})
    looks_local = path.is_absolute() or word.startswith((".", "~")) or path.suffix in (".safetensors", *PICKLES)
    if looks_local or not HUB_ID.fullmatch(word):
        raise ModelError(_unknown(word, looks_local))
    return Located(from_hub(word, options.revision, options.variant, options.local_only), {})


def installed_source(word: str) -> Source | None:
    """Return the installed source called `word`, if there is one."""
    names = {entry.name for entry in discovery.entries("source")}
    return named_source(word) if word in names else None


def source_of(word: str) -> Source | None:
    """Return the installed source that `word` names, by itself or by one of its views (`solids/weak`)."""
    return installed_source(word.partition("/")[0])


def _view(source: Source, base: str, view: str) -> Path:
    views: Mapping[str, Path] = getattr(source, "views", {})
    if view not in views:
        raise ModelError(f"model='{base}/{view}' does not exist{did_you_mean(view, views)} (of '{base}')")
    return views[view]


def _unknown(word: str, looks_local: bool) -> str:
    if looks_local:
        return f"model='{word}' does not exist; give a diffusers folder, a .safetensors file, a Hub id or a name"
    names = [entry.name for entry in discovery.entries("source")]
    return f"model='{word}' is neither installed nor a folder, file or Hub id (org/name){did_you_mean(word, names)}"


# --- device and dtype -------------------------------------------------------------------------------------------------


def chosen_device(word: str) -> torch.device:
    """Return `cuda`, `mps` or `cpu` for auto, else the device named. Raises UsageError where it is not here."""
    if word == "auto":
        backend = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(backend)
    try:
        device = torch.device(word)
    except RuntimeError:
        raise UsageError(f"device='{word}' is not a device; there is auto, cpu, cuda, cuda:1, mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device='{word}' is not here ({torch.cuda.device_count()} CUDA devices); use device=cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device='mps' is not here; use device=cpu")
    return device


def chosen_dtype(word: str, device: torch.device) -> torch.dtype:
    """Return float32 on CPU and MPS and bfloat16 (where it is fast) or float16 on CUDA for auto."""
    if word != "auto":
        if word not in DTYPES:
            raise UsageError(f"dtype='{word}' is not known{did_you_mean(word, ['auto', *DTYPES])}")
        return DTYPES[word]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
