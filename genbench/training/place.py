"""Where a training works and with what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """The folder of checkpoints and curves, the seed of everything drawn, and what it runs on.

    `processes` of one thread each share every step; `save_seconds` lie between two checkpoints.
    """

    folder: Path
    seed: int = 0
    processes: int = 1
    device: str = "cpu"
    save_seconds: float = 60.0

    def at(self, *parts: str) -> Path:
        """A path below the folder."""
        return self.folder.joinpath(*parts)
