"""How many processor cores this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """Return the cores that this process may use, at least 1: those it is bound to, or fewer by its groups' quota.

    `root` is where `/proc` and `/sys` are (Linux control groups, both versions); elsewhere no quota is known.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *map(int, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota, in cores, of every control group that this process is in, up to the outermost visible one."""
    told = root / "proc/self/cgroup"
    for line in told.read_text(encoding="utf-8").splitlines() if told.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        inner = mounted.joinpath(*PurePosixPath(path).parts[1:])
        for group in (inner, *inner.parents):
            if group.is_relative_to(mounted):
                yield from _quota(group)


def _quota(group: Path) -> Iterator[float]:
    """Yield the quota of one group in cores; nothing where it has none, or where its folder is out of sight."""
    try:
        if (group / "cpu.max").is_file():  # version 2: "200000 100000", microseconds in each period; "max 100000"
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            files = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((group / name).read_text(encoding="ascii") for name in files)
    except (OSError, ValueError):
        return
    if quota != "max" and int(quota) > 0:  # version 1 says -1 for none
        yield int(quota) / int(period)
