"""`genbench train plugin=ptq4dm model=...`: calibrates, and writes an int8 network.

The set is drawn first (`calibration.py`), then every layer's inputs are counted over it (`observing.py`), then ranges
are searched (`search.py`). No weight is trained. The set, its hash and how far the rounded network is from the model at
each noise level lie beside the weights.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor
from tqdm import tqdm

from genbench.backbones import network_name
from genbench.errors import ModelError, UsageError
from genbench.generation import Session, resolve
from genbench.kinds import About, Model, TrainJob
from genbench.options import Range
from genbench.training.rollouts import Rollout
from genbench_ptq4dm import calibration, network, observing, timesteps
from genbench_ptq4dm.calibration import Calibration
from genbench_ptq4dm.layers import float_layers
from genbench_ptq4dm.network import QuantizedFile
from genbench_ptq4dm.pictures import clean_latents
from genbench_ptq4dm.plugin import ABOUT, check_plain
from genbench_ptq4dm.quantizer import Grid, Rounded
from genbench_ptq4dm.reporting import step_errors
from genbench_ptq4dm.search import CANDIDATES, Histogram, Metric, P, activation_range, weight_limits
from genbench_ptq4dm.timesteps import Kind, Reading

FEWEST = 16
"""Samples; of fewer, the largest value that a layer is ever given is mere chance."""


@dataclass(frozen=True)
class PTQ4DMTrainer:
    """PTQ4DM: calibrates a model in 8 bits on its own walks; nothing is trained."""

    bits: Literal[8, 4] = 8  # of weights
    weight_only: bool = False  # inputs stay in floating point; 4 bits need it
    calibration: Kind = "ndtc"  # ndtc, or what it is compared with: uniform, one, images, noise, diffused
    reading: Reading = "code"  # how wide ndtc draws: as the paper says, or as its code does
    mean: Annotated[float, Range(0, 1)] = 0.4  # of ndtc, in units of steps; 0 is the least noisy end
    at: Annotated[float, Range(0, 1)] = 0.5  # the noise level of `one`, in units of steps
    pictures: Annotated[int, Range(1)] = 1024  # samples of the set, each from a walk of its own
    metric: Metric = "lp"  # of an activation's range: lp, cosine, kl; weights always take lp
    p: Annotated[float, Range(0)] = P  # of lp; 2 is the mean squared error
    candidates: Annotated[int, Range(1)] = CANDIDATES  # ranges that are tried
    keep: tuple[str, ...] = ()  # layers with one of these words in their name stay in floating point
    before: tuple[str, ...] = ()  # model plugins that come first, each perhaps with :WEIGHTS, such as a student: sid
    steps: Annotated[int, Range(1)] | None = None  # of the walks; none: as the model recommends
    guidance_scale: float | None = None  # of the walks; none: as the model recommends
    batch: Annotated[int, Range(1)] = 16  # pictures per call; changes no result but by rounding

    about: ClassVar[About] = replace(ABOUT, summary="Calibrates a model in 8 bits on its own walks and writes it.")
    usage: ClassVar[str] = 'genbench run plugin=ptq4dm ptq4dm.weights={made} model={model} prompt="..."'

    def __post_init__(self) -> None:
        if self.bits == 4 and not self.weight_only:
            raise ValueError("bits=4 is for weights alone; add weight_only=true")

    def check(self, job: TrainJob) -> Model:
        """The model to quantize. Raises UsageError for a job that cannot be calibrated, ModelError for its model."""
        if job.model is None:
            raise UsageError("ptq4dm quantizes a model; give model=")
        if self.pictures < FEWEST and not self.weight_only:
            raise UsageError(
                f"ptq4dm.pictures={self.pictures}: ranges of so few samples are chance; give {FEWEST} or more"
            )
        if job.exemplars is not None and self.calibration not in ("images", "diffused"):
            raise UsageError(f"exemplars= are for calibration=images and diffused; {self.calibration} draws its own")
        model = with_plugins(job, self.before)
        check_plain(model)
        prompts_of(model, job.prompts, 1)
        return model

    def walks(self, job: TrainJob, model: Model) -> Rollout:
        """How the model is asked."""
        return Rollout(job.resources, model, steps=self.steps, guidance_scale=self.guidance_scale, batch=self.batch)

    def plan(self, job: TrainJob) -> dict[str, object]:
        """What a calibration would take."""
        model = self.check(job)
        walks = self.walks(job, model)
        steps = steps_of(walks, job.prompts)
        layers = float_layers(_network(model), self.keep)
        weights = sum(layer.weight.numel() for layer in layers.values())
        rest = sum(p.numel() for p in _network(model).parameters()) - weights
        size = (weights * self.bits / 8 + 4 * rest) / 1e6
        walked = timesteps.outer_steps(self._levels(steps, job.seed), steps) + 1
        return {
            "layers": len(layers),
            "steps of walks": 0 if self.calibration in ("images", "noise") else int(walked.sum()),
            "calls for ranges": 0 if self.weight_only else 2 * self.pictures,
            "file": f"about {size:.2f} MB, {4 * (weights + rest) / 1e6:.2f} in float32",
        }

    def train(self, job: TrainJob) -> Path:
        """Calibrate and write; returns the file. Raises UsageError, ModelError, TrainingError, OutputError."""
        model = self.check(job)
        walks = self.walks(job, model)
        found = self.calibrated(job, walks)
        module = str(network_name(model))
        rounded = self.rounded(walks, module, found)
        about = QuantizedFile(
            base=model.name,
            module=module,
            bits=self.bits,
            shapes={name: tuple(each.weight.shape) for name, each in rounded.items()},
            before=tuple(word.partition(":")[0] for word in self.before),
            calibration={**self._settings(job), "hash": found.hash},
            activations=network.FLOATING if self.weight_only else QuantizedFile.activations,
        )
        path = job.run / network.FILE
        network.save(path, _network(model), rounded, about)
        report(job.run, walks, module, rounded, found, about)
        return path

    # --- the set ----------------------------------------------------------------------------------------------------

    def calibrated(self, job: TrainJob, walks: Rollout) -> Calibration:
        """The calibration set; with resume=true the one that is there."""
        path, settings = job.run / calibration.FILE, json.dumps(self._settings(job), sort_keys=True)
        if path.is_file():
            return Calibration.load(path, settings)
        prompts = prompts_of(walks.model, job.prompts, self.pictures)
        steps = steps_of(walks, prompts)
        at = timesteps.outer_steps(self._levels(steps, job.seed), steps)
        clean = None
        if self.calibration in ("images", "diffused"):
            prompts, clean = clean_latents(walks, prompts, job.exemplars, job.seed)
        found = calibration.drawn(walks, self.calibration, prompts, at, job.seed, clean)
        found.save(path, settings)
        return found

    def _levels(self, steps: int, seed: int) -> Tensor:
        drawing = {"mean": self.mean, "reading": self.reading, "at": self.at}
        return timesteps.levels(self.calibration, self.pictures, steps, seed, **drawing)

    def _settings(self, job: TrainJob) -> dict[str, object]:
        """What the set depends on."""
        words = ("calibration", "reading", "mean", "at", "pictures", "before", "steps", "guidance_scale")
        told: dict[str, object] = {word: getattr(self, word) for word in words}
        model = "" if job.model is None else job.model.name
        return {
            **told,
            "before": list(self.before),
            "model": model,
            "seed": job.seed,
            "exemplars": str(job.exemplars or ""),
        }

    # --- ranges -----------------------------------------------------------------------------------------------------

    def rounded(self, walks: Rollout, module: str, found: Calibration) -> dict[str, Rounded]:
        """Every layer's integers, by name."""
        layers = float_layers(walks.model.modules[module], self.keep)
        grids: Mapping[str, Grid | None]
        if self.weight_only:
            grids = dict.fromkeys(observing.used(walks, module, found, self.keep))
        else:
            seen = observing.histograms(walks, module, found, self.keep)
            grids = {name: self.grid(each) for name, each in seen.items()}
        if not grids:
            raise ModelError(f"model={walks.model.name} has no linear layer or convolution to quantize; check keep=")
        told = tqdm(grids.items(), "weights", disable=None, file=sys.stderr)
        return {name: self._weight(layers[name].weight, grid) for name, grid in told}

    def grid(self, histogram: Histogram) -> Grid:
        """The grid of one layer's input."""
        return Grid.over(*activation_range(histogram, self.metric, self.p, self.candidates))

    def _weight(self, weight: Tensor, grid: Grid | None) -> Rounded:
        limits = weight_limits(weight, self.bits, self.p, self.candidates)
        return Rounded.of(weight, limits, self.bits, grid)


