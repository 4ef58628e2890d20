"""What one of several processes gets of a machine: some of the cores, and one CUDA device."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager

import torch

from genbench.cores import usable_cores
from genbench.evaluation.worklist import Settings

THREADS, DEVICES = "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"
SHARED = ("auto", "cuda")
"""Words of `device=` that leave open which device it is."""


def share(place: int, workers: int, devices: list[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the process at `place` of `workers`: an equal part of the cores, the next of `devices`.

    The user's own number of threads is kept.
    """
    count = environment.get(THREADS) or str(max(1, usable_cores() // workers))
    return {THREADS: count, **({DEVICES: devices[place % len(devices)]} if devices else {})}


def devices(settings: Iterable[Settings], environment: Mapping[str, str]) -> list[str]:
    """Name the CUDA devices that may be shared out; none where a chain names its device."""
    if any(each.resolved.request.device not in SHARED for each in settings):
        return []
    count = torch.cuda.device_count()
    listed = environment.get(DEVICES)
    return [name.strip() for name in listed.split(",")][:count] if listed else [str(index) for index in range(count)]


@contextmanager
def variables(values: Mapping[str, str]) -> Generator[None]:
    """Set environment variables for a child that is starting: torch reads them when it is imported."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
