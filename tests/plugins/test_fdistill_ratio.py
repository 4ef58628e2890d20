"""Ratio, both normalisations, weight and loss: known densities, uneven processes, the fixed point, DMD2 to the bit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import mse_loss

from genbench_fdistill import ratio
from genbench_fdistill.divergences import DIVERGENCES
from genbench_fdistill.heads import discriminator_loss
from genbench_fdistill.ratio import Reduce


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the ratio ----------------------------------------------------------------------------------------------------


def test_the_ratio_is_exp_of_the_mean_logit_within_bounds() -> None:
    logits = torch.tensor([[0.5, 0.7], [30.0, 40.0], [-30.0, 0.0], [100.0, -96.0]], requires_grad=True)
    r = ratio.density_ratio(logits, low=1e-9, high=1e9)
    assert torch.allclose(r.log(), torch.tensor([0.6, 10.0, -10.0, 2.0])) and not r.requires_grad
    assert ratio.density_ratio(logits).tolist()[1:3] == pytest.approx([20.0, 0.1])
    assert r.shape == (4,) and ratio.density_ratio(torch.zeros(0, 3)).shape == (0,)


def test_half_precision_logits_are_read_in_single() -> None:
    logits = torch.tensor([[2.515625]], dtype=torch.bfloat16)
    r = ratio.density_ratio(logits)
    assert r.dtype == torch.float32 and float(r) == pytest.approx(12.37434, rel=1e-6)
    assert ratio.density_ratio(logits.double()).dtype == torch.float64


@pytest.mark.parametrize("q", [Normal(0.0, 1.0), Normal(-0.5, 1.6)])
def test_a_trained_logit_is_the_log_ratio(q: Normal) -> None:
    """A discriminator a x^2 + b x + c between p = N(1, 0.8^2) and q: within 2 % of log p / q, and E_q[r] = 1."""
    p, n = Normal(1.0, 0.8), 200_000
    real, fake = 1.0 + 0.8 * draws(n).double(), q.mean + q.stddev * draws(n, seed=1).double()
    weights = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def logits(x: Tensor) -> Tensor:
        return (torch.stack([x**2, x, torch.ones_like(x)], 1) @ weights)[:, None]

    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = discriminator_loss(logits(real), logits(fake))
        loss.backward()
        return loss

    optimiser.step(closure)
    x = torch.linspace(-1, 2.5, 8, dtype=torch.float64)
    exact = p.log_prob(x) - q.log_prob(x)
    assert (logits(x)[:, 0] - exact).abs().max() < 0.02 * (exact.max() - exact.min())
    r = ratio.density_ratio(logits(fake), low=0.0, high=1e9)
    assert float(r.mean()) == pytest.approx(1, abs=0.01)


# --- normalisation ------------------------------------------------------------------------------------------------


def seen(n: int = 4000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ratios and times of a discriminator that is off by a factor which depends on the time."""
    t = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    logits = 0.3 * draws(n, 1, seed=seed) + (1.5 * t - 0.9)[:, None]
    return ratio.density_ratio(logits), t


def bin_means(r: Tensor, t: Tensor, number: int = 10) -> Tensor:
    rows = (t * number).long().clamp(max=number - 1)
    return torch.stack([r[rows == row].mean() for row in range(number)])


def test_over_time_the_mean_is_one_in_every_bin() -> None:
    r, t = seen()
    assert bin_means(r, t).min() < 0.5 and bin_means(r, t).max() > 1.5
    normal, bins = ratio.over_time(r, t, ratio.initial_bins())
    assert (bin_means(normal, t) - 1).abs().max() < 1e-3
    assert torch.allclose(bins, bin_means(r, t))


def test_over_the_batch_the_mean_is_one() -> None:
    r, t = seen()
    normal, _ = ratio.over_time(r, t, ratio.initial_bins())
    for name, formulas in DIVERGENCES.items():
        assert float(ratio.over_batch(formulas.weight(normal)).mean()) == pytest.approx(1, abs=1e-5), name


