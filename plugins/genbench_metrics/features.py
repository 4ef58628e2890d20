"""What every set metric checks of its features (n, d): numbers, finite, enough of them, one width."""

from __future__ import annotations

from torch import Tensor

from genbench.errors import UsageError


def checked(features: Tensor, least: int, metric: str) -> Tensor:
    """Return features (n, d) in float64; raises UsageError where n < least or a value is not finite."""
    if features.ndim != 2 or len(features) < least:
        raise UsageError(f"{metric} needs features (n, d) of at least {least} pictures, got {tuple(features.shape)}")
    broken = int((~features.isfinite()).any(1).sum())
    if broken:
        raise UsageError(f"{metric}: {broken} pictures have features that are not finite; leave them out")
    return features.double()


def checked_pair(features: Tensor, reference: Tensor | None, least: int, metric: str) -> tuple[Tensor, Tensor]:
    """Return features (n, d) and reference (m, d) in float64; raises UsageError as `checked`, or where d differs."""
    if reference is None:
        raise UsageError(f"{metric} compares with reference pictures; name them with reference=FOLDER")
    x, y = checked(features, least, metric), checked(reference, least, metric)
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"{metric}: features are {x.shape[1]} wide, the reference {y.shape[1]}; use one encoder")
    return x, y
