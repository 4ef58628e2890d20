"""What the options name on disk: a picture as a tensor, and a hash of weights for the record."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from genbench import hub, models
from genbench.errors import GenbenchError, ModelError, UsageError

WEIGHTS = (".safetensors", ".json")


def picture(path: Path) -> Tensor:
    """Read a picture file as (3, h, w) in [0, 1]. Raises UsageError where it is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            shown = image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise UsageError(f"image={path} cannot be read as a picture") from error
    bytes_ = torch.frombuffer(bytearray(shown.tobytes()), dtype=torch.uint8)
    return bytes_.view(shown.height, shown.width, 3).permute(2, 0, 1).float() / 255


def check_model(name: str, word: str) -> None:
    """Raise ModelError where `word` names no model, as far as this machine tells: what a Hub id names is not asked."""
    if models.source_of(word) is not None or Path(word).expanduser().exists() or not models.HUB_ID.fullmatch(word):
        try:
            models.located(word, models.ModelOptions(), models.installed_source)
        except ModelError as error:
            raise ModelError(str(error).replace("model=", f"{name}=", 1)) from None


def check_source(name: str, word: str | None) -> None:
    """Raise UsageError where `word` is neither a file or folder here nor a name of the Hub."""
    if word is None or hub.is_hub_file(word) or Path(word).expanduser().exists():
        return
    if Path(word).suffix in (*WEIGHTS, *models.PICKLES) or not models.HUB_ID.fullmatch(word):
        raise UsageError(f"{name}={word} does not exist; give a file, a folder or a name of the Hub (org/name)")


def digest(words: Sequence[str]) -> str:
    """Hash of the files that the words name, 12 hex digits; a word that is not on this machine counts as itself."""
    parts = [f"{file.name}:{models.file_hash(file)}" for word in words for file in files(word)] or list(words)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12] if words else ""


def files(word: str) -> list[Path]:
    """The weight files and configs of a path, an installed model or a model in the local cache; empty elsewhere."""
    place = Path(word).expanduser()
    if not place.exists():
        try:
            found = models.located(word, models.ModelOptions(offline=True), models.installed_source).place
        except GenbenchError:
            return []
        place = found if isinstance(found, Path) else place
    if place.is_file():
        return [place]
    return sorted(file for file in place.rglob("*") if file.suffix in WEIGHTS)
