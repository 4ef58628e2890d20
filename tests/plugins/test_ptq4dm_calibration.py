"""The calibration set: where samples fall, and that x and level belong together."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from genbench.backbones import adapt
from genbench.backbones.toy import ToyModel, weights_of
from genbench.errors import ModelError, UsageError
from genbench.kinds import Ledger, Level, Model
from genbench.training.rollouts import Rollout
from genbench_ptq4dm import timesteps
from genbench_ptq4dm.calibration import Calibration, drawn, level, walked
from genbench_ptq4dm.pictures import clean_latents
from tests.tiny import tiny
from tests.training.rolling import resources


def walks_of(model: Model, steps: int, guidance_scale: float = 1.0, batch: int = 64) -> Rollout:
    return Rollout(resources(model), model, steps, guidance_scale, 16, 16, batch)


# --- levels -----------------------------------------------------------------------------------------------------------


def normal_below(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


@pytest.mark.parametrize(
    ("reading", "mean", "steps"), [("code", 0.4, 30), ("paper", 0.4, 30), ("code", 0.4, 250), ("paper", 0.5, 250)]
)
def test_ndtc_is_a_clamped_normal(reading: timesteps.Reading, mean: float, steps: int) -> None:
    count = 20000
    t = timesteps.levels("ndtc", count, steps, 3, mean=mean, reading=reading)
    spread = math.sqrt(steps / 2) if reading == "paper" else 0.4 * steps
    edges = [-math.inf, *((k - mean * steps) / spread for k in range(1, steps)), math.inf]
    expected = [normal_below(high) - normal_below(low) for low, high in pairwise(edges)]
    observed = torch.bincount(t, minlength=steps)
    kept = [k for k in range(steps) if expected[k] * count > 5]
    chi2 = sum((float(observed[k]) - expected[k] * count) ** 2 / (expected[k] * count) for k in kept)
    assert chi2 < len(kept) + 4 * math.sqrt(2 * len(kept))  # four standard deviations of the law
    assert int(t.min()) >= 0 and int(t.max()) <= steps - 1


def test_the_ends_hold_what_is_clamped() -> None:
    t = timesteps.levels("ndtc", 50000, 250, 0)
    assert float((t == 0).float().mean()) == pytest.approx(normal_below((1 - 100) / 100), abs=0.01)  # about 16 %
    assert float((t == 249).float().mean()) == pytest.approx(1 - normal_below((249 - 100) / 100), abs=0.01)  # 7 %


def test_the_others() -> None:
    uniform = timesteps.levels("uniform", 6000, 30, 1)
    assert int(torch.bincount(uniform, minlength=30).min()) > 120
    assert timesteps.levels("one", 4, 30).tolist() == [15] * 4
    assert timesteps.levels("one", 2, 30, at=1.0).tolist() == [29] * 2
    assert timesteps.levels("images", 2, 30).tolist() == [0, 0]
    assert timesteps.levels("noise", 2, 30).tolist() == [29, 29]
    assert timesteps.outer_steps(torch.tensor([0, 29]), 30).tolist() == [29, 0]


# --- x and level ------------------------------------------------------------------------------------------------------


def test_samples_have_the_law_of_their_level() -> None:
    """One colour is one Gaussian, x ~ N(alpha m, (alpha^2 tau^2 + sigma^2) I); a set in reverse order has another."""
    model, steps = ToyModel(), 40
    walks = walks_of(model, steps)
    at = torch.tensor([0, 10, 20, 30, 37]).repeat_interleave(64)
    found = drawn(walks, "ndtc", ["red"] * len(at), at, 5, None)
    schedule = walks.context(["red"], [0]).schedule
    mean = (weights_of("red")[:, None, None, None] * model.modules["network"].components(16, 16)).sum(0)
    for step in at.unique().tolist():
        here = level(schedule, step)
        x = found.x[at == step]
        variance = float(here.alpha) ** 2 * 0.15**2 + float(here.sigma) ** 2
        assert float((x - here.alpha * mean).var()) == pytest.approx(variance, rel=0.08)
        assert float((x - here.alpha * mean).mean()) == pytest.approx(0.0, abs=0.02)
        reverse = level(schedule, steps - 1 - step)
        if step != 20:
            assert float((x - reverse.alpha * mean).var()) != pytest.approx(
                float(reverse.alpha) ** 2 * 0.15**2 + float(reverse.sigma) ** 2, rel=0.08
            )


@pytest.mark.parametrize("family", ["sd", "sdxl", "pixart_alpha", "sd3", "flux", "ddim"])
def test_samples_are_what_the_network_was_given(family: str) -> None:
    model: Any = adapt(tiny(family), Ledger())
    asked: list[tuple[torch.Tensor, Level]] = []
    guidance = 1.0 if family in ("flux", "ddim") else 3.0
    walks = walks_of(model, 4, guidance, batch=3)
    prompts = ["red cube", "blue", "a cat"] if family != "ddim" else [""] * 3
    made = walked(walks, prompts, torch.tensor([2, 0, 3]), 5)
    ctx = walks.context(prompts, [5, 6, 7])
    state, denoise = walks.begin(ctx), ctx.denoiser()

    def noting(x: torch.Tensor, level: Level) -> Any:
        asked.append((x, level))
        return denoise(x, level)

    with torch.no_grad():
        while state.index < ctx.schedule.steps:
            seen, index = len(asked), state.index
            state = ctx.sampler.step(state, noting, ctx)
            assert torch.equal(asked[seen][1].t, level(ctx.schedule, index).t)
            for row, step in enumerate((2, 0, 3)):
                if step == index:
                    assert torch.allclose(made[row], asked[seen][0][row], atol=1e-5)


def test_a_set_does_not_depend_on_its_batches_and_is_asked_row_by_row() -> None:
    model = ToyModel()
    prompts, at = ["red", "blue", "green", "white", "grey"], torch.tensor([3, 0, 2, 3, 1])
    one, other = (drawn(walks_of(model, 5, 2.0, batch), "ndtc", prompts, at, 1, None) for batch in (5, 2))
    assert torch.allclose(one.x, other.x, atol=1e-5)
    rows = [(step, len(told.x)) for step, told in one.asked(walks_of(model, 5, 2.0, batch=1))]
    assert rows == [(0, 1), (1, 1), (2, 1), (3, 1), (3, 1)]
    told = dict(one.asked(walks_of(model, 5, 2.0)))
    assert told[3].cond is not None and torch.equal(told[3].x, one.x[[0, 3]])  # guided as in a run


def test_noise_and_pictures() -> None:
    model, prompts = ToyModel(), ["red"] * 200
    walks = walks_of(model, 20)
    noise = drawn(walks, "noise", prompts, torch.zeros(200, dtype=torch.int64), 0, None)
    assert float(noise.x.std()) == pytest.approx(1.0, abs=0.02)
    prompts, clean = clean_latents(walks, prompts, None, 0)
    images = drawn(walks, "images", prompts, torch.full((200,), 19), 0, clean)
    assert torch.equal(images.x, clean)
    at = torch.arange(200) % 20
    diffused = drawn(walks, "diffused", prompts, at, 0, clean)
    here = level(walks.context(["red"], [0]).schedule, 7)
    left = diffused.x[at == 7] - here.alpha * clean[at == 7]
    assert float(left.std()) == pytest.approx(float(here.sigma), rel=0.05)


def test_pictures_of_a_folder(tmp_path: Path) -> None:
    walks = walks_of(ToyModel(), 3)
    for number in range(3):
        Image.new("RGB", (20, 20), (255, 60 * number, 0)).save(tmp_path / f"{number}.png")
    _, clean = clean_latents(walks, ["red"] * 3, tmp_path, 0)
    assert clean.shape == (3, 3, 16, 16) and float(clean[0, 0].mean()) == pytest.approx(1.0)
    with pytest.raises(UsageError, match="has 3 pictures, and 5 are asked for; give ptq4dm.pictures=3"):
        clean_latents(walks, ["red"] * 5, tmp_path, 0)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "green"}\n')
    assert clean_latents(walks, ["red"], tmp_path, 0)[0] == ["green"]


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_hash_is_of_everything(tmp_path: Path) -> None:
    found = Calibration(torch.randn(3, 2, 2, 2), torch.tensor([0, 1, 2]), ("a", "b", "c"))
    others = (
        replace(found, x=found.x + 1e-6),
        replace(found, step=torch.tensor([0, 1, 1])),
        replace(found, prompts=("a", "b", "d")),
    )
    assert len({found.hash, *(other.hash for other in others)}) == 4
    found.save(tmp_path / "set.safetensors", "these words")
    again = Calibration.load(tmp_path / "set.safetensors", "these words")
    assert again.hash == found.hash and again.prompts == found.prompts
    with pytest.raises(ModelError, match="was drawn otherwise"):
        Calibration.load(tmp_path / "set.safetensors", "other words")
    (tmp_path / "set.safetensors").write_bytes(b"12345678 no")
    with pytest.raises(ModelError, match="is no calibration set"):
        Calibration.load(tmp_path / "set.safetensors", "these words")
