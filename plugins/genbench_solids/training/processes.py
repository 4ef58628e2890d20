"""Several processes of one thread each: on a few shared cores they beat threads, which wait for one another."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import wait

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from genbench_solids.training.recipe import Recipe

Work = Callable[[int, int, Recipe], None]  # (rank, world, recipe)


def spread(work: Work, recipe: Recipe) -> None:
    """Run `work` in `recipe.processes` processes that can average tensors over gloo; in this one if it is one."""
    if recipe.processes == 1:
        return work(0, 1, recipe)
    recipe.folder.mkdir(parents=True, exist_ok=True)
    recipe.at("rendezvous").unlink(missing_ok=True)
    spawn(_join, (work, recipe), recipe.processes)


def _join(rank: int, work: Work, recipe: Recipe) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", f"file://{recipe.at('rendezvous')}", rank=rank, world_size=recipe.processes)
    work(rank, recipe.processes, recipe)
    dist.destroy_process_group()


def _end_with_parent() -> None:
    """A killed parent must not leave workers behind that go on writing checkpoints."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
