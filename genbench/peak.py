"""How much memory this process, and its CUDA device, have had in use at most."""

from __future__ import annotations

import sys


def memory() -> int | None:
    """Peak resident memory of this process in bytes; None where the system does not say."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_memory() -> int | None:
    """Peak memory of the CUDA device in bytes; None without one."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