def test_bins_follow_their_means_and_empty_ones_stay() -> None:
    before = torch.tensor([1.0, 2.0, 3.0, 4.0])
    r, t = torch.tensor([2.0, 4.0, 8.0]), torch.tensor([0.0, 0.2, 1.0])
    kept = before.clone()
    normal, after = ratio.over_time(r, t, before, rate=0.75)
    assert after.tolist() == pytest.approx([0.75 * 1 + 0.25 * 3, 2.0, 3.0, 0.75 * 4 + 0.25 * 8])
    assert torch.equal(before, kept)  # the caller's bins are the caller's
    assert torch.allclose(normal, r / torch.tensor([1.5, 1.5, 5.0]), rtol=1e-5)
    assert ratio.over_time(r, t, before, rate=1.0)[1].equal(before)


def test_times_may_be_timesteps_and_outside_their_range() -> None:
    r, t = torch.tensor([2.0, 4.0, 8.0, 6.0]), torch.tensor([0, 99, 999, 1200])
    _, bins = ratio.over_time(r, t, ratio.initial_bins(), first=0, last=1000)
    assert bins.tolist() == [3.0, *[1.0] * 8, 7.0]


def test_a_long_average_forgets_the_noise_of_small_batches() -> None:
    bins = ratio.initial_bins()
    for step in range(300):
        r, t = seen(16, seed=step)
        _, bins = ratio.over_time(r, t, bins, rate=0.95)
    assert torch.allclose(bins, bin_means(*seen(100_000)), rtol=0.25)


# --- processes ----------------------------------------------------------------------------------------------------


def summed(shares: list[Callable[[Reduce], Tensor]]) -> list[Tensor]:
    """Run one process for each share; what they reduce is added up, as an all-reduce does."""
    barrier, said = threading.Barrier(len(shares)), [torch.zeros(0)] * len(shares)

    def reduce_of(rank: int) -> Reduce:
        def reduce(tensor: Tensor) -> Tensor:
            said[rank] = tensor
            barrier.wait(10)
            total = torch.stack(said).sum(0)
            barrier.wait(10)
            return total

        return reduce

    with ThreadPoolExecutor(len(shares)) as pool:
        running = [pool.submit(share, reduce_of(rank)) for rank, share in enumerate(shares)]
        return [each.result() for each in running]


@pytest.mark.parametrize("sizes", [(5, 11), (1, 15), (16, 0), (4, 5, 7)])
def test_uneven_processes_give_what_one_gives(sizes: tuple[int, ...]) -> None:
    """Weights of all samples, and the bins, the same in every process."""
    r, t = seen(16)
    start = torch.rand(10, generator=torch.Generator().manual_seed(5)) + 0.5

    def weights(r: Tensor, t: Tensor, reduce: Reduce) -> Tensor:
        normal, bins = ratio.over_time(r, t, start, rate=0.3, reduce=reduce)
        return torch.cat([bins, ratio.over_batch(DIVERGENCES["js"].weight(normal), reduce)])

    whole = weights(r, t, ratio.one_process)
    parts = zip(r.split(sizes), t.split(sizes), strict=True)
    told = summed([lambda reduce, r=r, t=t: weights(r, t, reduce) for r, t in parts])
    assert torch.allclose(torch.cat([each[10:] for each in told]), whole[10:], rtol=1e-6)
    for each in told:
        assert torch.allclose(each[:10], whole[:10], rtol=1e-6) and torch.equal(each[:10], told[0][:10])


# --- weight and loss ----------------------------------------------------------------------------------------------


def plain_dmd2(x0: Tensor, fake: Tensor, teacher: Tensor) -> Tensor:
    """DMD2's loss as FastGen has it, where every step but the last has no gradient."""
    with torch.no_grad():
        weight = 1 / ((x0 - teacher).abs().mean(dim=(1, 2, 3), keepdim=True) + 1e-6)
        target = x0 - (fake - teacher) * weight
    return 0.5 * mse_loss(x0, target, reduction="mean")


