"""How far a rounded network is from the model that it was made of, at each noise level of a walk."""

from __future__ import annotations

from torch import Tensor

from genbench.training.rollouts import Rollout
from genbench_ptq4dm.calibration import Calibration

SHOWN = 64


def step_errors(plain: Rollout, rounded: Rollout, calibration: Calibration) -> dict[int, float]:
    """|made - plain| / |plain| of the network's guided output, by outer step, over the first samples of a set."""
    few = Calibration(calibration.x[:SHOWN], calibration.step[:SHOWN], calibration.prompts[:SHOWN])
    squares: dict[int, tuple[float, float]] = {}
    for (step, wanted), (_, told) in zip(few.asked(plain), few.asked(rounded), strict=True):
        error, size = squares.get(step, (0.0, 0.0))
        squares[step] = error + _sum(told.raw - wanted.raw), size + _sum(wanted.raw)
    return {step: (error / max(size, 1e-30)) ** 0.5 for step, (error, size) in sorted(squares.items())}


def _sum(x: Tensor) -> float:
    return float(x.float().square().sum())
