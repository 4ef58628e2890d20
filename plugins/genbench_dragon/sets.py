"""From two pictures of every prompt to a positive and a negative set (DRAGON, arXiv:2504.15217).

Picture i of either set shows prompt i, so neither set can look better by holding easier prompts. For a reward of single
pictures the better one of each pair is positive. For a reward of the whole set membership is decided jointly: begin
with the better set, go once through the prompts, and exchange the two pictures of a prompt where that raises the
positive set's reward. What a picture is labelled is a property of the sets and not of the picture.

There is no public code of the method; ties, the order and the single pass are this project's reading: an exchange has
to raise the reward, the order is drawn anew for every pair of sets, and one pass is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan

import torch
from torch import Tensor

from genbench.errors import TrainingError

SetReward = Callable[[Sequence[int]], float]
"""Reward of the set of these rows, larger is better; rows i and n + i are the two pictures of prompt i."""


@dataclass(frozen=True)
class Sets:
    """`positive[i]` and `negative[i]` are the two rows of prompt i; `value` the reward of the positive set.

    `values` are the rewards of first pictures, second pictures, and of the positive set after each exchange kept.
    """

    positive: tuple[int, ...]
    negative: tuple[int, ...]
    value: float
    values: tuple[float, ...]


def by_pictures(rewards: Tensor) -> Sets:
    """Rewards (2, n) of single pictures: the better of each pair is positive, the first where they are equal."""
    n = rewards.shape[1]
    second = (rewards[1] > rewards[0]).tolist()
    positive = tuple(n + i if swap else i for i, swap in enumerate(second))
    negative = tuple(i if swap else n + i for i, swap in enumerate(second))
    both = rewards.flatten()
    value = float(both[list(positive)].mean())
    return Sets(positive, negative, value, (float(rewards[0].mean()), float(rewards[1].mean()), value))


def by_exchange(reward: SetReward, n: int, order: Sequence[int]) -> Sets:
    """One greedy pass over the prompts in `order`. Raises TrainingError where a whole set's reward is no number."""
    first, second = list(range(n)), list(range(n, 2 * n))
    values = [reward(first), reward(second)]
    if any(isnan(value) for value in values):
        raise TrainingError(f"the reward of a set of {n} pictures is no number; the weights before it are kept")
    positive, negative = (first, second) if values[0] >= values[1] else (second, first)
    best = max(values)
    for i in order:
        positive[i], negative[i] = negative[i], positive[i]
        value = reward(positive)
        if value > best:
            best = value
            values.append(value)
        else:
            positive[i], negative[i] = negative[i], positive[i]
    return Sets(tuple(positive), tuple(negative), best, tuple(values))


def mean_reward(rewards: Tensor) -> SetReward:
    """The mean over rows (2n,): with it the greedy pass gives what `by_pictures` does."""
    return lambda rows: float(rewards[torch.as_tensor(rows)].mean())
