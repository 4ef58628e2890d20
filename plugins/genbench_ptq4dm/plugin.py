"""The plugin `ptq4dm`: `genbench run plugin=ptq4dm prompt="..."` draws with an int8 network."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors import safe_open
from torch import nn

from genbench import hub, instructions
from genbench.backbones import network_name
from genbench.errors import ModelError, UsageError, did_you_mean
from genbench.hashes import file_hash
from genbench.kinds import About, Model, Resources
from genbench_ptq4dm import executed, integer, network
from genbench_ptq4dm.layers import float_layers, quantized_layers
from genbench_ptq4dm.network import FILE, QuantizedFile

AUTO = "auto"
Engine = Literal["auto", "openvino", "torch", "simulate", "off"]
ABOUT = About(
    summary="Draws in 8-bit integers, calibrated on the model's own walks.",
    paper="Shang et al., Post-training Quantization on Diffusion Models, CVPR 2023",
    url="https://arxiv.org/abs/2211.15736",
    license="Apache-2.0",
    families=("sd", "sdxl", "pixart", "hunyuan", "sd3", "flux", "unconditional"),
    cost="plain",
    neutral={"engine": "off"},
    cache_safe=True,
)


@dataclass(frozen=True)
class PTQ4DM:
    """PTQ4DM (arXiv:2211.15736): the denoising network in 8-bit integers, or weights alone in 8 or 4 bits."""

    engine: Engine = "auto"  # what multiplies: openvino, torch, simulate (floating point); off is neutral
    weights: str = AUTO  # auto (by the model), a file, a training's folder, or hf:org/name/file
    reduce_range: bool | None = None  # weights of 7 bits; none: where sums saturate, see `genbench doctor`

    about: ClassVar[About] = ABOUT
    shipped: ClassVar[Path] = Path(__file__).parent / "weights"
    """Folder of files, each called after the model that it is for, perhaps with what came first: `solids-sid`."""

    # --- checks -------------------------------------------------------------------------------------------------------

    def check_words(self, words: Mapping[str, object]) -> None:
        """Raise UsageError for words about the network that is replaced, MissingDependency for an absent engine."""
        if self.engine == "off":
            return
        if words.get("offload"):
            raise UsageError(
                "offload= moves the network that ptq4dm replaces; leave it out, int8 is a quarter as large"
            )
        if self.engine == "openvino":
            executed.check_installed()
            for word, why in (("compile", "compiles the network itself"), ("cache", "runs all of the network")):
                if words.get(word):
                    raise UsageError(f"{word}=: ptq4dm.engine=openvino {why}; leave one out, or take engine=torch")

    def check(self, model: str, family: str) -> None:
        """Raise ModelError where no file is known for the model, or one on this machine is damaged or not for it."""
        if self.engine == "off" or (self.weights != AUTO and hub.is_hub_file(self.weights)):
            return
        for path in self.files(model):
            network.read_about(path, self._said)

    def version(self) -> str:
        """Which weights these are, as far as the words tell."""
        path = None if self.weights == AUTO else file_in(Path(self.weights).expanduser())
        return self.weights if path is None else f"{self.weights} {file_hash(path)[:12]}"

    def evaluations(self, plain: int, ctx: object) -> int:
        """Network evaluations of one picture, where a plain one takes `plain`: no more."""
        return plain

    # --- the model ----------------------------------------------------------------------------------------------------

    def transform_model(self, model: Model, ctx: Resources) -> Model:
        """Return the model with the quantized network; the model itself stays.

        Raises ModelError for a file of another model, UsageError for a network that is quantized already.
        """
        if self.engine == "off":
            return model
        module = str(network_name(model))
        plain = check_plain(model)
        path = self._file(model, plain, ctx)
        about = network.read_about(path, self._said)
        if about.module != module:
            raise ModelError(f"{self._said} is a {about.module}, of another family; this model has a {module}")
        made = network.load(path, plain, about, self._said)
        engine = self.chosen(plain, about)
        if self.reduces(engine, made):
            reduce_weights(made)
        run_by(made, engine)
        if compiled(plain):
            made.compile()
        return model.replace(modules={module: made})

    def chosen(self, plain: nn.Module, about: QuantizedFile) -> Engine:
        """The engine: the one asked for, else the fastest that the device has and that the run's words allow."""
        if self.engine != "auto":
            return self.engine
        device = next(plain.parameters()).device.type
        if about.weights_alone or device not in ("cpu", "cuda"):
            return "simulate"
        if device == "cuda":
            return "torch"
        if executed.installed() and not compiled(plain) and not cached(plain) and is_float32(plain):
            return "openvino"
        return "torch" if platform.machine().lower() in ("x86_64", "amd64") else "simulate"

    def reduces(self, engine: Engine, made: nn.Module) -> bool:
        """Whether weights lose a bit: where integers are added up by a processor that saturates."""
        if self.reduce_range is not None:
            return self.reduce_range
        on_processor = next(made.parameters()).device.type == "cpu"
        return engine in ("openvino", "torch") and on_processor and instructions.int8_saturates()

    # --- files --------------------------------------------------------------------------------------------------------

    @property
    def _said(self) -> str:
        return f"ptq4dm.weights={self.weights}"

    def files(self, model: str) -> tuple[Path, ...]:
        """The files on this machine that the words may mean. Raises ModelError where there is none."""
        if self.weights == AUTO:
            return self._known(model)
        path = Path(self.weights).expanduser()
        found = file_in(path)
        if found is not None:
            return (found,)
        if path.is_dir():
            raise ModelError(f"{self._said} is a folder without {FILE}; name the quantized file")
        if path.suffix or len(path.parts) > 1:
            raise ModelError(f"{self._said} does not exist; give a quantized file, or the folder that training wrote")
        raise ModelError(f"{self._said} is neither a file nor a folder{did_you_mean(self.weights, [AUTO])}")

    def _known(self, model: str) -> tuple[Path, ...]:
        there = {path.stem: path for path in sorted(self.shipped.glob("*.safetensors"))}
        found = [path for name, path in there.items() if name == model.lower() or name.startswith(f"{model.lower()}-")]
        if not found:
            known = f"there are some for {', '.join(there)}" if there else "none come with it"
            raise ModelError(f"no int8 weights are known for model='{model}' ({known}); {train(model)}")
        return tuple(found)

    def _file(self, model: Model, plain: nn.Module, ctx: Resources) -> Path:
        """The file, noted in the record: of several shipped ones the one that was made of this network."""
        if self.weights != AUTO and hub.is_hub_file(self.weights):
            return Path(ctx.load(self.weights, str))
        files = self.files(model.name)
        fitting = [path for path in files if len(files) == 1 or made_of(path, plain, self._said)]
        if not fitting:
            there = ", ".join(network.read_about(path, self._said).made_of for path in files)
            raise ModelError(
                f"int8 weights come for {there}, and the network here is none of these; {train(model.name)}"
            )
        return Path(ctx.load(fitting[0], str))


