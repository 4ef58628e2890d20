"""What an int8 network costs and gives.

    python -m genbench_ptq4dm.measure sets model=solids prompts=FILE out=outputs/int8   every calibration set
    python -m genbench_ptq4dm.measure psnr out=outputs/int8/eval                        against the first chain
    python -m genbench_ptq4dm.measure speed model=solids batches=1,4,16                 one run, against float32
    python -m genbench_ptq4dm.measure memory model=solids batch=16                      a process for each

`sets` ends with the `genbench eval` that compares them; Frechet ratios and reading come from there, with intervals.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from genbench import instructions, peak
from genbench.backbones import network_name
from genbench.backbones.caches import sharing_copy
from genbench.errors import UsageError
from genbench.evaluation.export import pictures as listed
from genbench.evaluation.scoring import load
from genbench.evaluation.statistics import clustered_mean
from genbench.evaluation.store import Store
from genbench.kinds import Denoise, Ledger, Level, Model, Resources
from genbench.models import ModelOptions, open_model
from genbench.options import parse_words
from genbench.training.job import train
from genbench_ptq4dm import executed
from genbench_ptq4dm.plugin import PTQ4DM

SETS: Mapping[str, Mapping[str, object]] = {
    "ndtc-code": {"calibration": "ndtc", "reading": "code"},
    "ndtc-paper": {"calibration": "ndtc", "reading": "paper"},
    "uniform": {"calibration": "uniform"},
    "one": {"calibration": "one"},
    "images": {"calibration": "images"},
    "noise": {"calibration": "noise"},
    "diffused": {"calibration": "diffused"},
}
Words = Mapping[str, Any]

# --- sets -------------------------------------------------------------------------------------------------------------


def sets(words: Words) -> Iterator[str]:
    """Calibrate with every kind of set, each in a folder of its own below `out`; what is there stays."""
    out = Path(str(words["out"]))
    options = {name: value for name, value in words.items() if name not in ("out", "model", "prompts", "seed")}
    common = {name: words[name] for name in ("model", "prompts", "seed") if name in words}
    for name, kind in SETS.items():
        if not (out / name / "quantized.safetensors").is_file():
            run = {"run": str(out / name), "resume": str((out / name).is_dir()).lower()}
            train({"plugin": "ptq4dm", **common, **run, "ptq4dm": {**options, **kind}})
        yield f"{out / name}: {', '.join(f'{word}={value}' for word, value in kind.items())}"
    files = ",".join(str(out / name) for name in SETS)
    yield (
        f'genbench eval model={words["model"]} prompts=... chains="none; ptq4dm" sweep.ptq4dm.weights={files} '
        f"steps=20 metrics=solids-exact,frechet,kid out={out / 'eval'}"
    )


# --- pictures ---------------------------------------------------------------------------------------------------------


def psnr(image: Tensor, wanted: Tensor) -> float:
    """Peak signal-to-noise ratio of pictures in [0, 1], in dB; equal ones have 99."""
    error = float((image.double() - wanted.double()).square().mean())
    return 99.0 if error == 0 else min(99.0, -10 * float(torch.tensor(error).log10()))


def compared(words: Words) -> Iterator[str]:
    """PSNR of every chain's pictures against the first one's, of the same prompts and seeds, with 95 % intervals."""
    folder = Path(str(words["out"]))
    found: dict[str, dict[tuple[str, int], Path]] = {}
    with Store(folder, create=False) as store:
        for row in listed(store):
            key = str(row["prompt"]), int(str(row["seed"]))
            found.setdefault(str(row["chain"]), {})[key] = folder / str(row["path"])
    (base, first), *others = found.items()
    for name, paths in others:
        both = sorted(set(first) & set(paths))
        if not both:
            raise UsageError(f"'{name}' and '{base}' have no picture in common; finish the eval in {folder}")
        told = clustered_mean(
            [psnr(load(paths[key]), load(first[key])) for key in both], [prompt for prompt, _ in both]
        )
        yield f"{name:<40} PSNR {told.mean:6.2f} dB [{told.low:.2f}, {told.high:.2f}]   n = {told.n}"


# --- speed and memory -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """One way to compute the network: which integers and which engine."""

    integers: bool
    engine: str = ""  # openvino, torch; none: torch in floating point
    compiled: bool = False

    def network(self, model: Model, weights: str) -> nn.Module:
        """The network of a model, computed this way."""
        if self.integers:
            resources = Resources(Ledger(), lambda path, build: build(Path(path)), lambda word: model)
            engine: Any = self.engine
            made = PTQ4DM(engine=engine, weights=weights).transform_model(model, resources)
            network = made.modules[str(network_name(made))]
        else:
            network = sharing_copy(model.modules[str(network_name(model))])
            if self.engine == "openvino":
                executed.run_by_openvino(network)
        if self.compiled:
            network.compile()
        return network


WAYS: Mapping[str, Way] = {
    "float32": Way(False),
    "float32 compiled": Way(False, compiled=True),
    "float32 openvino": Way(False, "openvino"),
    "int8 openvino": Way(True, "openvino"),
    "int8 torch": Way(True, "torch"),
    "int8 torch compiled": Way(True, "torch", compiled=True),
}


def question(model: Model, rows: int) -> tuple[Callable[[Model], Denoise], Tensor, Level]:
    """What a run asks of `rows` pictures in the middle of a walk: (denoiser of a model, x, level)."""
    known = {name: int(float(str(model.recommended[name]))) for name in ("height", "width", "steps")}
    shape = model.latent_shape(known["height"], known["width"])
    schedule = model.sampler.schedule(known["steps"], model, shape)
    prompts = ["0" if getattr(model, "network_config", {}).get("num_class_embeds") else "a red cube"] * rows
    conditioning = model.encode_prompt(prompts, height=known["height"], width=known["width"])
    x = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0)).to(model.device, model.dtype)
    scale = float(str(model.recommended["guidance_scale"]))
    return lambda each: each.denoiser(conditioning, scale), x, schedule.evaluations[known["steps"] // 2][0]


def timed(ask: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    ask()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def speed(words: Words) -> Iterator[str]:
    """Median seconds of a guided call of the network, in turns, and its ratio to float32."""
    model, weights = opened(words), str(words.get("weights", "auto"))
    asked = {name: way for name, way in WAYS.items() if name in _chosen(words)}
    networks = {name: way.network(model, weights) for name, way in asked.items()}
    yield f"threads {torch.get_num_threads()}, int8 on {instructions.int8() or 'unknown instructions'}"
    for rows in (int(each) for each in str(words.get("batches", "1,4,16")).split(",")):
        asking, x, level = question(model, rows)
        calls = {name: _call(asking, model, network, x, level) for name, network in networks.items()}
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(-2, int(words.get("repeats", 20))):  # two that warm up, which compiles
            for name, call in calls.items():
                taken = timed(call)
                seconds[name] += [taken] if turn >= 0 else []
        base = median(next(iter(seconds.values())))
        for name, times in seconds.items():
            yield f"batch {rows:<4} {name:<22} {1000 * median(times):9.2f} ms   {base / median(times):5.2f} x"


def _chosen(words: Words) -> Sequence[str]:
    named = [name.strip() for name in str(words.get("ways", ",".join(WAYS))).split(",")]
    unknown = [name for name in named if name not in WAYS]
    if unknown:
        raise UsageError(f"ways={unknown[0]} is not known; there is {', '.join(WAYS)}")
    return named


def _call(
    asking: Callable[[Model], Denoise], model: Model, network: nn.Module, x: Tensor, level: Level
) -> Callable[[], object]:
    denoise = asking(model.replace(modules={str(network_name(model)): network}))
    return lambda: denoise(x, level).raw


def memory(words: Words) -> Iterator[str]:
    """Peak memory of a process that opens the model and asks its network three times, for each way."""
    for name in _chosen(words):
        told = [f"{word}={value}" for word, value in {**words, "ways": name}.items()]
        command = [sys.executable, "-m", "genbench_ptq4dm.measure", "memory-here", *told]
        yield subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def memory_here(words: Words) -> Iterator[str]:
    """The same for one way, in this process."""
    model, name = opened(words), _chosen(words)[0]
    network = WAYS[name].network(model, str(words.get("weights", "auto")))
    asking, x, level = question(model, int(words.get("batch", 16)))
    call = _call(asking, model, network, x, level)
    for _ in range(3):
        call()
    used, device = peak.memory(), peak.device_memory()
    more = "" if device is None else f", {device / 1e6:.0f} MB of the device"
    yield f"{name:<22} {0 if used is None else used / 1e6:9.0f} MB{more}"


def opened(words: Words) -> Model:
    """The model that the words name."""
    return open_model(str(words.get("model", "solids")), ModelOptions(device=str(words.get("device", "cpu"))), Ledger())


MEASURES: Mapping[str, Callable[[Words], Iterator[str]]] = {
    "sets": sets,
    "psnr": compared,
    "speed": speed,
    "memory": memory,
    "memory-here": memory_here,
}


def main(argv: Sequence[str]) -> None:
    """Print what the first word asks for. Raises UsageError where it is none."""
    if not argv or argv[0] not in MEASURES:
        raise UsageError(f"say what to measure: {', '.join(MEASURES)}")
    with torch.no_grad():
        for line in MEASURES[argv[0]](parse_words(argv[1:])):
            print(line, flush=True)  # noqa: T201  # its purpose


if __name__ == "__main__":
    main(sys.argv[1:])
