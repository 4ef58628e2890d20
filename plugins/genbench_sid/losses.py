"""SiD's losses as functions of what the networks say (arXiv:2404.04057; with guidance arXiv:2406.01561)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from genbench.kinds import Level, PredictionType

Weight = Literal["mean_abs", "1_minus_sigma", "snr", "snr_sqrt", "none"]


def student_loss(x: Tensor, real: Tensor, fake: Tensor, again: Tensor, alpha: float, weight: Tensor) -> Tensor:
    """w delta . ((f_phi - x) - alpha delta'), summed over the numbers of each sample: (b,).

    `x` (b, ...) is what the student made, `real` = f_phi and `fake` = f_psi what teacher and fake score make of it
    after noise, delta = f_phi - f_psi. `again` is f_psi where it occurs the second time, at its own guidance scale:
    delta' = f_phi - again, and alpha = 1 is w delta . (again - x). Gradients go through both networks into x.
    """
    delta, second = real - fake, real - again
    return (weight * delta * ((real - x) - alpha * second)).flatten(1).sum(1)


@torch.no_grad()
def student_weight(x: Tensor, real: Tensor, level: Level, kind: Weight) -> Tensor:
    """The weight of each sample, (b, 1, ...): 1 / mean |x - f_phi| (SiD), 1 - sigma (SiD-DiT), or by the SNR."""
    if kind == "mean_abs":
        mean = (x - real).float().abs().flatten(1).mean(1).clamp(min=1e-5)
        return (1 / mean).reshape(-1, *(1,) * (x.ndim - 1))
    alpha, sigma = level.alpha, level.sigma
    ratio = torch.as_tensor(alpha / sigma)
    match kind:
        case "1_minus_sigma":
            return torch.as_tensor(alpha / (alpha + sigma))
        case "snr":
            return ratio**2
        case "snr_sqrt":
            return ratio
        case "none":
            return torch.ones_like(ratio)


def fake_loss(raw: Tensor, target: Tensor, level: Level, kind: PredictionType) -> Tensor:
    """The denoising loss of the fake score in the network's own convention, summed over numbers: (b,)."""
    return fake_weight(level, kind) * (raw - target).square().flatten(1).sum(1)


def fake_weight(level: Level, kind: PredictionType) -> Tensor:
    """The weight (b,) of a level: 1 for eps and flow, snr / (snr + 1) for v (SiD-LSG's code), EDM's for x0.

    EDM's is (s^2 + 1/4) / (s / 2)^2 with s = sigma / alpha, here without its preconditioning.
    """
    alpha, sigma = torch.as_tensor(level.alpha).flatten(), torch.as_tensor(level.sigma).flatten()
    if kind == "v_prediction":
        return alpha**2 / (alpha**2 + sigma**2)
    if kind == "sample":
        s = sigma / alpha
        return (s**2 + 0.25) / (0.5 * s) ** 2
    return torch.ones_like(sigma)


def logits(feature: Tensor) -> Tensor:
    """The discriminator that the fake score is already (SiDA, arXiv:2410.14919): its features' mean over channels.

    A map (b, c, h, w) to (b, h w), tokens (b, n, c) to (b, n).
    """
    return feature.float().mean(1 if feature.ndim == 4 else 2).flatten(1)


def looks_real(logits: Tensor, real: bool) -> Tensor:
    """Binary cross entropy (b,) of logits (b, k) that should say so; bounded by 10 as in the released code."""
    bounded = logits.clamp(-10, 10)
    return softplus(-bounded if real else bounded).mean(1)