# --- the model --------------------------------------------------------------------------------------------------------


def with_plugins(job: TrainJob, before: Sequence[str]) -> Model:
    """The job's model after the model plugins that come first. Raises UsageError for plugins of another kind."""
    assert job.model is not None
    if not before:
        return job.model
    if quantizing := [word for word in before if word.startswith("ptq4dm")]:
        raise UsageError(f"ptq4dm.before={quantizing[0]} is quantized already; quantize the model itself")
    named = [word.partition(":") for word in before]
    options = {name: {"weights": weights} for name, _, weights in named if weights}
    words: dict[str, Any] = {"model": job.model.name, "plugin": ",".join(name for name, _, _ in named)}
    session = Session.open(resolve({**words, "options": options, "device": job.device, "dtype": _dtype(job.model)}))
    if len(session.chain.model) < len(session.chain.names):
        raise UsageError(f"ptq4dm.before={','.join(before)}: only plugins that change the model's weights come before")
    return session.model


def _dtype(model: Model) -> str:
    return str(model.dtype).removeprefix("torch.")


def prompts_of(model: Model, prompts: Sequence[str], count: int) -> list[str]:
    """`count` prompts, given ones in turn; an unconditional model needs none, and classes are taken in turn.

    Raises UsageError where a model is to be told something and there is nothing.
    """
    given = list(prompts)
    if not given and model.family == "unconditional":
        classes: Any = getattr(model, "network_config", {}).get("num_class_embeds")
        given = [str(number) for number in range(classes)] if classes else [""]
    if not given:
        raise UsageError(f"model={model.name} is told prompts; give prompts=FILE to calibrate on")
    return [given[i % len(given)] for i in range(count)]


def steps_of(walks: Rollout, prompts: Sequence[str]) -> int:
    """How many outer steps the walks take."""
    return walks.context(prompts_of(walks.model, prompts, 1), [0]).schedule.steps


def _network(model: Model) -> Any:
    return model.modules[str(network_name(model))]


def report(
    run: Path, walks: Rollout, module: str, rounded: Mapping[str, Rounded], found: Calibration, about: QuantizedFile
) -> None:
    """Write report.json: what was quantized, and how far the rounded network is from the model at each step."""
    made = network.quantized(walks.model.modules[module], rounded)
    errors = step_errors(walks, walks.of(walks.model.replace(modules={module: made})), found)
    grids = {name: asdict(each.grid) for name, each in rounded.items() if each.grid is not None}
    told = {"made_of": about.made_of, "calibration": about.calibration, "layers": len(rounded), "grids": grids}
    told |= {"error_by_step": errors, "in_floating_point": sorted(float_layers(made))}
    (run / "report.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
