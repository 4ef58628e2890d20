"""`genbench doctor`: what is here, what can run here, and what each thing lacks.

Every section is gathered by itself; one that fails says so and the others are still shown.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from genbench import discovery, instructions, listing, options, plugincheck
from genbench.cores import usable_cores
from genbench.kinds import CONTRACT
from genbench.plugincheck import LOST

HELP = """\
genbench doctor [--json]

  versions, processor, devices, threads, environment, extras, and which plugins and models can run here
"""
PACKAGES = (
    "genbench", "torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "safetensors",
    "tokenizers", "huggingface-hub", "numpy", "pillow", "xformers", "open-clip-torch", "timm", "scipy", "gsplat",
    "nerfacc", "openvino", "nncf", "ray",
)  # fmt: skip
VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HOME",
    "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "DIFFUSERS_ATTN_BACKEND", "TORCH_HOME",
    "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "NO_COLOR",
)  # fmt: skip
SECRETS = ("HF_TOKEN",)
Section = dict[str, Any]


def report() -> dict[str, Section]:
    """Gather every section; a section that fails is `{"error": one line}`."""
    gather: Mapping[str, Callable[[], Section]] = {
        "versions": versions,
        "processor": processor,
        "devices": devices,
        "threads": threads,
        "environment": environment,
        "extras": extras,
        "plugins": plugins,
        "models": models,
    }
    return {name: _safely(function) for name, function in gather.items()}


def _safely(function: Callable[[], Section]) -> Section:
    try:
        return function()
    except Exception as error:  # a doctor that dies of the disease helps nobody
        return {"error": discovery.one_line(error)}


# --- the machine --------------------------------------------------------------------------------------------------


def versions() -> Section:
    """Versions of Python, the contract and the packages that matter; None where one is absent."""
    return {"python": platform.python_version(), "contract": CONTRACT, **{name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def processor() -> Section:
    """Name, cores, memory in GiB and instruction sets; an instruction set is None where the system does not tell."""
    named = re.search(r"^model name\s*:\s*(.*)$", instructions.text(), re.M)
    system = f"{platform.system()} {platform.machine()}"
    name = named[1] if named else platform.processor() or platform.machine()
    return {
        "system": system,
        "name": name,
        "cores": usable_cores(),
        "memory_gib": _memory(),
        **instructions.sets(),
        "int8": _int8(),
    }


def _int8() -> str:
    """What products of 8-bit integers run on, and whether their sums need room."""
    found = instructions.int8() or "unknown instructions"
    return f"{found}: sums saturate, so weights get 7 bits" if instructions.int8_saturates() else found


def _memory() -> float | None:
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def devices() -> Section:
    """What torch can compute on: `cpu`, each CUDA device with its memory, `mps`."""
    import torch

    found: Section = {"cpu": torch.backends.cpu.get_cpu_capability()}
    for index in range(torch.cuda.device_count()):
        device: Any = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = (
            f"{device.name}, {device.total_memory / 2**30:.0f} GiB, sm_{device.major}{device.minor}"
        )
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    if len(found) == 1:
        found["gpu"] = "none: large models take minutes per picture here"
    return found


def threads() -> Section:
    """Threads that torch uses; more than cores is slower than fewer."""
    import torch

    used, cores = torch.get_num_threads(), usable_cores()
    advice = {"advice": f"OMP_NUM_THREADS={cores} is enough for {cores} cores"} if used > cores else {}
    return {"torch": used, "between_operators": torch.get_num_interop_threads(), **advice}


def environment() -> Section:
    """Set variables that change what a run does; tokens are only said to be set."""
    own = sorted(name for name in os.environ if name.startswith("GENBENCH_"))
    shown = {name: os.environ[name] for name in (*VARIABLES, *own) if name in os.environ}
    return {**shown, **{name: "(set)" for name in SECRETS if os.environ.get(name)}}


def extras() -> Section:
    """Each extra of genbench: `complete`, or what is missing and the command that installs it."""
    needed: dict[str, list[str]] = {}
    for line in metadata.requires("genbench") or ():
        extra, package = re.search(r"extra\s*==\s*['\"]([^'\"]+)", line), re.match(r"[A-Za-z0-9._-]+", line)
        if extra and package and package[0] != "genbench":
            needed.setdefault(extra[1], []).append(package[0])
    return {extra: _lacks(extra, packages) for extra, packages in sorted(needed.items())}


def _lacks(extra: str, packages: Sequence[str]) -> str:
    absent = [name for name in packages if _version(name) is None]
    return f'lacks {", ".join(absent)}: pip install "genbench[{extra}]"' if absent else "complete"


# --- what can run -------------------------------------------------------------------------------------------------


def plugins() -> Section:
    """Each installed plugin: `ready`, or the one line that its run would end with."""
    answers = _readiness()
    return {f"{row.name} ({', '.join(row.kinds)})": answers.get(row.key, LOST) for row in listing.rows()}


def models() -> Section:
    """Each installed source and each pipeline in the Hub's cache: `ready`, or what it lacks. Nothing is downloaded."""
    answers, sources = _readiness(), [row for row in listing.rows() if "source" in row.kinds]
    opened = {row.name: answers.get(f"open {row.key}", answers.get(row.key, LOST)) for row in sources}
    return {**opened, **cached_pipelines(hub_cache())}


@cache
def _readiness() -> Mapping[str, str]:
    return plugincheck.readiness(listing.rows())


def hub_cache() -> Path:
    """The folder where the Hub's client keeps downloads."""
    home = Path(os.environ.get("HF_HOME", Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()


def cached_pipelines(cache: Path) -> Section:
    """Each diffusers pipeline in a Hub cache: its class and size, and whether every part is there."""
    return {
        index.parents[2].name.removeprefix("models--").replace("--", "/"): _pipeline(index)
        for index in sorted(cache.glob("models--*/snapshots/*/model_index.json"))
    }


def _pipeline(index: Path) -> str:
    parts = json.loads(index.read_text(encoding="utf-8"))
    wanted = [name for name, value in parts.items() if isinstance(value, list) and value[0]]
    absent = [name for name in wanted if not (index.parent / name).is_dir()]
    size = sum(file.stat().st_size for file in index.parent.rglob("*") if file.is_file()) / 2**30
    if absent:
        return f"{parts.get('_class_name')}: lacks {', '.join(absent)}; download it again"
    memory = _memory()
    large = memory is not None and size > memory
    return f"{parts.get('_class_name')}, {size:.1f} GiB: {'more than the memory here' if large else 'ready'}"


# --- the verb -----------------------------------------------------------------------------------------------------


def text(found: Mapping[str, Section]) -> str:
    """Return a report as aligned text."""
    return "\n\n".join(f"{name}\n{_lines(section)}" for name, section in found.items())


def _lines(section: Section) -> str:
    if not section:
        return "  (nothing set)"
    return listing.aligned([(f"  {key}", _word(value)) for key, value in section.items()])


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def main(args: Sequence[str]) -> int:
    """Run `genbench doctor`; returns the exit code, which is 0 whatever is found."""
    flags, rest = options.split_flags(args, ("--json", "--help", "-h"))
    if flags & {"--help", "-h"} or rest:
        sys.stdout.write(HELP)
        return 2 if rest else 0
    found = report()
    sys.stdout.write((json.dumps(found, indent=2) if "--json" in flags else text(found)) + "\n")
    return 0
