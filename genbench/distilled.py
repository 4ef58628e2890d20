"""A distilled student as a plugin: one network in the place of another, and the few steps that it draws in.

A student brings its own number of steps and no guidance; both can be asked for otherwise, though guidance doubles the
cost of what has its teacher's guidance in its weights. It replaces the denoising network alone, so it draws with text
encoders and VAE of the model that it was made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from genbench import hub
from genbench.backbones import ADAPTERS, adapter_class, network_name
from genbench.backbones.folders import check_safetensors
from genbench.errors import ModelError, UsageError, did_you_mean
from genbench.fewstep import FewStep, check_steps
from genbench.hashes import file_hash
from genbench.kinds import About, Model, Resources
from genbench.models import model_hash, source_of
from genbench.studentfiles import FILE, TENSORS, StudentFile, network_of, read_about, save_student, weight_files

__all__ = ["Student", "StudentFile", "read_about", "save_student"]

AUTO = "auto"
ONE_STEP: Mapping[str, object] = {"steps": 1, "guidance_scale": 1.0}
TIMES = "the t / 1000 of each step, such as 0.999,0.749,0.499,0.249"


class Recommended:
    """Of the class what most students bring, of an object what its own file says."""

    def __get__(self, student: Student | None, owner: type) -> Mapping[str, object]:
        return ONE_STEP if student is None else {**ONE_STEP, **student.brings()}


@dataclass(frozen=True)
class Student:
    """What such plugins share. A plugin inherits it and brings `about` and the folder of its shipped files.

    Files that say nothing of themselves are taken to be published ones: `times` are then asked for, as t / 1000, and
    their walk begins from unit noise.
    """

    weights: str = AUTO  # auto (by the model), a file, a training's or diffusers folder, or hf:org/name/file
    times: tuple[float, ...] | None = None  # of its steps, falling, in (0, 1]; none: as the file says

    about: ClassVar[About]
    shipped: ClassVar[Path]
    """Folder of student files, each called after the model that it is for: `solids.safetensors`."""
    recommended: ClassVar[Recommended] = Recommended()
    pickles: ClassVar[str] = "convert it to .safetensors first"
    """What to do about a pickle of more than tensors."""

    def __post_init__(self) -> None:
        times = self.times
        falling = times is None or list(times) == sorted(set(times), reverse=True)
        if times is not None and not (times and falling and all(0 < time <= 1 for time in times)):
            raise ValueError(f"{self.name}.times={','.join(map(str, times))}: they are {TIMES}")

    @property
    def name(self) -> str:
        """What messages call the plugin."""
        return type(self).__name__.lower()

    def brings(self) -> Mapping[str, object]:
        """The request fields that `times` or the files say, as far as can be known without the model."""
        if self.times is not None:
            return {"steps": len(self.times)}
        told = [each.recommended for each in self._headers()]
        return told[0] if told and all(each == told[0] for each in told) else {}

    # --- checks -------------------------------------------------------------------------------------------------------

    def check_words(self, words: Mapping[str, object]) -> None:
        """Raise UsageError for what is about the network that is replaced, or for more steps than the student takes."""
        for word in ("lora", "offload"):
            if words.get(word):
                raise UsageError(f"{word}= is for the network that {self.name} replaces; leave one of them out")
        times, steps = self.times, words.get("steps")
        if times is None:
            times = next((told.times for told in self._headers(str(words.get("model")).lower())), None)
        if times is not None and isinstance(steps, int):
            check_steps(steps, times)

    def check(self, model: str, family: str) -> None:
        """Raise ModelError where no student is known for the model, or a file on this machine is not for it."""
        place = self._place(model)
        if place is not None:
            told = self._told(self._files(place), _network_of(family))
            self._check_base(told, model)

    def version(self) -> str:
        """Which weights these are, as far as the words tell: the hash of files that were named, else the word."""
        files = () if self.weights == AUTO else weight_files(Path(self.weights).expanduser())
        return " ".join([self.weights, *(file_hash(file)[:12] for file in files if file.is_file())])

    def evaluations(self, plain: int, ctx: object) -> int:
        """Network evaluations of one picture, where a plain one takes `plain`: no more."""
        return plain

    # --- the model ----------------------------------------------------------------------------------------------------

    def transform_model(self, model: Model, ctx: Resources) -> Model:
        """Return the model with the student's network and steps.

        Raises ModelError for a student that does not fit, UsageError where another one has taken its place.
        """
        if isinstance(model.sampler, FewStep):
            raise UsageError(f"{self.name} replaces the network of another student in the chain; leave one of them out")
        module = network_name(model)
        if module is None:
            raise ModelError(f"{self.name} has no network to replace in model={model.name}")
        files = self._fetched(model.name, ctx)
        told = self._told(files, module)
        self._check_base(told, model.name)
        if told.base_hash and told.base_hash != model_hash(model):
            raise ModelError(self._wrong_base(told, model.name))
        network = network_of(files, model.modules[module], self._said, model.name)
        sampler = FewStep(told.times, model.sampler, told.init_scale, as_told=not told.method)
        return model.replace(modules={module: network}, sampler=sampler, recommended={**ONE_STEP, **told.recommended})

    @property
    def _said(self) -> str:
        return f"{self.name}.weights={self.weights}"

    def _train(self, model: str) -> str:
        return (
            f"train one: genbench train plugin={self.name} model={model} prompts=FILE; then {self.name}.weights=FOLDER"
        )

    def _told(self, files: tuple[Path, ...], module: str | None) -> StudentFile:
        """What the student says of itself, with `times=` in place of its own. Raises ModelError."""
        told = read_about(files[0])
        if told is not None and module not in (None, told.module):
            raise ModelError(f"{self._said} is a {told.module}, of another family; this model has a {module}")
        if told is None and self.times is None:
            raise ModelError(f"{self._said} does not say when it was trained; give {self.name}.times=, {TIMES}")
        told = told or StudentFile("", "", "", module or "", (), init_scale=1.0)
        return told if self.times is None else _with_times(told, self.times)

    def _check_base(self, told: StudentFile, model: str) -> None:
        """What names tell: installed models have one name. For folders and the Hub the hash decides, once loaded."""
        if told.base and told.base != model and source_of(told.base) and source_of(model):
            raise ModelError(self._wrong_base(told, model))

    def _wrong_base(self, told: StudentFile, model: str) -> str:
        if told.base == model:
            return f"{self._said} was made of other weights than those of model={model} here; {self._train(model)}"
        return (
            f"{self._said} was made of model={told.base}, and model={model} has other weights; draw with "
            f"model={told.base}, or {self._train(model)}"
        )

    # --- files --------------------------------------------------------------------------------------------------------

    def _shipped(self) -> Mapping[str, Path]:
        return {path.stem: path for path in sorted(self.shipped.glob("*.safetensors"))}

    def _headers(self, model: str | None = None) -> Iterator[StudentFile]:
        """What the files say that the words may mean (for a model), as far as they can be read."""
        if self.weights != AUTO:
            places = [Path(self.weights).expanduser()]
        else:
            places = [path for name, path in self._shipped().items() if model in (None, name)]
        for place in places:
            with suppress(ModelError, OSError):
                told = [read_about(file) for file in weight_files(place)[:1]]
                yield from (each for each in told if each is not None)

    def _place(self, model: str) -> Path | None:
        """The file or folder on this machine; None where it is the Hub's. Raises ModelError where there is none."""
        if self.weights == AUTO:
            return self._known(model)
        return None if hub.is_hub_file(self.weights) else Path(self.weights).expanduser()

    def _known(self, model: str) -> Path:
        shipped = self._shipped()
        if model.lower() not in shipped:
            there = f"there are some for {', '.join(shipped)}" if shipped else "none come with it"
            raise ModelError(f"no {self.name} student is known for model='{model}' ({there}); {self._train(model)}")
        return shipped[model.lower()]

    def _files(self, place: Path) -> tuple[Path, ...]:
        """The files at a place. Raises ModelError where there are none, or of a kind that is not opened."""
        files = weight_files(place)
        if not files:
            raise ModelError(self._nothing(place))
        for file in files:
            if not file.is_file():
                raise ModelError(f"{self._said} is incomplete: {file.name} is missing")
            if file.suffix == ".safetensors":
                check_safetensors(file)
            elif file.suffix not in TENSORS:
                raise ModelError(f"{self._said} is a pickle, which can run code when opened; {self.pickles}")
        return files

    def _nothing(self, place: Path) -> str:
        if place.is_dir():
            return f"{self._said} is a folder without {FILE}; name the student's file"
        if place.suffix or len(place.parts) > 1:
            return f"{self._said} does not exist; give a student's file, or the folder that training wrote"
        return f"{self._said} is neither a file nor a folder{did_you_mean(self.weights, [AUTO])}"

    def _fetched(self, model: str, ctx: Resources) -> tuple[Path, ...]:
        """The files here, fetched if need be; notes their hashes in the record."""
        place = self._place(model)
        if place is None and not self.weights.partition("@")[0].endswith("/"):
            return self._files(Path(ctx.load(self.weights, str)))
        files = self._files(hub.fetch(self.weights) if place is None else place)
        return tuple(Path(ctx.load(file, str)) for file in files)


def _network_of(family: str) -> str | None:
    """What a family of diffusers calls its denoising network; None for other models."""
    found = (name for name, place in ADAPTERS.items() if place.startswith(f"{family}:"))
    return next((adapter_class(name).network_name for name in found), None)


def _with_times(told: StudentFile, times: tuple[float, ...]) -> StudentFile:
    return replace(told, times=times, recommended={**told.recommended, "steps": len(times)})
