"""A rollout is the walk of `genbench run`."""

from __future__ import annotations

import torch

from genbench.generation import generate
from genbench.training.rollouts import Rollout
from tests.training.rolling import resources, toy


def test_a_rollout_draws_what_a_run_draws() -> None:
    model = toy()
    pictures = Rollout(resources(model), model, steps=3).pictures(("red", "blue"), (1, 2))
    for row, (prompt, seed) in enumerate((("red", 1), ("blue", 2))):
        (made,) = generate(model="toy", prompt=prompt, seed=seed, steps=3)
        assert torch.allclose(made.image, pictures[row], atol=1e-6)


def test_batches_change_nothing() -> None:
    model = toy()
    whole, parts = (Rollout(resources(model), model, steps=2, batch=batch) for batch in (16, 2))
    assert torch.allclose(*(each.pictures(("red",) * 5, range(5)) for each in (whole, parts)), atol=1e-6)
