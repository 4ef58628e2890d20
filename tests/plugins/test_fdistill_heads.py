"""Discriminator heads: every shape gives a logit that sees its input; published layers by key; the losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from genbench.errors import ModelError
from genbench_fdistill import heads
from genbench_fdistill.heads import Discriminator

MAPS = [(c, side, side) for side in (1, 2, 4, 8, 16, 32) for c in (1, 3, 4, 12, 32, 48, 64)]
ODD = [(8, 6, 6), (8, 5, 7), (8, 12, 12), (8, 24, 32), (8, 4, 16), (8, 1, 32), (17, 3, 2)]
TOKENS = [(1, 12), (4, 12), (64, 24), (15, 12), (48, 8), (256, 1)]
SD15 = {
    **{"0.weight": (1280, 1280, 4, 4), "0.bias": (1280,), "1.weight": (1280,), "1.bias": (1280,)},
    **{"3.weight": (1280, 1280, 4, 4), "3.bias": (1280,), "4.weight": (1280,), "4.bias": (1280,)},
    **{"6.weight": (1, 1280, 1, 1), "6.bias": (1,)},
}
"""DMD2's `cls_pred_branch` for Stable Diffusion 1.5, the middle block at 8 x 8."""
SDXL_CONVOLUTIONS = {"0": 4, "3": 4, "6": 4, "9": 4, "12": 1}
"""The same for SDXL at 32 x 32: number of the layer -> kernel."""
FLUX = {
    **{"0.weight": (1536, 3072, 4, 4), "0.bias": (1536,), "1.weight": (1536,), "1.bias": (1536,)},
    **{"3.weight": (1, 1536, 1, 1), "3.bias": (1,)},
}
"""FastGen's head for FLUX."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


@pytest.mark.parametrize("shape", [*MAPS, *ODD, *TOKENS], ids=str)
def test_every_shape_gives_a_logit_that_sees_its_input(shape: tuple[int, ...]) -> None:
    """A group of one channel on one cell would be zero whatever comes in, which is left to maps of one channel."""
    discriminator = Discriminator([shape], seed=0)
    x = normal(3, *shape).requires_grad_()
    logits = discriminator([x])
    assert logits.shape == (3, 1)
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    if len(shape) == 2 or shape[0] > 1:
        assert torch.isfinite(gradient).all() and (gradient.flatten(1).abs().amax(1) > 0).all()
        assert float(logits.detach().std()) > 1e-4


def test_a_batch_of_one_works_and_rows_do_not_meet() -> None:
    discriminator = Discriminator([(64, 2, 2), (32, 8, 8)], seed=0).eval()
    features = [normal(3, 64, 2, 2), normal(3, 32, 8, 8)]
    together = discriminator(features)
    for row in range(3):
        alone = discriminator([feature[row : row + 1] for feature in features])
        assert torch.allclose(alone, together[row : row + 1], atol=1e-6)


def test_several_features_give_as_many_logits() -> None:
    discriminator = Discriminator([(16, 8, 8), (16, 4, 4), (64, 24), (15, 24)], seed=0)
    features = [normal(2, 16, 8, 8), normal(2, 16, 4, 4), normal(2, 64, 24), normal(2, 15, 24)]
    logits = discriminator(features)
    assert logits.shape == (2, 4)
    assert torch.equal(discriminator([feature.double() for feature in features]), logits)


def test_tokens_are_a_map_by_rows() -> None:
    tokens = normal(2, 6, 3)
    assert torch.equal(heads.spatial(tokens), tokens.mean(1))
    tokens = normal(2, 9, 5)
    assert torch.equal(heads.spatial(tokens)[1, :, 2, 1], tokens[1, 7])


def test_the_caller_seeds_and_nothing_else_is_drawn() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again, other = (Discriminator([(16, 4, 4), (9, 8)], seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [torch.cat([p.flatten() for p in each.parameters()]) for each in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_features_of_another_shape_are_refused() -> None:
    discriminator = Discriminator([(16, 4, 4)], seed=0)
    with pytest.raises(ModelError, match=r"made for features \(\(16, 4, 4\),\) and is given \(\(16, 8, 8\),\)"):
        discriminator([normal(2, 16, 8, 8)])
    with pytest.raises(ModelError, match="tokens"):
        heads.head((3,))


# --- published layers ---------------------------------------------------------------------------------------------


def test_the_published_heads_fit_by_key() -> None:
    with torch.device("meta"):
        assert shapes(heads.map_head(1280, 8, 8)) == SD15
        sdxl = heads.map_head(1280, 32, 32)
        assert shapes(heads.token_head(3072)) == FLUX
    kernels = {name: layer.kernel_size[0] for name, layer in sdxl.named_children() if isinstance(layer, nn.Conv2d)}
    assert kernels == SDXL_CONVOLUTIONS
    strides = [layer.stride[0] for layer in sdxl if isinstance(layer, nn.Conv2d)]
    assert strides == [2, 2, 2, 4, 1]


@pytest.mark.parametrize("c", [256, 768, 1280, 1536])
def test_published_widths_have_their_thirty_two_groups(c: int) -> None:
    assert heads.groups(c) == 32


def test_groups_divide_and_hold_eight_channels_where_there_are_eight() -> None:
    for c in range(1, 400):
        assert c % heads.groups(c) == 0 and c // heads.groups(c) >= min(c, 8)


def test_the_head_of_dmd2_gives_its_numbers() -> None:
    """The stack for 8 x 8 in DMD2's own words, at 64 channels with as many groups."""
    c = 64
    theirs = nn.Sequential(
        nn.Conv2d(c, c, 4, stride=2, padding=1),
        nn.GroupNorm(8, c),
        nn.SiLU(),
        nn.Conv2d(c, c, 4, stride=4, padding=0),
        nn.GroupNorm(8, c),
        nn.SiLU(),
        nn.Conv2d(c, 1, 1, stride=1, padding=0),
    )
    ours = Discriminator([(c, 8, 8)], seed=0)
    theirs.load_state_dict(ours.heads[0].state_dict())
    x = normal(2, c, 8, 8)
    assert torch.equal(ours([x]), theirs(x).squeeze(dim=[2, 3]))


