"""What is made small: rewards of pictures, turned into a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from genbench.errors import TrainingError, UsageError
from genbench.kinds import Scorer


def reward_loss(rewards: Tensor, target: float | None) -> Tensor:
    """(b,): -r, or |r - target|, which stops pulling at the target (AlignProp's aesthetic runs aim at 10)."""
    return -rewards if target is None else (rewards - target).abs()


def rewards(
    scorer: Scorer, images: Tensor, prompts: Sequence[str], rows: Sequence[Mapping[str, object]] | None
) -> Tensor:
    """Ask the scorer, (b,). Raises TrainingError for a value that is no number."""
    values = scorer.score(images=images, prompts=prompts, rows=rows)
    if not torch.isfinite(values).all():
        bad = prompts[int((~torch.isfinite(values)).nonzero()[0])]
        raise TrainingError(f"the reward is no number for a picture of '{bad}'; the weights before it are kept")
    return values


def check_gradient(scorer: Scorer, name: str, row: Mapping[str, object], side: int) -> None:
    """Raise UsageError unless the value has a gradient to the pixels; `side` is a picture's, in pixels."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, 3, side, side), generator=generator).requires_grad_()
    none = UsageError(
        f"reward={name} has no gradient to the pixels, which is what alignprop follows; take a scorer that has "
        "one (clip, pickscore, solids ...), or a method that needs none: plugin=dragon"
    )
    try:
        value = scorer.score(images=image, prompts=[str(row["prompt"])], rows=[row])
    except RuntimeError as error:
        if "requires grad" in str(error):  # torch's words where a scorer leaves it for numpy
            raise none from error
        raise
    found = torch.autograd.grad(value.sum(), image, allow_unused=True)[0] if value.requires_grad else None
    if found is None or not bool((found != 0).any()):  # what is no number is said when it comes up
        raise none
