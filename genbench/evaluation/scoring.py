"""Judging saved pictures: scorers picture by picture, set metrics on an encoder's features.

Reads pictures from the folder and never draws, so `genbench eval` and `genbench score` give the same values. What was
judged before (the same pixels, the same prompt row, the same scorer version) is not judged again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from genbench import discovery
from genbench.discovery import Plugin, one_line
from genbench.errors import GenbenchError, PluginError, UsageError
from genbench.evaluation.keeping import SHEET
from genbench.evaluation.store import Made, Store
from genbench.generation import batched
from genbench.kinds import Encoder, Scorer
from genbench.scenes.turntables import VIEWS
from genbench.scenes.views import COLUMNS, cells

BATCH = 64
CPU = torch.device("cpu")
Options = Mapping[str, Mapping[str, object]]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Metric:
    """One word of `metrics=`: a scorer, or a set metric with the encoder whose features it sees (`kid@solids-clip`).

    Pictures are on `device` when scorer or encoder is asked about them, which is where its weights go.
    """

    word: str
    plugin: Plugin
    version: str
    encoder: Plugin | None = None
    encoder_word: str = ""
    encoder_version: str = ""
    device: torch.device = CPU

    @property
    def on_sets(self) -> bool:
        return self.encoder is not None

    @property
    def label(self) -> str:
        """The word with its encoder."""
        return f"{self.word}@{self.encoder_word}" if self.on_sets else self.word


@dataclass(frozen=True)
class Metrics:
    """The words of one command, built: wrong names and options stop before anything is drawn."""

    chosen: tuple[Metric, ...] = field(default_factory=tuple)

    @classmethod
    def read(cls, words: Sequence[str], encoder: str, options: Options, device: torch.device = CPU) -> Metrics:
        """Build every metric. Raises UsageError or PluginError; `encoder` serves set metrics that name none."""
        return cls(tuple(replace(_metric(word, encoder, options), device=device) for word in dict.fromkeys(words)))

    def scorers(self) -> list[Metric]:
        return [metric for metric in self.chosen if not metric.on_sets]

    def sets(self) -> list[Metric]:
        return [metric for metric in self.chosen if metric.on_sets]


def _metric(word: str, encoder: str, options: Options) -> Metric:
    name, _, own = word.partition("@")
    plugin = _built(name, options.get(name, {}))
    version = version_of(plugin, options.get(name, {}))
    if "metric" not in plugin.kinds:
        if own:
            raise UsageError(f"metrics={word}: '{name}' scores single pictures and takes no encoder; write {name}")
        if getattr(plugin.object, "relative", False):
            raise UsageError(
                f"metrics={word}: with these options '{name}' only compares pictures that it sees together, which is "
                "no value of a picture; give it other options, or use it as verifier="
            )
        return Metric(word, plugin, version)
    chosen = own or encoder
    if not chosen:
        raise UsageError(f"metrics={name} needs an encoder: write {name}@ENCODER, or encoder=ENCODER for all")
    built = discovery.build(chosen, options.get(chosen, {}), ("encoder",))
    return Metric(name, plugin, version, built, chosen, version_of(built, options.get(chosen, {})))


def _built(name: str, options: Mapping[str, object]) -> Plugin:
    """Build a scorer or set metric. A name that none has, but that a metric is known by, is told what to write."""
    try:
        return discovery.build(name, options, ("scorer", "metric"))
    except PluginError:
        meant = {word: written for known in _known_as() for word, written in known.items()}
        if name.lower() not in meant or any(entry.name == name for entry in discovery.entries()):
            raise
        raise UsageError(f"metrics={name}: {name.upper()} is {meant[name.lower()]} here; write that") from None


def _known_as() -> Iterator[Mapping[str, str]]:
    """Yield what installed set metrics say they are known as; broken ones say nothing."""
    for entry in discovery.entries("metric"):
        with suppress(GenbenchError):
            yield getattr(discovery.load_class(entry), "known_as", {})


def version_of(plugin: Plugin, options: Mapping[str, object]) -> str:
    """Say what judged: distribution, version, hash of code and weights, how it resizes pictures where it says so
    (`resize: ClassVar[str]`), options. Values of unlike versions are never put together.
    """
    entry, resize = plugin.entry, getattr(plugin.object, "resize", "")
    code = f"{entry.distribution} {entry.version} {plugin.fingerprint}" if entry else f"file {plugin.fingerprint}"
    parts = [code, f"resize: {resize}" if resize else "", json.dumps(dict(options), sort_keys=True) if options else ""]
    return " ".join(part for part in parts if part)


# --- pictures -----------------------------------------------------------------------------------------------------


def load(path: Path) -> Tensor:
    """Read a picture file as (3, h, w) in [0, 1]."""
    from PIL import Image

    with Image.open(path) as opened:
        pixels: Any = np.array(opened.convert("RGB"))
    return torch.as_tensor(pixels).permute(2, 0, 1).float() / 255


def views(path: Path) -> Tensor:
    """Read what a picture file shows: one picture (1, 3, h, w), of a scene several views (v, 3, h, w)."""
    return cells(load(path), COLUMNS, VIEWS // COLUMNS) if path.name.endswith(SHEET) else load(path)[None]


def loaded(folder: Path, wanted: Iterable[Made]) -> Iterator[tuple[list[Made], Tensor]]:
    """Yield saved pictures in batches of equal size: (pictures, images (b, v, 3, h, w)); v is 1 but of scenes."""
    for batch in batched(wanted, BATCH):
        images = [(made, views(folder / made.path)) for made in batch]
        for _, group in groupby(images, key=lambda pair: pair[1].shape):
            members = list(group)
            yield [made for made, _ in members], torch.stack([image for _, image in members])


def score(store: Store, metric: Metric, progress: Progress) -> None:
    """Score every picture of the store that this version of a scorer has not judged yet; what fails is noted."""
    store.ask(metric.word, metric.version)
    store.forget_unscored(metric.word)
    done = store.scored(metric.word, metric.version)
    todo = {(m.image, m.asked): m for m in store.pictures() if (m.image, m.asked) not in done}
    for batch in batched(todo.values(), BATCH):
        _score(store, metric, batch)
        progress(len(batch))


def _score(store: Store, metric: Metric, batch: list[Made]) -> None:
    """Score a batch; one that fails is scored picture by picture, so that one bad picture costs one value."""
    try:
        add_scores(store, metric, batch)
    except Exception as error:  # whatever a scorer raises must not cost the other values
        if len(batch) > 1:
            for made in batch:
                _score(store, metric, [made])
        else:
            store.add_unscored(metric.word, metric.version, batch[0], one_line(error))


def add_scores(store: Store, metric: Metric, batch: list[Made]) -> None:
    """Score a batch; a picture whose score is no number is noted as such. Raises whatever the scorer raises."""
    for members, images in loaded(store.folder, batch):
        with torch.no_grad():
            values = judge(cast(Scorer, metric.plugin.object), images.to(metric.device), members)
        wrong = {i: score for i, score in enumerate(values[""]) if not isfinite(score)}
        kept = [(i, made) for i, made in enumerate(members) if i not in wrong]
        rows = [(made, name, column[i]) for name, column in values.items() for i, made in kept]
        store.add_scores(metric.word, metric.version, rows)
        for i, score in wrong.items():
            store.add_unscored(metric.word, metric.version, members[i], f"the score is no number: {score}")


def judge(scorer: Scorer, images: Tensor, batch: Sequence[Made]) -> dict[str, list[float]]:
    """Return the score under the empty name and every detail under its own, one value per picture.

    Of images (b, v, 3, h, w) it is the mean over the views, or what a scorer's `score_views` says of them together.
    Raises PluginError where a column is of another length.
    """
    together: Callable[..., Tensor] | None = getattr(scorer, "score_views", None)
    if together is not None:
        asked = {"prompts": [made.text for made in batch], "rows": [made.row for made in batch]}
        return {"": _column("", together(views=images, **asked), len(batch))}
    count = images.shape[1]
    seen = [made for made in batch for _ in range(count)]
    columns = _judged(scorer, images.flatten(0, 1), seen)
    means = {
        name: torch.tensor(column, dtype=torch.float64).view(-1, count).mean(1) for name, column in columns.items()
    }
    return {name: [float(value) for value in column] for name, column in means.items()}


def _judged(scorer: Scorer, images: Tensor, batch: Sequence[Made]) -> dict[str, list[float]]:
    asked: dict[str, Any] = {"prompts": [made.text for made in batch], "rows": [made.row for made in batch]}
    details: Callable[..., dict[str, Tensor]] | None = getattr(scorer, "details", None)
    columns = {} if details is None else details(images=images, **asked)
    if "" not in columns:
        columns = {"": scorer.score(images=images, **asked), **columns}
    return {name: _column(name, column, len(batch)) for name, column in columns.items()}


def _column(name: str, column: Tensor, pictures: int) -> list[float]:
    if tuple(column.shape) != (pictures,):
        what = f"the detail '{name}'" if name else "the score"
        raise PluginError(f"{what} has shape {tuple(column.shape)} for {pictures} pictures, not ({pictures},)")
    return [float(value) for value in column]


def embed(store: Store, metric: Metric, progress: Progress) -> dict[str, Any]:
    """Return {image: features (d,)} of every picture of the store, computing what is missing."""
    known = store.features(metric.encoder_word, metric.encoder_version)
    todo = {made.image: made for made in store.pictures() if made.image not in known}
    for batch, images in loaded(store.folder, todo.values()):
        vectors = embedded(metric, images.flatten(0, 1)).reshape(*images.shape[:2], -1).mean(1)
        store.add_features(metric.encoder_word, metric.encoder_version, [made.image for made in batch], vectors)
        progress(len(batch))
    return store.features(metric.encoder_word, metric.encoder_version) if todo else known


def embedded(metric: Metric, images: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Features (n, d) of images (n, 3, h, w) in float32."""
    if metric.encoder is None:
        raise UsageError(f"{metric.word} has no encoder; write {metric.word}@ENCODER")
    with torch.no_grad():
        return cast(Encoder, metric.encoder.object).embed_images(images.to(metric.device)).float().cpu().numpy()
