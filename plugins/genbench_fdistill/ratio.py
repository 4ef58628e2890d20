"""From a discriminator's logits to the weight of each sample's distribution matching (f-distill, arXiv:2502.15681).

    r = clamp(exp(mean of the logits))     the optimal logit is log p_t / q_t, of real pictures p and the student's q
    r <- r / (mean of r at this time)      a discriminator is off by another factor at every noise level
    h <- h(r) / (mean of h)                what is left has the size of DMD2's gradient
    w = h / mean |x0 - mu_teacher|,   L = 1/2 mean (x0 - sg[x0 - w (mu_fake - mu_teacher)])^2

b is the samples of one process. Means are those of the whole update: `reduce` sums a tensor over the processes, each of
which calls it as often, also with no samples of its own. What is reduced are sums and counts, so that uneven shares
weigh every sample alike (the released code divides by b times the processes). Numbers are float32 at least, without a
gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, one_hot

Reduce = Callable[[Tensor], Tensor]
"""A tensor to its sum over all processes, of the same shape."""

LARGEST_LOGIT = 10.0
BIN_NUM = 10
EPS = 1e-6


def one_process(tensor: Tensor) -> Tensor:
    """The sum over one process."""
    return tensor


@torch.no_grad()
def density_ratio(logits: Tensor, low: float = 0.1, high: float = 20.0) -> Tensor:
    """Logits (b, K) of K heads to r (b,) in [low, high]; their mean is bounded by +-10 before the exponential.

    Of the same x_t and t as the gradient that r will weigh. Under the student r has mean 1 where the heads are right.
    """
    return _exact(logits).mean(1).clamp(-LARGEST_LOGIT, LARGEST_LOGIT).exp().clamp(low, high)


def initial_bins(bin_num: int = BIN_NUM) -> Tensor:
    """Means of r by time before any was seen, (bin_num,) ones: the state that `over_time` moves."""
    return torch.ones(bin_num)


@torch.no_grad()
def over_time(
    ratio: Tensor,
    t: Tensor,
    bins: Tensor,
    *,
    first: float = 0.0,
    last: float = 1.0,
    rate: float = 0.0,
    reduce: Reduce = one_process,
) -> tuple[Tensor, Tensor]:
    """r (b,) at times t (b,) in [first, last], over its mean at such times: r again, and the bins after it.

    `bins` (bin_num,) cut the time evenly; each moves as rate bin + (1 - rate) mean, `rate` in [0, 1], if the batch has
    samples in it and stays as it is otherwise. A rate of 0 with few samples a bin leaves no r but 1; take 0.9 there.
    """
    share = (_exact(t) - first) / (last - first)
    rows = (share * len(bins)).floor().long().clamp(0, len(bins) - 1)
    member = one_hot(rows, len(bins)).to(ratio)
    sums, counts = reduce(torch.stack([ratio @ member, member.sum(0)]))
    means = sums / counts.clamp(min=1)
    moved = torch.where(counts > 0, rate * bins.to(means) + (1 - rate) * means, bins.to(means))
    return ratio / (moved[rows] + EPS), moved.to(bins)


@torch.no_grad()
def over_batch(h: Tensor, reduce: Reduce = one_process) -> Tensor:
    """h (b,) > 0 over its mean. The released code adds 1e-6 to it; without, ones stay ones and rkl is DMD2 exactly."""
    total, count = reduce(torch.stack([h.sum(), h.new_tensor(float(len(h)))]))
    return h / (total / count)


@torch.no_grad()
def matching_weight(h: Tensor, x0: Tensor, mu_teacher: Tensor) -> Tensor:
    """w (b,): h (b,) over the mean of |x0 - mu_teacher|, both (b, ...) (DMD, arXiv:2311.18828).

    `mu_teacher` is what the guided teacher says of x_t, as x0.
    """
    return _exact(h) / ((_exact(x0) - _exact(mu_teacher)).abs().flatten(1).mean(1) + EPS)


def matching_loss(x0: Tensor, mu_fake: Tensor, mu_teacher: Tensor, w: Tensor) -> Tensor:
    """A number whose gradient by the student's x0 (b, ...) is w (mu_fake - mu_teacher) over the number of elements.

    Means (b, ...) as x0, w (b,). With rkl, hence h = 1, the loss of DMD2 (arXiv:2405.14867) to the bit.
    """
    x0, wide = _exact(x0), w.reshape(-1, *[1] * (x0.ndim - 1))
    target = (x0 - wide * (_exact(mu_fake) - _exact(mu_teacher))).detach()
    return 0.5 * mse_loss(x0, target)


def _exact(tensor: Tensor) -> Tensor:
    """At least float32: bfloat16 knows exp(10) to two digits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
