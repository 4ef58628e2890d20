"""What a training would take: one step that is made and thrown away."""

from __future__ import annotations

import time

from genbench import peak
from genbench.kinds import Ledger
from genbench.training.optimise import Training


def planned(training: Training, ledger: Ledger, trainable: str, unit: str) -> dict[str, object]:
    """Make one step of a training in its folder and say what it took; `unit` is what its steps are called."""
    training.watcher = None
    began = time.monotonic()
    training.run(until=1)
    seconds = time.monotonic() - began
    memory, device = peak.memory(), peak.device_memory()
    return {
        "trainable parameters": trainable,
        f"evaluations {unit}": ledger.evaluations,
        f"seconds {unit}": f"{seconds:.1f} here; {training.steps * seconds / 60:.0f} minutes for {training.steps}",
        "peak memory": "unknown" if memory is None else f"{memory / 1e9:.2f} GB of this process",
        **({} if device is None else {"peak device memory": f"{device / 1e9:.2f} GB"}),
    }
