"""ASD against its formula on an exact prior (arXiv:2407.02040)."""

from __future__ import annotations

import pytest
import torch

from genbench_asd import ASD
from genbench_sds import CSD, SDS
from tests.scenes.gaussian_prior import latents, prior, sight


def test_the_gradient_is_the_formula_row_by_row() -> None:
    over, z = prior(), latents()
    got = ASD().direction(sight(z, over, progress=0.3))
    (rows,) = over.model.rows
    t, later = rows[:3, 0].long(), rows[6:, 0].long()
    assert torch.equal(rows[3:6, 0].long(), t) and rows[:, 1].tolist() == [1] * 3 + [0] * 3 + [1] * 3
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=z.dtype)

    def eps(at: torch.Tensor, mean: float) -> torch.Tensor:
        a, s = over.alpha(at), over.sigma(at)
        return s * (a * z + s * noise - a * mean) / (a**2 * 0.25 + s**2)

    first = eps(t, 0.0) + 7.5 * (eps(t, 1.0) - eps(t, 0.0))
    wanted = over.sigma(t) ** 2 * (first - eps(later, 1.0)) / 3
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=0)


def test_without_a_shift_it_is_the_classifier_score() -> None:
    z, ends = latents(), {"t_min": (0.3, 0.3), "t_max": (0.6, 0.6)}
    still = ASD(plus_ratio=0.0, **ends).direction(sight(z, prior(), scale=4.0))
    classifier = CSD(**ends).direction(sight(z, prior(), scale=4.0))
    torch.testing.assert_close(still, 3.0 * classifier, atol=1e-12, rtol=0)


def test_at_scale_one_without_a_shift_nothing_is_left() -> None:
    assert ASD(plus_ratio=0.0).direction(sight(latents(), prior(), scale=1.0)).abs().max() < 1e-12


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.999])
def test_the_shift_is_towards_noise_and_bounded(progress: float) -> None:
    over, asd, z = prior(), ASD(), latents(4000)[:, :, :1, :1]
    asd.direction(sight(z, over, progress=progress))
    t, later = over.model.rows[0][:4000, 0], over.model.rows[0][8000:, 0]
    low, high = int(1000 * (0.5 - 0.48 * progress)), int(1000 * (0.98 - 0.48 * progress))
    shift = later - t
    assert t.min() >= low and t.max() <= high and shift.min() >= 0 and later.max() <= 999
    assert (shift <= 0.1 * (t - low) + 1e-9).all() and shift[t == low].sum() == 0
    assert abs(float(shift.mean()) - (0.05 * float((t - low).mean()) - 0.45)) < 0.6  # the floor takes up to a half


def test_one_time_for_all_cameras() -> None:
    over = prior()
    ASD(joint=True).direction(sight(latents(5), over))
    t, later = over.model.rows[0][:5, 0], over.model.rows[0][10:, 0]
    assert t.unique().numel() == later.unique().numel() == 1


def test_shared_noise_makes_it_steadier_than_sds() -> None:
    z = latents(1)
    draws = {
        cls: torch.stack([cls().direction(sight(z, prior(), progress=0.5, seed=seed)) for seed in range(64)])
        for cls in (ASD, SDS)
    }
    assert draws[ASD].var(0).mean() < 0.2 * draws[SDS].var(0).mean()


@pytest.mark.parametrize("cls", [ASD, CSD, SDS])
def test_latents_walk_to_the_prompt(cls: type) -> None:
    z, method = latents(2), cls()
    for step in range(300):
        z = z - 0.05 * method.direction(sight(z, prior(deviation=0.1), progress=step / 300, scale=2.0, seed=step))
    assert abs(float(z.mean()) - 1.0) < 0.5 or float(z.mean()) > 1.0


def test_what_it_costs() -> None:
    from genbench.testing.toyrun import toy_context

    over, asd = prior(), ASD(iterations=7, batch=5)
    asd.direction(sight(latents(5), over))
    assert sum(len(rows) for rows in over.model.rows) * 7 == asd.evaluations(0, toy_context((1,))) == 105
