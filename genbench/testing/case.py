"""One plugin under test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor

from genbench import fields
from genbench.kinds import About


@dataclass(frozen=True)
class Case:
    """A plugin class, the kind it is checked as, and the options it is built with."""

    cls: type
    kind: str
    options: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def about(self) -> About:
        return cast(Any, self.cls).about  # every check comes after has_its_methods

    def build(self, **changed: object) -> Any:
        """Build the plugin as a run does, from text or values."""
        name = self.cls.__name__.lower()
        return self.cls(**fields.values(self.cls, name, {**self.options, **changed}))

    def require(self, holds: object, said: str) -> None:
        """Raise AssertionError with the plugin's name where something does not hold."""
        if not holds:
            raise AssertionError(f"{self.cls.__name__} ({self.kind}): {said}")

    def equal(self, one: Tensor, other: Tensor, said: str, tolerance: float = 0.0) -> None:
        """Require equal shapes and values: bit by bit, or within an absolute tolerance."""
        self.require(one.shape == other.shape, f"{said}: shapes {tuple(one.shape)} and {tuple(other.shape)} differ")
        difference = float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
        self.require(difference <= tolerance, f"{said}: largest difference {difference:.3g}")


Check = Callable[[Case], None]