# --- losses -------------------------------------------------------------------------------------------------------


def test_the_losses_are_those_of_logistic_regression() -> None:
    real, fake = normal(5, 3), normal(5, 3, seed=1)
    ones, zeros = torch.ones(5, 3), torch.zeros(5, 3)
    expected = binary_cross_entropy_with_logits(real, ones) + binary_cross_entropy_with_logits(fake, zeros)
    assert torch.allclose(heads.discriminator_loss(real, fake), expected)
    assert torch.allclose(heads.generator_loss(fake), binary_cross_entropy_with_logits(fake, ones))
    assert float(heads.discriminator_loss(zeros, zeros)) == pytest.approx(2 * math.log(2))


def test_approximate_r1_is_a_squared_slope() -> None:
    """For D = k x the mean of (D(x) - D(x + 0.1 n))^2 is (0.1 k)^2."""
    k, x = 3.0, normal(100_000, 1)
    perturbed = x + heads.R1_NOISE * normal(100_000, 1, seed=1)
    assert float(heads.approximate_r1(k * x, k * perturbed, 2.0)) == pytest.approx(2 * 0.09, rel=0.02)
    assert float(heads.approximate_r1(x, x, 1.0)) == 0.0


def test_heads_learn_to_tell_real_from_fake() -> None:
    """Unit noise, 32 channels at 8 x 8 and 16 tokens of 24; half of each real one is brighter by 1."""
    discriminator = Discriminator([(32, 8, 8), (16, 24)], seed=0)
    optimiser = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
    for step in range(100):
        loss = heads.discriminator_loss(
            discriminator(_pictures(16, step, 1.0)), discriminator(_pictures(16, step, 0.0))
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    real, fake = (discriminator(_pictures(200, 1000, shift)) for shift in (1.0, 0.0))
    assert ((real > 0).float().mean(0) > 0.9).all() and ((fake < 0).float().mean(0) > 0.9).all()


def _pictures(n: int, seed: int, shift: float) -> list[Tensor]:
    maps, tokens = normal(n, 32, 8, 8, seed=2 * seed), normal(n, 16, 24, seed=2 * seed + 1)
    maps[:, :, :4] += shift
    tokens[:, :8] += shift
    return [maps, tokens]
