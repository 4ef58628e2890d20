"""The contrastive losses: make the model likelier to denoise positive pictures than the base, and negative ones less.

L is the mean squared error of the predicted noise per picture, (b,), and L_ref that of the frozen base at the same
noise and level. Guidance takes no part in them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def dpo(positive: Tensor, negative: Tensor, positive_ref: Tensor, negative_ref: Tensor, beta: float) -> Tensor:
    """Diffusion-DPO (arXiv:2311.12908, eq. 14, as its code has it): -log sigma(-(beta / 2) (margin)), (b,).

    margin = (L+ - L-) - (L+_ref - L-_ref); log 2 where the model is the base.
    """
    margin = (positive - negative) - (positive_ref - negative_ref)
    return -logsigmoid(-0.5 * beta * margin)


def kto(losses: Tensor, reference: Tensor, positive: Tensor, beta: float, mean: Tensor | None = None) -> Tensor:
    """Diffusion-KTO (arXiv:2404.04465, its code): 1 - sigma(y beta (g - z)), (b,); `positive` (b,) is y = 1, else -1.

    g = L_ref - L; z = max(0, mean of g) without a gradient, over all pictures of the update (`mean`, default: these).
    """
    g = reference - losses
    z = (g.mean() if mean is None else mean).detach().clamp(min=0)
    y = torch.where(positive, 1.0, -1.0).to(g)
    return 1 - torch.sigmoid(y * beta * (g - z))
