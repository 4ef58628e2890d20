"""A finetuned model as a plugin: LoRAs that come with the plugin, or that its trainer made, on the model of a run.

Several LoRAs add up in weight space, W + strength sum_i scale_i B_i A_i: each stays an adapter of its own, so that the
effect of a scale is linear. Mixing the factors A and B instead would be bilinear, with cross terms B_i A_j.
"""

# pyright: basic
# safetensors carries no types; it stops at this module's own signatures.

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from safetensors import safe_open
from torch import Tensor, nn

from genbench.backbones import NETWORKS
from genbench.backbones.lora import FILE, location
from genbench.backbones.preparation import LoraWord, parse_lora
from genbench.errors import ModelError, UsageError, did_you_mean
from genbench.hashes import file_hash
from genbench.hub import is_hub_file
from genbench.kinds import About, Model, Resources
from genbench.options import Range

AUTO = "auto"
DOWN = (".lora_A.weight", ".lora.down.weight")


@dataclass(frozen=True)
class Finetuned:
    """What such plugins share. A plugin inherits it and brings `about` and the folder of its shipped files."""

    strength: Annotated[float, Range()] = 1.0  # scales all LoRAs; 0 is neutral, below 0 leads away
    weights: tuple[str, ...] = (AUTO,)  # auto (by the model), or files and folders of LoRAs, each perhaps with :SCALE

    about: ClassVar[About]
    shipped: ClassVar[Path]
    """Folder of LoRA files, each called after the model that it is for: `solids.safetensors`."""

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError(f"weights= names nothing; write {AUTO} or a file")

    @property
    def name(self) -> str:
        """What messages call the plugin."""
        return type(self).__name__.lower()

    def check(self, model: str, family: str) -> None:
        """Raise ModelError where no weights are known for the model, or a file of them is missing or damaged."""
        for lora in self.loras(model) if self.strength else ():
            if not is_hub_file(lora.source):
                location(lora.source)

    def version(self) -> str:
        """Which weights these are, as far as the words tell: the hash of a file that was named, else its word."""
        return ",".join(_version(word) for word in self.weights)

    def evaluations(self, plain: int, ctx: object) -> int:
        """Network evaluations of one picture, where a plain one takes `plain`: no more."""
        return plain

    def transform_model(self, model: Model, ctx: Resources) -> Model:
        """Return a view with the LoRAs added; the model itself stays. Raises ModelError for one that does not fit."""
        for lora in self.loras(model.name) if self.strength else ():
            file = ctx.load(lora.source, str)  # notes its hash in the record
            check_fit(Path(file), model, f"{self.name}.weights={lora.source}")
            with _without_hints():
                model = model.view(lora=file, lora_scale=self.strength * lora.scale)
        return model

    def loras(self, model: str) -> tuple[LoraWord, ...]:
        """The LoRAs for a model: files, or words for the Hub, with their scales. Raises ModelError."""
        words = [parse_lora(word) for word in self.weights]
        return tuple(replace(word, source=self._source(word.source, model)) for word in words)

    def _source(self, word: str, model: str) -> str:
        files = self._files()
        if word == AUTO and model.lower() not in files:
            raise ModelError(self._none(model, files))
        name = model.lower() if word == AUTO else word
        if name in files:
            return str(files[name])
        return word if is_hub_file(word) else str(file_of(word, f"{self.name}.weights", files))

    def _files(self) -> Mapping[str, Path]:
        return {path.stem: path for path in sorted(self.shipped.glob("*.safetensors"))}

    def _none(self, model: str, files: Mapping[str, Path]) -> str:
        there = f"there are some for {', '.join(files)}" if files else "none come with it"
        return (
            f"no {self.name} weights are known for model='{model}' ({there}); train some: genbench train "
            f"plugin={self.name} model={model} reward=SCORER prompts=FILE; then {self.name}.weights=FOLDER"
        )


def drawing(trainer: About, summary: str) -> About:
    """What the plugin that draws with a trainer's LoRAs says of itself."""
    return replace(trainer, summary=summary, cost="plain", neutral={"strength": 0.0})


def file_of(word: str, option: str, shipped: Mapping[str, Path]) -> Path:
    """Return the LoRA file that a word names: itself, or the one in a folder. Raises ModelError."""
    path = Path(word).expanduser()
    found = inside(path)
    if found is not None:
        return found
    if path.is_dir():
        raise ModelError(f"{option}={word} is a folder without {FILE}; name the LoRA's file")
    if path.suffix or len(path.parts) > 1:
        raise ModelError(f"{option}={word} does not exist; give a LoRA's file, or the folder that training wrote")
    raise ModelError(f"{option}={word} is neither a file nor a folder{did_you_mean(word, [AUTO, *shipped])}")


def inside(path: Path) -> Path | None:
    """Return the LoRA file at a path: the file itself, that of a LoRA's folder, or that of a training's folder."""
    places = (path, path / FILE, path / "lora" / FILE)
    return next((place for place in places if place.is_file()), None)


def check_fit(path: Path, model: Model, said: str) -> None:
    """Raise ModelError where a file names layers that the model has not, or of another width; `said` names the file.

    Looks at the layouts that diffusers writes; what else it reads is left to it.
    """
    if path.suffix != ".safetensors":
        return
    with safe_open(path, "pt") as file:
        down = {name: file.get_slice(name).get_shape() for name in file.keys() if name.endswith(DOWN)}  # noqa: SIM118
    for name, shape in down.items():
        part, _, layer = name.rpartition(".lora")[0].partition(".")
        if part not in NETWORKS:  # a text encoder's, or of an older kind that does not say whose it is
            continue
        network = model.modules.get(part)
        if network is None:
            raise ModelError(f"{said} does not fit model={model.name}, which has no {part}; it is of another family")
        width = _width(network, layer)
        if width != shape[1]:
            there = f"{width} wide" if width else "not there"
            raise ModelError(
                f"{said} does not fit model={model.name}: it was made for a model whose {layer} is {shape[1]} wide, "
                f"here it is {there}"
            )


def _width(network: nn.Module, layer: str) -> int | None:
    """How many numbers a linear layer takes; None where there is no such layer."""
    try:
        weight = network.get_submodule(layer).weight
    except AttributeError:
        return None
    return int(weight.shape[1]) if isinstance(weight, Tensor) else None


@contextmanager
def _without_hints() -> Generator[None]:
    """Keep diffusers from saying that a LoRA of the denoising network has nothing for the text encoders."""
    log, hint = logging.getLogger("diffusers.loaders.lora_base"), "No LoRA keys associated"

    def wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(hint)

    log.addFilter(wanted)
    try:
        yield
    finally:
        log.removeFilter(wanted)


def _version(word: str) -> str:
    try:
        file = inside(Path(parse_lora(word).source).expanduser())
    except UsageError:
        return word
    return word if file is None else f"{word} {file_hash(file)[:12]}"
