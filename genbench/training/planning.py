"""What a training would take: steps that are made and thrown away."""

from __future__ import annotations

import time

from genbench import peak
from genbench.kinds import Ledger
from genbench.training.optimise import Training


def planned(
    training: Training, ledger: Ledger, trainable: str, unit: str, *, cycle: int = 1, warm: bool = False
) -> dict[str, object]:
    """Make `cycle` steps of a training in its folder and say what one took; `unit` is what its steps are called.

    `warm` makes as many before, which do not count: they also prepare what is prepared once.
    """
    training.watcher = None
    steps, training.steps = training.steps, max(training.steps, 2 * cycle if warm else cycle)
    done = training.run(until=cycle) if warm else 0
    before, began = ledger.evaluations, time.monotonic()
    training.run(until=done + cycle)
    seconds, evaluations = (time.monotonic() - began) / cycle, (ledger.evaluations - before) / cycle
    memory, device = peak.memory(), peak.device_memory()
    return {
        "trainable parameters": trainable,
        f"evaluations {unit}": round(evaluations),
        f"seconds {unit}": f"{seconds:.1f} here; {steps * seconds / 60:.0f} minutes for {steps}",
        "peak memory": "unknown" if memory is None else f"{memory / 1e9:.2f} GB of this process",
        **({} if device is None else {"peak device memory": f"{device / 1e9:.2f} GB"}),
    }
