"""What lies between processes and devices: accelerate, joined to the processes that there are."""

from __future__ import annotations

from typing import Literal

from accelerate import Accelerator  # pyright: ignore[reportMissingTypeStubs]
from accelerate.state import AcceleratorState  # pyright: ignore[reportMissingTypeStubs]

Precision = Literal["no", "bf16"]


def accelerated(device: str = "cpu", precision: Precision = "no") -> Accelerator:
    """One accelerator for this process: alone, started by `accelerate launch`, or by `processes.spread`.

    Half precision is bfloat16: gradients through a chain of sampling steps overflow float16.
    """
    AcceleratorState._reset_state()  # pyright: ignore[reportPrivateUsage]  # it remembers the last training's precision
    return Accelerator(mixed_precision=precision, cpu=not device.startswith("cuda"))
