"""The plain loop that a script would be: the model's own diffusers pipeline, one prompt at a time."""

# pyright: basic
# diffusers' pipelines carry no types here; they stop at this module's own signatures.

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genbench.bench.watch import Clock
from genbench.generation import Session
from genbench.request import Item


@dataclass(frozen=True)
class Stock:
    """What the loop made: images (3, h, w) in [0, 1], in the order asked, in `seconds`."""

    images: list[Tensor]
    seconds: float


def draw(session: Session, items: Sequence[Item], clock: Clock) -> Stock | None:
    """Draw items with the stock pipeline, after one short picture that is not timed; None for a model without one."""
    pipeline = getattr(session.model, "pipeline", None)
    if pipeline is None:
        return None
    calls = [_arguments(pipeline, session.changed(item.overrides), item) for item in items]
    scheduled = [_with_scheduler(pipeline, session.changed(item.overrides)) for item in items]
    with torch.no_grad():
        scheduled[0](**{**calls[0], "num_inference_steps": min(2, calls[0]["num_inference_steps"])})
        calls[0]["generator"].manual_seed(items[0].seed)
        began = clock()
        images = [pipe(**call).images[0] for pipe, call in zip(scheduled, calls, strict=True)]
        seconds = clock() - began
    return Stock([torch.as_tensor(image).permute(2, 0, 1) for image in images], seconds)


def _with_scheduler(pipeline: Any, session: Session) -> Any:
    """The pipeline with the run's scheduler: its own, or the one that `sampler=` names."""
    clone = copy.copy(pipeline)
    clone.scheduler = copy.deepcopy(session.sampler(session.resolved.request.sampler).scheduler)
    return clone


def _arguments(pipeline: Any, session: Session, item: Item) -> dict[str, Any]:
    """The arguments of one stock call, as far as this pipeline takes them."""
    request = session.resolved.request
    given = {
        "prompt": item.prompt,
        **({"negative_prompt": item.negative_prompt} if item.negative_prompt else {}),
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "true_cfg_scale": request.true_cfg,
        "height": request.height,
        "width": request.width,
        "generator": torch.Generator("cpu").manual_seed(item.seed),
        "output_type": "np",
        "use_resolution_binning": False,
    }
    accepted = inspect.signature(type(pipeline).__call__).parameters
    return {name: value for name, value in given.items() if name in accepted}
