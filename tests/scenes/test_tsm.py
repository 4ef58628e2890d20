"""TSM and ISM against their algebra on an exact prior (arXiv:2405.11252, arXiv:2311.11284)."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from genbench.scenes.rendering import Rendered
from genbench_tsm import ISM, TSM
from genbench_tsm.clipping import clip_depth, clip_pixels
from genbench_tsm.trajectory import inverted, times_of
from tests.scenes.gaussian_prior import latents, prior, sight


def calls(over: object) -> list[torch.Tensor]:
    return over.model.rows  # type: ignore[attr-defined]


def test_both_readings_of_gamma() -> None:
    assert TSM().r == pytest.approx(math.sqrt(1 - 0.09)) and TSM(reading="paper").r == 0.3
    assert ISM().r == 0 and TSM(ratio=1.0, reading="paper").r == 1


def test_interval_score_matching_is_the_special_case_bit_by_bit() -> None:
    z = latents()
    special = TSM(ratio=0.0).direction(sight(z, prior()))
    assert torch.equal(special, ISM().direction(sight(z, prior())))
    assert not torch.equal(special, TSM().direction(sight(z, prior())))


def test_a_target_at_t_leaves_the_classifier_score() -> None:
    over, z = prior(), latents()
    got = TSM(ratio=1.0, guidance_weight=1.0).direction(sight(z, over, scale=3.0))
    t = calls(over)[-1][:, 0].long()
    a, s = over.alpha(t[:3]), over.sigma(t[:3])
    classifier = -s * a / (a**2 * 0.25 + s**2)  # eps_y - eps_empty of unit means apart
    torch.testing.assert_close(got, (s / a * 3.0 * classifier).expand_as(got), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("warm", "low", "high", "gap"), [(1.0, 20, 979, 100), (0.5, 20, 739, 90), (0.0, 20, 499, 80)])
def test_times(warm: float, low: int, high: int, gap: int) -> None:
    asked = sight(latents(1), prior())
    drawn = [times_of(asked, warm, 0.5, (0.1, 0.08), 0.02, (0.98, 0.5)) for _ in range(4000)]
    t = [each.t - 1 for each in drawn]  # the released list of timesteps begins at 1
    assert min(t) >= low and max(t) <= high and min(t) < low + 15 and max(t) > high - 15
    assert all(each.s - 1 == max(each.t - 1 - gap, 0) for each in drawn)
    assert all(each.mu == round((each.s - 1) + 0.5 * (each.t - each.s)) + 1 for each in drawn)


def test_after_the_warm_up_the_interval_is_short() -> None:
    times = [TSM().times(sight(latents(1), prior(), progress=0.4, seed=seed)) for seed in range(200)]
    assert max(each.t for each in times) <= 500 and {each.t - each.s for each in times if each.s > 1} == {80}


@pytest.mark.parametrize("until", [1, 2, 200, 201, 202, 650, 980])
def test_how_often_the_network_is_asked(until: int) -> None:
    over = prior()
    inverted(sight(latents(2), over), latents(2, 5), until, 0.2, 5)
    assert len(calls(over)) == math.ceil((until - 1) / 200)
    assert all(len(rows) == 2 and rows[:, 1].sum() == 0 for rows in calls(over))


def test_the_network_is_asked_for_each_camera() -> None:
    over, tsm = prior(), TSM()
    tsm.direction(sight(latents(4), over, seed=3))
    s = tsm.times(sight(latents(4), prior(), seed=3)).s
    assert sum(map(len, calls(over))) == 4 * (math.ceil((s - 1) / 200) + 1 + 1 + 2)


def test_inversion_comes_back_and_errs_less_in_short_strides() -> None:
    errors = []
    for stride in (0.2, 0.1, 0.05, 0.025):
        over, z = prior(), latents(2)
        asked = sight(z, over)
        x, here, step = inverted(asked, torch.zeros_like(z), 601, stride, 40), 601, int(1000 * stride)
        while here > 1:
            there = max(here - step, 1)
            at, to = (torch.full((2,), index) for index in (here, there))
            (eps,) = over.eps((x, at, asked.texts.empty))
            x, here = over.moved(x, eps, at, to), there
        errors.append(float((x / over.alpha(torch.tensor([1])) - z).abs().max()))
    assert all(later < 0.7 * first for first, later in itertools.pairwise(errors))


def test_both_points_lie_on_one_line() -> None:
    over, z = prior(), latents(2)
    s, mu, t = (torch.full((2,), index) for index in (300, 380, 400))
    (e_s,) = over.eps((z, s, sight(z, over).texts.empty))
    z_mu = over.moved(z, e_s, s, mu)
    torch.testing.assert_close(over.moved(z_mu, e_s, mu, t), over.moved(z, e_s, s, t), atol=1e-10, rtol=0)


def test_pixels_are_clipped_and_keep_their_direction() -> None:
    gradient = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient[0, :, 0, 0] = 0
    clipped = clip_pixels(gradient, 0.5)
    assert clipped.abs().max() <= 0.5 + 1e-12 and clipped[0, :, 0, 0].abs().sum() == 0
    small = gradient.abs().amax(1) <= 0.5
    assert small.any() and torch.equal(clipped.movedim(1, -1)[small], gradient.movedim(1, -1)[small])
    cosine = torch.cosine_similarity(clipped, gradient, dim=1)
    assert (cosine[gradient.abs().sum(1) > 0] > 1 - 1e-12).all()


def test_depths_are_scaled_as_a_whole() -> None:
    gradient = torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clipped = clip_depth(gradient, 0.01, 0.2)
    ratio = clipped / gradient
    assert ratio.max() - ratio.min() < 1e-12 and clipped.abs().max() == pytest.approx(0.002)
    assert clip_depth(torch.zeros(1, 1, 2, 2), 0.01, 0.2).abs().sum() == 0


def seen(**options: object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rgb = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    depth = (2 + torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(2))).requires_grad_()
    rendered = Rendered(rgb * 1, torch.ones(2, 1, 4, 4), depth * 1)
    tsm = TSM(**{"flip": 0.0, "depth_share": 0.0, **options})  # type: ignore[arg-type]
    return tsm.pictures(rendered, torch.tensor(0.2), torch.Generator().manual_seed(0)), rgb, depth


def test_what_the_prior_sees_is_clipped_on_the_way_back() -> None:
    picture, rgb, _ = seen(clip_value=0.05)
    torch.autograd.backward((picture * 7).sum())
    assert rgb.grad is not None and torch.allclose(rgb.grad.abs().amax(), torch.tensor(0.05))
    mirrored, rgb, _ = seen(flip=1.0)
    assert torch.equal(mirrored, rgb.flip(-1))


def test_it_sees_depths_now_and_then() -> None:
    picture, rgb, depth = seen(depth_share=1.0)
    assert picture.shape == rgb.shape and torch.equal(picture[:, 0], picture[:, 2]) and picture.min() == 0
    torch.autograd.backward((picture * 100).sum())
    assert rgb.grad is None and depth.grad is not None and 0 < float(depth.grad.abs().max()) < 0.01
