"""What set metrics compare with: a folder of pictures, or pictures that a model's source renders for the same prompts.

An installed model's source may have `reference(prompts, seed) -> (n, 3, h, w)` in [0, 1], true pictures of n prompts
(the embedded model has its renderer), and `encoder`, the encoder's name that set metrics use unless told otherwise.
Features are computed once per reference and encoder, and kept in the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genbench import discovery
from genbench.discovery import Plugin
from genbench.errors import UsageError
from genbench.evaluation.scoring import BATCH, Metric, embedded, load, version_of
from genbench.evaluation.store import Store
from genbench.generation import batched

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
Vectors = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Reference:
    """Reference pictures: `id` names their content, `images` yields them in batches of equal size."""

    id: str
    images: Callable[[], Iterator[Tensor]]

    def features(self, store: Store, metric: Metric) -> Vectors:
        """Return features (m, d), from the store where it has them."""
        names = store.reference_features(self.id, metric.encoder_word, metric.encoder_version)
        if names is None:
            names = np.concatenate([embedded(metric, images) for images in self.images()])
            store.add_reference_features(self.id, metric.encoder_word, metric.encoder_version, names)
        return names


def open_reference(word: str, prompts: Sequence[str], size: int) -> Reference:
    """Return the reference that `word` names: a folder, or an installed source with `reference`.

    Raises UsageError where it is neither. `size` limits rendered pictures; a folder is taken whole.
    """
    folder = Path(word).expanduser()
    if folder.is_dir():
        return folder_reference(folder)
    plugin = source_plugin(word)
    if plugin is None:
        raise UsageError(f"reference={word} is no folder of pictures and no installed model; give one of the two")
    render = getattr(plugin.object, "reference", None)
    if render is None:
        raise UsageError(f"the model '{word}' renders no reference pictures; give a folder: reference=FOLDER")
    asked = hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16]
    return Reference(f"{word} {version_of(plugin, {})} {size} of {asked}", lambda: rendered(render, prompts, size))


def source_plugin(word: str) -> Plugin | None:
    """Return the installed source of that name; None where the word is a Hub id, a folder or a file."""
    installed = any(entry.name == word for entry in discovery.entries("source"))
    return discovery.build(word, {}, ("source",)) if installed else None


def folder_reference(folder: Path) -> Reference:
    """Return all pictures under a folder; its id is the hash of their bytes. Raises UsageError where there is none."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UsageError(f"reference={folder} holds no picture ({', '.join(SUFFIXES)})")
    content = hashlib.sha256()
    for path in paths:
        content.update(hashlib.sha256(path.read_bytes()).digest())
    return Reference(f"folder {content.hexdigest()[:24]}", lambda: _read(paths))


def _read(paths: Sequence[Path]) -> Iterator[Tensor]:
    for batch in batched(paths, BATCH):
        for _, group in groupby(map(load, batch), key=lambda image: image.shape):
            yield torch.stack(list(group))


def rendered(render: Callable[[Sequence[str], int], Tensor], prompts: Sequence[str], size: int) -> Iterator[Tensor]:
    """Yield `size` rendered pictures, going round the prompts with a new seed each batch."""
    endless = (prompt for _ in iter(int, 1) for prompt in prompts)
    for seed, first in enumerate(range(0, size, BATCH)):
        yield render(list(islice(endless, min(BATCH, size - first))), seed)