def train(model: str) -> str:
    """What to do where there are no weights."""
    return f"make some: genbench train plugin=ptq4dm model={model}; then ptq4dm.weights=FOLDER"


def file_in(path: Path) -> Path | None:
    """The quantized file at a path: itself, or that of a training's folder."""
    return next((place for place in (path, path / FILE) if place.is_file()), None)


def made_of(path: Path, plain: nn.Module, said: str) -> bool:
    """Whether a file was made of this network."""
    about, layers = network.read_about(path, said), float_layers(plain)
    if any(name not in layers or tuple(layers[name].weight.shape) != shape for name, shape in about.shapes.items()):
        return False
    with safe_open(path, "pt") as file:
        return network.fits(file.get_tensor(network.FINGERPRINT), about, layers)


# --- networks ---------------------------------------------------------------------------------------------------------


def check_plain(model: Model) -> nn.Module:
    """Return the denoising network. Raises UsageError where it is quantized already, ModelError where there is none."""
    name = network_name(model)
    if name is None:
        raise ModelError(
            f"model={model.name} has no denoising network that is known (it has {', '.join(model.modules)})"
        )
    found: Any = model.modules[name]
    if quantized_layers(found):
        raise UsageError(f"the {name} of model={model.name} is quantized by ptq4dm already; name it once")
    by = getattr(found, "hf_quantizer", None)
    if by is not None or getattr(found, "is_quantized", False):
        raise UsageError(
            f"the {name} of model={model.name} is quantized already ({type(by).__name__}); give its original"
        )
    if not float_layers(found):
        raise ModelError(f"the {name} of model={model.name} has no linear layer or convolution to quantize")
    return found


def run_by(made: nn.Module, engine: Engine) -> None:
    """Let an engine compute a quantized network, in the network itself."""
    if engine == "torch":
        integer.use_kernels(made)
    elif engine == "openvino":
        executed.run_by_openvino(made)


def reduce_weights(made: nn.Module) -> None:
    """Take a bit off the weights of a quantized network, in the network itself."""
    for layer in quantized_layers(made).values():
        if layer.bits == 8:
            less = layer.rounded.reduced()
            layer.integers, layer.step = less.weight, less.scale


def compiled(module: nn.Module) -> bool:
    """Whether `compile=true` was asked for."""
    return getattr(module, "_compiled_call_impl", None) is not None


def cached(module: Any) -> bool:
    """Whether a step cache is on."""
    return bool(getattr(module, "is_cache_enabled", False))


def is_float32(module: nn.Module) -> bool:
    """Whether a network computes in float32."""
    return next(module.parameters()).dtype == torch.float32
