"""Keeps what a training has become every so many steps, and lets somebody else look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from genbench.training.optimise import Watcher


@dataclass(frozen=True)
class Keeping:
    """A watcher that calls `keep(step)` every `every` steps (0: never), and then another watcher, if there is one."""

    every: int
    keep: Callable[[int], None]
    watcher: Watcher | None = None

    @property
    def stopped(self) -> bool:
        return self.watcher is not None and self.watcher.stopped

    def after(self, step: int) -> bool:
        """Keep and look, where it is time to."""
        if self.every and step % self.every == 0:
            self.keep(step)
        return self.watcher is not None and self.watcher.after(step)

    def state(self) -> Mapping[str, Any]:
        return {} if self.watcher is None else self.watcher.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        if self.watcher is not None:
            self.watcher.restore(state)
