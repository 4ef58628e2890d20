"""Which steps of a sampling chain pass a gradient to the weights.

Index 0 is the noisiest step, T - 1 the last. A step that is not kept takes part as a constant: the picture goes
through it, its network does not learn from it.

    full             all steps
    last             the last K (DRaFT-K, arXiv:2309.17400)
    per_rollout      steps i >= u with one u ~ U{0..T} per rollout (AlignProp, arXiv:2310.03739)
    per_step_random  step i where u_i <= i, u_i ~ U{0..T} drawn for each step: the released code and TRL's trainer

The last two are different estimators: of a chain of five linear steps with full gradient -5.90 (tests) their means are
-2.56 and -2.67. A chain of which nothing is kept has no gradient; it happens once in T + 1 rollouts.
"""

from __future__ import annotations

from typing import Literal

import torch

Mode = Literal["per_rollout", "per_step_random", "last", "full"]


def kept_steps(mode: Mode, steps: int, last: int, generator: torch.Generator) -> tuple[bool, ...]:
    """Return for each of `steps` whether its gradient is kept; `last` is K of mode `last`, in [1, steps]."""
    match mode:
        case "full":
            return (True,) * steps
        case "last":
            return tuple(step >= steps - last for step in range(steps))
        case "per_rollout":
            threshold = int(torch.randint(steps + 1, (1,), generator=generator))
            return tuple(step >= threshold for step in range(steps))
        case "per_step_random":
            thresholds = torch.randint(steps + 1, (steps,), generator=generator).tolist()
            return tuple(step >= threshold for step, threshold in enumerate(thresholds))
