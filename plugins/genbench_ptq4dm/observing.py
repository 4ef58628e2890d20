"""What a network's layers are given over a calibration set: one histogram per layer, in two passes.

The first pass finds the smallest and the largest value, the second one counts. Layers that no call reaches are not
quantized.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from genbench.backbones.caches import sharing_copy
from genbench.errors import TrainingError
from genbench.training.rollouts import Rollout
from genbench_ptq4dm.calibration import Calibration
from genbench_ptq4dm.layers import float_layers
from genbench_ptq4dm.search import BINS, Histogram

See = Callable[[str, Tensor], None]


@dataclass
class Extent:
    """The smallest and the largest value seen."""

    low: float = float("inf")
    high: float = float("-inf")

    def add(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))


def histograms(walks: Rollout, module: str, calibration: Calibration, keep: tuple[str, ...]) -> dict[str, Histogram]:
    """Histograms of the inputs of the layers of `module` that can be quantized and are used, by name.

    Raises TrainingError where a layer is given what is no number.
    """
    extents: dict[str, Extent] = {}
    _pass(walks, module, calibration, keep, lambda name, x: extents.setdefault(name, Extent()).add(x), "ranges")
    for name, extent in extents.items():
        if not (torch.isfinite(torch.tensor([extent.low, extent.high]))).all():
            raise TrainingError(f"layer {name} is given what is no number; calibrate in dtype=float32")
    found = {name: Histogram.empty(extent.low, extent.high, BINS) for name, extent in extents.items()}
    _pass(walks, module, calibration, keep, lambda name, x: found[name].add(x), "histograms")
    return found


def used(walks: Rollout, module: str, calibration: Calibration, keep: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the layers that one call reaches."""
    seen: dict[str, None] = {}
    few = replace(calibration, x=calibration.x[:1], step=calibration.step[:1], prompts=calibration.prompts[:1])
    _pass(walks, module, few, keep, lambda name, x: seen.setdefault(name), "layers")
    return tuple(seen)


def _pass(walks: Rollout, module: str, calibration: Calibration, keep: tuple[str, ...], see: See, said: str) -> None:
    network = sharing_copy(walks.model.modules[module])
    model = walks.model.replace(modules={module: network})
    with _watched(float_layers(network, keep), see):
        for _ in tqdm(calibration.asked(walks.of(model)), said, disable=None, file=sys.stderr):
            pass


@contextmanager
def _watched(layers: Mapping[str, nn.Module], see: See) -> Any:
    def hook(name: str) -> Any:
        return lambda layer, inputs: see(name, inputs[0].detach())

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
