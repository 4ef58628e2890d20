"""Several processes of one thread each: on a few shared cores they beat threads, which wait for one another."""

# pyright: basic
# torch.distributed and the optimisers annotate less than they take; it stops at this module's own signatures.

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from genbench.training.place import Place

P = TypeVar("P", bound=Place)


def spread(work: Callable[[int, int, P], None], place: P) -> None:
    """Run `work(rank, world, place)` in `place.processes` processes that can average tensors; in this one if it is one.

    Work and place are pickled: a function of a module (or a `functools.partial` of one), not a lambda.
    """
    if place.processes == 1:
        return work(0, 1, place)
    place.folder.mkdir(parents=True, exist_ok=True)
    place.at("rendezvous").unlink(missing_ok=True)
    spawn(_join, (work, place), place.processes)


def _join(rank: int, work: Callable[[int, int, P], None], place: P) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": place.processes, "LOCAL_WORLD_SIZE": place.processes}
    os.environ |= {name: str(value) for name, value in told.items()} | {"OMP_NUM_THREADS": "1"}  # for accelerate
    dist.init_process_group("gloo", f"file://{place.at('rendezvous')}", rank=rank, world_size=place.processes)
    work(rank, place.processes, place)
    dist.destroy_process_group()


def _end_with_parent() -> None:
    """A killed parent must not leave workers behind that go on writing checkpoints."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