def original_dmd2(x0: Tensor, fake: Tensor, teacher: Tensor) -> Tensor:
    """The same in the words of DMD2's own code."""
    p_real, p_fake = x0 - teacher, x0 - fake
    grad = torch.nan_to_num((p_real - p_fake) / torch.abs(p_real).mean(dim=[1, 2, 3], keepdim=True))
    return 0.5 * mse_loss(x0.float(), (x0 - grad).detach().float(), reduction="mean")


@pytest.mark.parametrize("batch", [1, 3, 7, 48])
def test_reverse_kl_is_dmd2_to_the_bit(batch: int) -> None:
    x0 = draws(batch, 4, 8, 8).requires_grad_()
    fake, teacher = draws(batch, 4, 8, 8, seed=1), draws(batch, 4, 8, 8, seed=2)
    r, _ = ratio.over_time(*seen(batch), ratio.initial_bins())
    h = ratio.over_batch(DIVERGENCES["rkl"].weight(r))
    loss = ratio.matching_loss(x0, fake, teacher, ratio.matching_weight(h, x0, teacher))
    expected = plain_dmd2(x0, fake, teacher)
    (found,), (wanted,) = torch.autograd.grad(loss, x0), torch.autograd.grad(expected, x0)
    assert torch.equal(loss, expected) and torch.equal(found, wanted)
    (original,) = torch.autograd.grad(original_dmd2(x0, fake, teacher), x0)
    assert torch.allclose(found, original, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_the_gradient_on_x0_is_the_weighted_difference(name: str) -> None:
    x0 = draws(6, 4, 8, 8).double().requires_grad_()
    fake, teacher = draws(6, 4, 8, 8, seed=1).double(), draws(6, 4, 8, 8, seed=2).double()
    h = DIVERGENCES[name].weight(draws(6, seed=3).double().exp())  # type: ignore[index]
    w = ratio.matching_weight(h, x0, teacher)
    (found,) = torch.autograd.grad(ratio.matching_loss(x0, fake, teacher, w), x0)
    wide = (h / ((x0 - teacher).abs().mean((1, 2, 3)) + 1e-6))[:, None, None, None]
    assert torch.allclose(found, (wide * (fake - teacher) / x0.numel()).detach(), rtol=1e-12)
    assert w.shape == (6,) and not w.requires_grad


def test_half_precision_pictures_lose_nothing_more() -> None:
    x0, fake, teacher = (draws(4, 4, 8, 8, seed=seed).bfloat16() for seed in range(3))
    w = ratio.matching_weight(torch.ones(4), x0, teacher)
    assert w.dtype == torch.float32
    loss = ratio.matching_loss(x0, fake, teacher, w)
    assert loss.dtype == torch.float32 and torch.equal(loss, plain_dmd2(x0.float(), fake.float(), teacher.float()))


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_a_student_that_is_its_teacher_stays(name: str) -> None:
    """r = 1, h = 1, and where both denoisers agree the gradient is zero, whatever the divergence."""
    r, bins = ratio.over_time(ratio.density_ratio(torch.zeros(8, 2)), torch.rand(8), ratio.initial_bins())
    h = ratio.over_batch(DIVERGENCES[name].weight(r))  # type: ignore[index]
    assert torch.allclose(h, torch.ones(8), atol=1e-5) and torch.allclose(bins, torch.ones(10))
    x0, mu = draws(8, 4, 4, 4).requires_grad_(), draws(8, 4, 4, 4, seed=1)
    (found,) = torch.autograd.grad(ratio.matching_loss(x0, mu, mu, ratio.matching_weight(h, x0, mu)), x0)
    assert float(found.abs().max()) == 0.0
