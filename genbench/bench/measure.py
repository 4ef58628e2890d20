"""Time one chain: from the first noise to the last score, and what of it the bare network takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from genbench import peak
from genbench.bench.watch import Clock, Watch
from genbench.embeddings import Embeddings
from genbench.generation import Picture, Session, batch_size
from genbench.kinds import Scorer
from genbench.request import Item


@dataclass(frozen=True)
class Measured:
    """One chain's times, in seconds. `network` is the sum over its network calls of such a call by itself.

    `evaluations` are counted by the run, `seen` are those whose call was watched: where they differ, `network` lacks
    what a plugin did out of sight. `drawing` ends with the last picture, `wall` with the last score. `within` is the
    time inside the network calls of the run itself; None on a device that answers before it is done.
    """

    pictures: int
    calls: int
    evaluations: int
    seen: int
    network: float
    drawing: float
    wall: float
    within: float | None = None

    @property
    def efficiency(self) -> float:
        """The share of the wall time that the bare network needs."""
        return self.network / self.wall

    def told(self) -> dict[str, object]:
        """Return the fields and what follows from them."""
        return {
            "pictures": self.pictures,
            "network_calls": self.calls,
            "evaluations": self.evaluations,
            "evaluations_seen": self.seen,
            "network_seconds": self.network,
            "drawing_seconds": self.drawing,
            "wall_seconds": self.wall,
            "pictures_per_second": self.pictures / self.wall,
            "efficiency": self.efficiency,
            "overhead_percent": 100 * (1 - self.efficiency),
            "outside_percent": None if self.within is None else 100 * (1 - self.within / self.wall),
        }


def measure(
    session: Session, items: Sequence[Item], scorer: Scorer | None, clock: Clock, warm: bool
) -> tuple[Measured, list[Picture]]:
    """Draw and score the items; the bare network is timed before and after, so that a machine's drift evens out.

    `warm`: first draw and score one batch of at most two steps, untimed.
    """
    on_processor = session.model.device.type == "cpu"
    watch = Watch(time.perf_counter if on_processor else None)
    watched = watch.session(session)
    times = _warm_up(watched, items, scorer, watch, clock) if warm else {}
    watch.forget_counts()
    before = session.ledger.evaluations
    fresh = replace(watched, embeddings=Embeddings())
    began = clock()
    pictures = list(fresh.pictures(items))
    drawn = clock()
    score(scorer, pictures, batch_size(session.resolved))
    ended = clock()
    for key, seconds in watch.bare(clock).items():
        times[key] = [*times.get(key, []), *seconds]
    calls, evaluations = watch.counts.total(), session.ledger.evaluations - before
    within = watch.within if on_processor else None
    network = watch.network_seconds(times)
    told = Measured(len(pictures), calls, evaluations, watch.rows, network, drawn - began, ended - began, within)
    return told, pictures


def _warm_up(
    session: Session, items: Sequence[Item], scorer: Scorer | None, watch: Watch, clock: Clock
) -> dict[tuple[int, tuple[int, ...]], list[float]]:
    size, steps = batch_size(session.resolved), session.resolved.request.steps or 1
    short = session.changed({"steps": min(2, steps)})
    score(scorer, short.draw(items[:size]), size)
    return watch.bare(clock)


def score(scorer: Scorer | None, pictures: Sequence[Picture], size: int) -> None:
    """Score pictures in batches of `size`."""
    if scorer is None:
        return
    with torch.no_grad():
        for first in range(0, len(pictures), size):
            batch = pictures[first : first + size]
            images = torch.stack([picture.image for picture in batch])
            rows = [picture.item.row for picture in batch]
            scorer.score(images=images, prompts=[picture.prompt for picture in batch], rows=rows).sum().item()


def peak_memory() -> dict[str, int | None]:
    """Return the peak memory of this process and of its CUDA device, in bytes; None where that is not told."""
    return {"peak_memory_bytes": peak.memory(), "peak_device_bytes": peak.device_memory()}
