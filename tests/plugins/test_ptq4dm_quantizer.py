"""Rounding and the search of ranges against their formulas in plainest form, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genbench_ptq4dm.quantizer import Grid, Rounded, largest, pack4, unpack4
from genbench_ptq4dm.search import Histogram, Metric, activation_range, cosine, kl, lp, weight_limits


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain(x: float, scale: float, zero: int) -> float:
    """x^ = s (clamp(round(x / s) + z, 0, 255) - z)."""
    return scale * (min(max(round(x / scale) + zero, 0), 255) - zero)


@pytest.mark.parametrize(("low", "high"), [(-1.5, 3.0), (0.25, 2.0), (-4.0, -1.0), (-1e-3, 7.0)])
def test_activations_follow_the_formula(low: float, high: float) -> None:
    grid = Grid.over(low, high)
    x = low + (high - low) * (1.2 * torch.rand(2000, generator=torch.Generator().manual_seed(1)).double() - 0.1)
    x = x[((x / grid.scale).frac().abs() - 0.5).abs() > 1e-3]  # halves may round either way
    expected = torch.tensor([plain(v, grid.scale, grid.zero) for v in x.tolist()], dtype=torch.float64)
    assert torch.allclose(grid.fake(x), expected, atol=1e-7, rtol=1e-6)
    integers = grid.quantize(x).double()
    assert torch.allclose(grid.scale * (integers - grid.zero), expected, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize(("low", "high", "zero"), [(0.0, 5.0, 0), (2.0, 5.0, 0), (-5.0, -1.0, 255), (-1.0, 1.01, 127)])
def test_zero_is_represented_and_lies_where_the_range_says(low: float, high: float, zero: int) -> None:
    grid = Grid.over(low, high)
    assert grid.zero == zero and float(grid.fake(torch.zeros(1))) == 0.0
    assert grid.scale == pytest.approx((max(high, 0) - min(low, 0)) / 255)


def test_tensors_of_one_value() -> None:
    assert Grid.over(0.0, 0.0) == Grid(1.0, 0)
    assert float(Grid.over(0.7, 0.7).fake(torch.tensor(0.7))) == pytest.approx(0.7)
    rounded = Rounded.of(torch.zeros(3, 4), torch.zeros(3))
    assert torch.equal(rounded.weights(), torch.zeros(3, 4)) and torch.equal(rounded.scale, torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_stay(dtype: torch.dtype) -> None:
    x = noise(50).to(dtype)
    made = Grid.over(-4.0, 4.0).fake(x)
    assert made.dtype == dtype and float((made - x).abs().max()) < 0.05


def test_the_gradient_passes_where_nothing_is_clipped() -> None:
    x = torch.tensor([-5.0, -0.5, 0.5, 5.0], requires_grad=True)
    Grid.over(-1.0, 1.0).fake(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_have_a_step_for_every_channel(bits: int) -> None:
    weight = noise(5, 3, 2, 2) * torch.tensor([1.0, 10, 0.1, 5, 2]).view(-1, 1, 1, 1)
    limits = weight.abs().flatten(1).amax(1)
    rounded = Rounded.of(weight, limits, bits)
    top = 2 ** (bits - 1) - 1
    for channel in range(5):
        step = float(limits[channel]) / top
        expected = torch.tensor(
            [step * max(-top, min(top, round(w / step))) for w in weight[channel].flatten().tolist()]
        )
        assert torch.allclose(rounded.weights()[channel].flatten(), expected, atol=1e-6)
    assert rounded.weight.dtype == torch.int8 and int(rounded.weight.abs().max()) == top == largest(bits)
    assert float((rounded.weights() - weight).abs().max()) <= float(limits.max()) / top / 2 + 1e-6


def test_one_bit_less_doubles_the_step() -> None:
    weight = noise(4, 64)
    full = Rounded.of(weight, weight.abs().amax(1))
    less = full.reduced()
    assert int(less.weight.abs().max()) <= 64 and torch.equal(less.scale, 2 * full.scale)
    assert 255 * int(less.weight.abs().max()) * 2 <= 2**15 - 1
    assert bool(((less.weights() - full.weights()).abs() <= full.scale[:, None] + 1e-6).all())


@pytest.mark.parametrize("shape", [(3, 4), (3, 5), (1,), (2, 3, 3, 3)])
def test_four_bits_are_packed_two_to_a_byte(shape: tuple[int, ...]) -> None:
    weight = torch.randint(-8, 8, shape, generator=torch.Generator().manual_seed(0)).to(torch.int8)
    packed = pack4(weight)
    assert packed.dtype == torch.uint8 and len(packed) == -(-weight.numel() // 2)
    assert torch.equal(unpack4(packed, shape), weight)


# --- ranges -----------------------------------------------------------------------------------------------------------


def counted(x: Tensor, bins: int = 8192) -> Histogram:
    histogram = Histogram.empty(float(x.min()), float(x.max()), bins)
    for part in x.split(len(x) // 3):
        histogram.add(part)
    return histogram


def test_a_histogram_counts_everything_once() -> None:
    x = noise(3000)
    histogram = counted(x)
    assert float(histogram.counts.sum()) == 3000
    mean = float((histogram.counts * histogram.centres).sum() / 3000)
    assert mean == pytest.approx(float(x.mean()), abs=1e-3)


def distance(x: Tensor, grid: Grid, metric: str, p: float) -> float:
    """A metric over the values themselves."""
    x = x.double()
    rounded = grid.fake(x)
    if metric == "lp":
        return float((x - rounded).abs().pow(p).mean())
    return 1 - float((x * rounded).sum() / (x.norm() * rounded.norm()))


@pytest.mark.parametrize(("metric", "p"), [("lp", 1.0), ("lp", 2.0), ("lp", 2.4), ("cosine", 0.0)])
def test_metrics_of_the_histogram_are_those_of_the_values(metric: str, p: float) -> None:
    x = noise(20000).pow(3)
    histogram = counted(x)
    for share in (0.2, 0.5, 1.0):
        grid = Grid.over(share * float(x.min()), share * float(x.max()))
        found = float((lp if metric == "lp" else cosine)(histogram, grid, p))
        assert found == pytest.approx(distance(x, grid, metric, p), rel=0.02)


@pytest.mark.parametrize("metric", ["lp", "cosine"])
def test_the_chosen_range_is_the_best_candidate(metric: Metric) -> None:
    x = noise(20000).pow(3)
    low, high = activation_range(counted(x), metric)
    least, most, widest = float(x.min()), float(x.max()), float(x.abs().max())
    ranges = [(max(least, -i / 100 * widest), min(most, i / 100 * widest)) for i in range(1, 101)]
    distances = [distance(x, Grid.over(*each), metric, 2.4) for each in ranges]
    best = min(range(100), key=distances.__getitem__)
    assert (low, high) == pytest.approx(ranges[best], abs=0.021 * widest)
    assert distances[best] < distances[-1]  # heavy tails: clipping helps


def test_larger_p_clips_less() -> None:
    histogram = counted(noise(20000).pow(3))
    highs = [activation_range(histogram, "lp", p)[1] for p in (1.0, 2.0, 2.4, 8.0, 40.0)]
    assert highs == sorted(highs) and highs[0] < highs[-1]
    assert highs[-1] == pytest.approx(histogram.high)  # p -> infinity is the widest range


def test_a_far_value_on_one_side_leaves_the_other_whole() -> None:
    x = torch.cat([noise(20000).clamp(-2, 2), torch.tensor([30.0])])
    low, high = activation_range(counted(x), "lp", 1.0)
    assert low == pytest.approx(-2.0, abs=0.4) and high < 4


def test_inputs_of_one_sign_have_one_sided_ranges() -> None:
    low, high = activation_range(counted(noise(5000).abs()), "lp")
    assert 0 <= low < 0.01 and Grid.over(low, high).zero == 0


def naive_kl(x: Tensor, low: float, high: float, grid: Grid, bins: int) -> float:
    """The divergence with loops: P clipped to the outermost bins that the grid holds, Q even over each level's bins."""
    width = (high - low) / bins
    counts = [0.0] * bins
    for value in x.tolist():
        counts[min(int((value - low) / width), bins - 1)] += 1
    level = [round((low + (i + 0.5) * width) / grid.scale) + grid.zero for i in range(bins)]
    inside = [i for i in range(bins) if 0 <= level[i] <= 255]
    p = {i: counts[i] for i in inside}
    p[inside[0]] += sum(counts[: inside[0]])
    p[inside[-1]] += sum(counts[inside[-1] + 1 :])
    q = dict.fromkeys(inside, 0.0)
    for each in {level[i] for i in inside}:
        filled = [i for i in inside if level[i] == each and counts[i] > 0]
        for i in filled:
            q[i] = sum(counts[i] for i in filled) / len(filled)
    p_sum, q_sum, smooth = sum(p.values()), sum(q.values()), 1e-6
    total = 0.0
    for i in inside:
        if p[i] > 0:
            told = (q[i] / q_sum + smooth / bins) / (1 + smooth)
            total += p[i] / p_sum * math.log(p[i] / p_sum / told)
    return total


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_divergence_against_loops(share: float) -> None:
    x, bins = noise(4000).double(), 1024
    low, high = float(x.float().min()), float(x.float().max())
    grid = Grid.over(share * low, share * high)
    histogram = Histogram.empty(low, high, bins)
    histogram.add(x)
    assert float(kl(histogram, grid)) == pytest.approx(naive_kl(x, low, high, grid, bins), rel=1e-3, abs=1e-6)


