"""Set metrics of every chain in a store, with values of resampled prompts or of groups left out, for intervals."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genbench.evaluation import resampling, scoring, statistics
from genbench.evaluation.reference import Reference
from genbench.evaluation.rows import Made, SetValue, image_set
from genbench.evaluation.scoring import Metric
from genbench.evaluation.store import Store
from genbench.kinds import SetMetric

Groups = NDArray[np.int64]


def measure(store: Store, metric: Metric, reference: Reference | None, progress: Callable[[int], None]) -> None:
    """Compute one set metric for every chain and keep it; what is known for the same pictures is kept as it is.

    `groups` of the metric are the prompts: a diversity is averaged over prompts.
    """
    features = scoring.embed(store, metric, progress)
    target = None if reference is None else torch.tensor(reference.features(store, metric))
    made = store.pictures()
    known = {(value.settings, value.metric, value.encoder): value for value in store.sets()}
    dealt = dealt_groups(made)
    for settings in dict.fromkeys(picture.settings for picture in made):
        mine = [picture for picture in made if picture.settings == settings]
        blank = described(metric, settings, mine, reference, 0 if target is None else len(target))
        if not _same(known.get((settings, metric.word, metric.encoder_word)), blank):
            rows = torch.tensor(np.stack([features[picture.image] for picture in mine]))
            prompts = [picture.pair for picture in mine]
            groups = np.array([dealt[pair] for pair in prompts])
            store.add_set(valued(cast(SetMetric, metric.plugin.object), blank, rows, target, prompts, groups))


def described(metric: Metric, settings: str, mine: Sequence[Made], reference: Reference | None, m: int) -> SetValue:
    """Return the set's description without its value: which pictures, reference and versions it would be of."""
    version = f"{metric.version}; {metric.encoder_version}"
    where = reference.id if reference else ""
    return SetValue(settings, metric.word, metric.encoder_word, version, where, len(mine), m, image_set(mine), 0.0, ())


def _same(known: SetValue | None, blank: SetValue) -> bool:
    return (
        known is not None
        and known.version == blank.version
        and known.reference == blank.reference
        and (known.pictures == blank.pictures)
    )


def dealt_groups(made: Sequence[Made]) -> Mapping[str, int]:
    """Deal prompts to jackknife groups, the same for every chain, so that chains can be compared group by group."""
    pairs = sorted({picture.pair for picture in made})
    return dict(zip(pairs, statistics.jackknife_groups(pairs).tolist(), strict=True))


def valued(
    metric: SetMetric, blank: SetValue, rows: Tensor, target: Tensor | None, prompts: Sequence[str], groups: Groups
) -> SetValue:
    """Return the set with its value and what its interval is made from; rows (n, d), groups (n,)."""
    value = metric.value(rows, target, prompts)
    if len(set(prompts)) < 2:
        return replace(blank, value=value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning about few pictures was given once, above
        drawn = values_drawn(metric, rows, target, prompts)
        without = [] if drawn else values_without(metric, rows, target, prompts, groups)
    return replace(blank, value=value, without=tuple(without), drawn=tuple(drawn))


def values_drawn(metric: SetMetric, rows: Tensor, target: Tensor | None, prompts: Sequence[str]) -> list[float]:
    """Values of resampled prompts, by the metric's own `resampled(features, reference, weights)`; none without it."""
    own: Callable[..., list[float]] | None = getattr(metric, "resampled", None)
    return own(rows, target, torch.tensor(resampling.weights(prompts))) if own else []


def values_without(
    metric: SetMetric, rows: Tensor, target: Tensor | None, prompts: Sequence[str], groups: Groups
) -> list[float]:
    """Values with each group left out: by the metric's own `without(features, reference, groups)` where it has one."""
    own: Callable[..., list[float]] | None = getattr(metric, "without", None)
    if own is not None:
        return own(rows, target, groups.tolist())

    def statistic(kept: Any) -> float:
        return metric.value(rows[torch.as_tensor(kept)], target, [prompts[i] for i in kept])

    return statistics.leave_out(statistic, groups).tolist()
