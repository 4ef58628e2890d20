"""Which network calls a run makes, and how long each takes by itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from genbench.backbones import network_name
from genbench.errors import ModelError
from genbench.generation import Session
from genbench.kinds import Model

REPEATS = 5
Clock = Callable[[], float]
Key = tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class Call:
    """One network with the inputs of one of its calls."""

    network: nn.Module
    inputs: tuple[Any, ...]
    keywords: Mapping[str, Any]

    def time(self, clock: Clock) -> list[float]:
        """Call the bare network REPEATS times, after one call that is not timed; seconds each."""
        with torch.no_grad():
            self.network(*self.inputs, **self.keywords)
            return [self._once(clock) for _ in range(REPEATS)]

    def _once(self, clock: Clock) -> float:
        began = clock()
        self.network(*self.inputs, **self.keywords)
        return clock() - began


@dataclass
class Watch:
    """Counts the calls of every watched network by the shape of their input, and keeps one call of each shape.

    With a clock it also adds up the seconds within the calls as they are made: only where a call has ended when it
    returns, as on a processor.
    """

    clock: Clock | None = None
    within: float = 0
    counts: Counter[Key] = field(default_factory=Counter[Key])
    calls: dict[Key, Call] = field(default_factory=dict[Key, Call])
    rows: int = 0
    watched: dict[int, Watched] = field(default_factory=dict[int, "Watched"])

    def session(self, session: Session) -> Session:
        """Return a session whose network is watched, and that of every model that a plugin opens while it draws."""
        opened = session.resources.open_model

        def open_model(word: str) -> Model:
            return self.model(opened(word))

        resources = replace(session.resources, open_model=open_model)
        return replace(session, model=self.model(session.model), resources=resources)

    def model(self, model: Model) -> Model:
        """Return a model whose network notes its calls here. Raises ModelError where it is not known which it is."""
        name = network_name(model)
        if name is None:
            raise ModelError(f"bench knows no network of '{model.family}' (it has {', '.join(model.modules)})")
        network = model.modules[name]
        watched = self.watched.setdefault(id(network), Watched(network, self))
        return model.replace(modules={name: watched})

    def note(self, network: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        """Count one call."""
        shape = tuple(_first(inputs, keywords).shape)
        key = (id(network), shape)
        self.counts[key] += 1
        self.rows += shape[0]
        if key not in self.calls:
            self.calls[key] = Call(network, inputs, keywords)

    def forget_counts(self) -> None:
        """Count from zero again; the calls that are kept stay."""
        self.counts.clear()
        self.rows, self.within = 0, 0

    def bare(self, clock: Clock) -> dict[Key, list[float]]:
        """Time every kind of call by itself."""
        return {key: call.time(clock) for key, call in self.calls.items()}

    def network_seconds(self, times: Mapping[Key, list[float]]) -> float:
        """Sum over the calls counted of the median time of such a call by itself."""
        return sum(count * median(times[key]) for key, count in self.counts.items())


class Watched(nn.Module):
    """A network that notes each of its calls and is otherwise the one it holds."""

    def __init__(self, network: nn.Module, watch: Watch) -> None:
        super().__init__()
        self.bare = network
        object.__setattr__(self, "watch", watch)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("bare"), name)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        watch = self.watch
        watch.note(self.bare, inputs, keywords)
        if watch.clock is None:
            return self.bare(*inputs, **keywords)
        began = watch.clock()
        result = self.bare(*inputs, **keywords)
        watch.within += watch.clock() - began
        return result


def _first(inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
    """The noisy latents are the first tensor, by place or by name."""
    return next(each for each in (*inputs, *keywords.values()) if isinstance(each, Tensor))


def now() -> float:
    """Seconds, once the device has done everything it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