def test_divergence_keeps_what_is_evenly_spread_and_clips_a_far_outlier() -> None:
    even = torch.linspace(0, 1, 20000)
    assert activation_range(counted(even), "kl")[1] > 0.95
    outlier = torch.cat([noise(20000), torch.tensor([60.0])])
    assert activation_range(counted(outlier), "kl")[1] < 30


def test_weights_are_clipped_where_that_is_nearer() -> None:
    weight = noise(4, 500).pow(3)
    limits = weight_limits(weight, 4, 2.0)
    widest = weight.abs().amax(1)
    assert bool((limits < widest).all())
    for channel in range(4):
        errors = []
        for i in range(1, 101):
            limit = widest[channel : channel + 1] * i / 100
            made = Rounded.of(weight[channel : channel + 1], limit, 4).weights().double()
            errors.append(float((made - weight[channel].double()).pow(2).mean()))
        best = (min(range(100), key=errors.__getitem__) + 1) / 100
        assert float(limits[channel] / widest[channel]) == pytest.approx(best, abs=0.011)


def test_weights_of_few_values_keep_them() -> None:
    weight = torch.tensor([[0.0, 0.5, -0.5, 1.0], [0.0, 0.0, 0.0, 0.0]])
    limits = weight_limits(weight)
    assert limits.tolist() == [1.0, 0.0]
