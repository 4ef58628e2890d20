"""`autoguidance`: contract, the formula, what it evaluates, and that reflection with the same pair comes to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from genbench.backbones import adapt
from genbench.backbones.toy import ToyModel
from genbench.errors import UsageError
from genbench.kinds import Context, Ledger, Level, Prediction, State
from genbench.testing import contract_tests, toy_context, toy_draw
from genbench_w2sd import W2SD, AutoGuidance
from genbench_w2sd.autoguidance import extrapolated
from tests.plugins.test_w2sd import check_counted, context
from tests.tiny import tiny

test_contract = contract_tests(AutoGuidance, "step")


def seen_by(plugin: AutoGuidance, ctx: Context, x: Tensor) -> Prediction:
    """What the sampler's step gets from its denoiser."""
    found: list[Prediction] = []

    def step(state: State, denoise: Any) -> State:
        found.append(denoise(state.x, ctx.schedule.levels[state.index]))
        return state

    plugin.wrap_step(step, ctx)(State(x, 1), ctx.denoiser())
    return found[0]


def test_it_is_karras_formula_without_guidance(tmp_path: Path) -> None:
    """weak + w (strong - weak), eq. 6, one evaluation of each."""
    weak = shifted(tmp_path)
    ctx = replace(toy_context(), guidance_scale=1.0, open_model=lambda word: weak)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = ctx.ledger.evaluations
    given = seen_by(AutoGuidance(weak_model="weak", weight=3.0), ctx, x)
    assert ctx.ledger.evaluations - before == 2
    level = ctx.schedule.levels[1]
    high, low = ctx.denoiser()(x, level).raw, weak.denoiser(ctx.conditioning, 1.0)(x, level).raw
    assert torch.allclose(given.raw, low + 3 * (high - low), atol=1e-5)


def test_with_guidance_the_strong_side_is_the_half_that_is_there(tmp_path: Path) -> None:
    weak = shifted(tmp_path)
    ctx = replace(toy_context(), open_model=lambda word: weak)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = ctx.ledger.evaluations
    given = seen_by(AutoGuidance(weak_model="weak"), ctx, x)
    assert ctx.ledger.evaluations - before == 2 * 2
    level = ctx.schedule.levels[1]
    guided, high = ctx.denoiser()(x, level).raw, ctx.denoiser(guidance_scale=1.0)(x, level).raw
    low = weak.denoiser(ctx.conditioning, 1.0)(x, level).raw
    assert torch.allclose(given.raw, guided + high - low, atol=1e-5)


def shifted(folder: Path) -> ToyModel:
    """A weak toy: every colour a little off."""
    file = folder / "means.safetensors"
    save_file({"means": torch.full((8, 3), 0.2)}, file)
    return ToyModel().view(lora=str(file))


def test_reflection_comes_to_it_with_more_steps(tmp_path: Path) -> None:
    """The distance of the two falls like one over the number of steps."""
    file = tmp_path / "means.safetensors"
    save_file({"means": torch.full((8, 3), 0.05)}, file)
    words: dict[str, Any] = {"lora": str(file), "strong_scale": 0.0, "weak_scale": 1.0}
    apart: list[float] = []
    for steps in (20, 80, 320):
        one, other = (toy_draw(plugin, steps=steps) for plugin in (W2SD(**words), AutoGuidance(**words)))
        apart.append(float((one - other).abs().mean()))
    assert apart[0] / apart[1] > 2 and apart[1] / apart[2] > 2 and apart[2] < 0.05


def test_predictions_of_unlike_types_are_brought_to_one() -> None:
    level = Level(torch.tensor(500.0), torch.tensor(0.8), torch.tensor(0.6))
    x, raw = torch.randn(2, 3), torch.randn(2, 3)
    main = Prediction(raw, x, level, "epsilon")
    same = main.with_raw(main.v, "v_prediction")
    assert torch.allclose(extrapolated(main, main, same, 4.0).raw, raw, atol=1e-5)


@pytest.mark.parametrize("family", ["sd", "sd_lcm", "sdxl", "sd3", "flux", "ddpm"])
def test_it_counts_on_families(family: str) -> None:
    ledger = Ledger()
    model, weak = (adapt(tiny(family, seed), ledger) for seed in (0, 1))
    for plugin in (
        AutoGuidance(weak_model="weak"),
        AutoGuidance(weak_model="weak", strong_guidance=3.0, weak_guidance=3.0, weight=1.5),
    ):
        check_counted(plugin, context(model, weak=weak))


def test_the_same_pairs_are_refused() -> None:
    with pytest.raises(UsageError, match="two pairs"):
        AutoGuidance(weak_model="a", lora="b")
    with pytest.raises(UsageError, match="autoguidance.weak_prompt="):
        AutoGuidance().check("org/flux", "flux")
