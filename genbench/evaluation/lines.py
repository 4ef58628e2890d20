"""What a report consists of: plain values, worked out by `report` and shown by `table` and `page`."""

from __future__ import annotations

from dataclasses import dataclass

from genbench.evaluation.chains import Curve
from genbench.evaluation.signs import Signs
from genbench.evaluation.statistics import Estimate


@dataclass(frozen=True)
class Equal:
    """The paired difference to another setting of the first chain, that costs as many evaluations."""

    chain: str
    difference: Estimate


@dataclass(frozen=True)
class Line:
    """One row of the table. `rate`: every value is 0 or 1, shown in per cent with Wilson's interval.

    To the chain `against` (the first chain at the same settings, else the first row): `difference`, for scores of
    pictures `signs`, for set metrics above zero `ratio`. `equal` is to a dearer or cheaper setting of the first chain,
    where one costs as much as this chain. `common` is the estimate over the prompts and seeds that all chains have,
    where those are not this chain's own; with n 0 where there are none.
    """

    metric: str
    group: str
    chain: str
    estimate: Estimate
    rate: bool = False
    difference: Estimate | None = None
    signs: Signs | None = None
    ratio: Estimate | None = None
    equal: Equal | None = None
    against: str = ""
    common: Estimate | None = None

    @property
    def beside(self) -> Estimate:
        """The estimate that stands beside those of other chains: of what all have, where there is something."""
        return self.common if self.common and self.common.n else self.estimate


@dataclass(frozen=True)
class Cost:
    """What one chain's pictures cost: network evaluations and seconds each (mean), and how many failed.

    `planned`: how many were asked for; 0 where that is not known.
    """

    chain: str
    pictures: int
    failures: int
    nfe: float
    seconds: float
    planned: int = 0

    @property
    def progress(self) -> str:
        """The number of pictures, and of how many, where some are still to come."""
        return f"{self.pictures} of {self.planned}" if self.planned > self.pictures else str(self.pictures)


@dataclass(frozen=True)
class Failure:
    """A cell without a picture, and why."""

    chain: str
    prompt: str
    seed: int
    error: str


@dataclass(frozen=True)
class Unscored:
    """How many pictures a scorer could not judge, one of its reasons, and which they are: (chain, seed, prompt)."""

    scorer: str
    n: int
    error: str
    pictures: tuple[tuple[str, int, str], ...] = ()


@dataclass(frozen=True)
class Measured:
    """What a metric's values rest on: `n` pictures (a set metric: of one chain), and `m` of a `reference`."""

    metric: str
    how: str
    n: int
    version: str
    resize: str = ""
    reference: str = ""
    m: int = 0


@dataclass(frozen=True)
class Report:
    """Everything that is printed and saved."""

    lines: tuple[Line, ...]
    costs: tuple[Cost, ...]
    failures: tuple[Failure, ...]
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()
    unscored: tuple[Unscored, ...] = ()
    measured: tuple[Measured, ...] = ()

    @property
    def rivals(self) -> list[str]:
        """The chains that others are compared with."""
        return list(dict.fromkeys(line.against for line in self.lines if line.difference))

    @property
    def metrics(self) -> list[str]:
        """The metrics that are no part of another's score (`solids.colour` is one of `solids`)."""
        names = dict.fromkeys(line.metric for line in self.lines)
        return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
