"""A student of few steps while it learns: its pictures, and what teacher and fake score say of them in x0 space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genbench.backbones import network_name
from genbench.errors import UsageError
from genbench.kinds import Conditioning, Level, Model, Prediction
from genbench.training.noising import noised


def walked(model: Model, conditioning: Conditioning, levels: Sequence[Level], noises: Tensor) -> Tensor:
    """Clean latents (b, ...) after as many steps as there are levels; only the last one passes a gradient.

    x_1 = sigma_1 z_1, x0_i = G(x_i), x_{i+1} = alpha_{i+1} sg(x0_i) + sigma_{i+1} z_{i+1}: the walk that
    `genbench.fewstep` draws (arXiv:2406.01561; several steps: arXiv:2505.12674). `noises` (k, b, ...).
    Raises ValueError where levels and noises are not as many.
    """
    told = alone(conditioning)
    x, clean = levels[0].sigma * noises[0], noises[0]
    for number, (level, _) in enumerate(zip(levels, noises, strict=True)):
        last = number == len(levels) - 1
        with nullcontext() if last else torch.no_grad():
            clean = predicted(model, told, x, level).x0
        if not last:
            torch.clear_autocast_cache()  # it holds weights that were cast without a graph; the last step needs theirs
            x = noised(clean, noises[number + 1], levels[number + 1])
    return clean


def x0_at(model: Model, conditioning: Conditioning, x: Tensor, level: Level, *scales: float) -> tuple[Tensor, ...]:
    """What a network says of x (b, ...), as x0, once for every guidance scale: u + scale (c - u).

    A scale of 1 asks for the prompt alone and 0 for no prompt alone; each half is evaluated once, and only if some
    scale needs it. `level` has one entry per row. Raises UsageError for a model without guidance and a scale but 1.
    """
    halves = _halves(model, conditioning, x, level, with_prompt=set(scales) != {0.0}, without=set(scales) != {1.0})
    return tuple(_guided(halves, scale) for scale in scales)


def raw_at(model: Model, conditioning: Conditioning, x: Tensor, level: Level, scale: float) -> Tensor:
    """The same in the network's own convention, for its training loss."""
    halves = _halves(model, conditioning, x, level, with_prompt=scale != 0, without=scale != 1, raw=True)
    return _guided(halves, scale)


def _guided(halves: Mapping[bool, Tensor], scale: float) -> Tensor:
    if scale in (0.0, 1.0):
        return halves[scale == 1.0]
    return halves[False] + scale * (halves[True] - halves[False])


def _halves(
    model: Model,
    conditioning: Conditioning,
    x: Tensor,
    level: Level,
    *,
    with_prompt: bool,
    without: bool,
    raw: bool = False,
) -> dict[bool, Tensor]:
    """The predictions with the prompt (True) and without (False), those asked for, in one call of the network."""
    if without and conditioning.negative is None:
        raise UsageError(f"model={model.name} has no prompt-free half to guide by; give guidance scales of 1")
    asked = [half for half, wanted in ((True, with_prompt), (False, without)) if wanted]
    sides = {True: conditioning.positive, False: conditioning.negative or {}}
    joined = {key: torch.cat([sides[half][key] for half in asked]) for key in sides[asked[0]]}
    prediction = predicted(model, Conditioning(joined), torch.cat([x] * len(asked)), repeated(level, len(asked)))
    told = prediction.raw if raw else prediction.x0
    return dict(zip(asked, told.chunk(len(asked)), strict=True))


def predicted(model: Model, conditioning: Conditioning, x: Tensor, level: Level) -> Prediction:
    """One call of the network, in float32; a network of half precision sees x rounded, its x0 is of x as it is."""
    dtype = dtype_of(model)
    fed = replace(level, scale=torch.as_tensor(level.scale).to(dtype))  # a scale per row would widen x again
    told = model.denoiser(conditioning, recommended_guidance(model))(x.to(dtype), fed)
    return Prediction(told.raw.float(), x, level, told.type)


def dtype_of(model: Model) -> torch.dtype:
    """What the denoising network is fed with: of a copy that learns float32, whatever the rest of the model is in."""
    network = model.modules[network_name(model) or ""]
    return next(network.parameters()).dtype


def alone(conditioning: Conditioning) -> Conditioning:
    """The prompts without what guidance compares them with."""
    return Conditioning(conditioning.positive)


def recommended_guidance(model: Model) -> float:
    """What a network that is told its guidance scale (FLUX) is told; the others are not asked for guidance here."""
    return float(str(model.recommended.get("guidance_scale", 1.0)))


def guidance_of(model: Model, asked: float | None) -> float:
    """The scale of classifier-free guidance that is asked for, else the one of the model's own pictures."""
    return model.guidance_weight(recommended_guidance(model)) if asked is None else asked


def repeated(level: Level, times: int) -> Level:
    """A level of one entry per row, for `times` copies of the rows."""
    if times == 1:
        return level
    parts = (torch.cat([torch.as_tensor(part)] * times) for part in (level.t, level.alpha, level.sigma, level.scale))
    return Level(*parts)


@dataclass(frozen=True)
class Chance:
    """The random numbers of a turn's samples: one generator each, so that they do not depend on who draws them."""

    generators: tuple[torch.Generator, ...]

    @classmethod
    def of(cls, seeds: Sequence[int]) -> Chance:
        return cls(tuple(torch.Generator().manual_seed(seed) for seed in seeds))

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Unit noise (b, *shape)."""
        return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in self.generators])

    def chosen(self, share: float) -> list[bool]:
        """For every sample whether it belongs to a share in [0, 1] of all."""
        return [bool(torch.rand(1, generator=generator) < share) for generator in self.generators]
