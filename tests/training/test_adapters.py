"""LoRA for training: starts as the base, shares its weights, is written as diffusers reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from genbench.backbones import adapt
from genbench.errors import ModelError
from genbench.kinds import Ledger, Model
from genbench.training import adapters
from genbench.training.rollouts import Rollout
from tests.tiny import tiny
from tests.training.rolling import resources

FAMILIES = ("sd", "sd_v", "sdxl", "sd3", "flux")
PROMPTS, SEEDS = ("red cube", "blue"), (3, 4)


def model_of(family: str) -> Model:
    return adapt(tiny(family), Ledger())


def drawn(model: Model) -> torch.Tensor:
    return Rollout(resources(model), model, steps=2).latents(PROMPTS, SEEDS)


def moved(adapted: adapters.Adapted) -> adapters.Adapted:
    """An adapter that changes something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters.values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return adapted


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_adapter_is_the_model_itself(family: str) -> None:
    model = model_of(family)
    adapted = adapters.with_adapter(model, rank=2)
    assert adapted.parameters and all(p.dtype == torch.float32 for p in adapted.parameters.values())
    assert torch.equal(drawn(model), drawn(adapted.model))


def test_the_base_stays_and_its_weights_are_shared() -> None:
    model = model_of("sd")
    before = drawn(model)
    adapted = moved(adapters.with_adapter(model, rank=2))
    assert not torch.allclose(drawn(adapted.model), before) and torch.equal(drawn(model), before)
    base = {p.data_ptr() for p in model.modules["unet"].parameters()}
    own = {p.data_ptr() for p in adapted.parameters.values()}
    assert base <= {p.data_ptr() for p in adapted.network.parameters()} and not own & base


@pytest.mark.parametrize("alpha", [None, 6.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_loads_as_any_lora(family: str, alpha: float | None, tmp_path: Path) -> None:
    model = model_of(family)
    adapted = moved(adapters.with_adapter(model, rank=2, alpha=alpha))
    path = adapters.save_adapter(adapted, adapted.parameters, tmp_path, torch.float32)
    viewed = model.view(lora=str(path))
    assert torch.allclose(drawn(viewed), drawn(adapted.model), rtol=1e-3, atol=1e-3)


def test_a_written_adapter_is_taken_up_again(tmp_path: Path) -> None:
    model = model_of("sd")
    adapted = moved(adapters.with_adapter(model, rank=2, alpha=4.0))
    path = adapters.save_adapter(adapted, adapted.parameters, tmp_path, torch.float32)
    fresh = adapters.with_adapter(model, rank=2, alpha=4.0)
    adapters.load_into(fresh, path)
    assert torch.equal(drawn(fresh.model), drawn(adapted.model))
    with pytest.raises(ModelError, match=r"is \(2, .*not \(3, "):
        adapters.load_into(adapters.with_adapter(model, rank=3), path)
    with pytest.raises(ModelError, match="was it made for this model"):
        adapters.load_into(adapters.with_adapter(model_of("sd3"), rank=2), path)


def test_half_precision_is_written_small(tmp_path: Path) -> None:
    adapted = adapters.with_adapter(model_of("sd"), rank=2)
    path = adapters.save_adapter(adapted, adapted.parameters, tmp_path, torch.float16)
    assert path.name == "pytorch_lora_weights.safetensors"
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}


def test_the_seed_draws_the_start() -> None:
    def first(seed: int) -> torch.Tensor:
        return next(iter(adapters.with_adapter(model_of("sd"), rank=2, seed=seed).parameters.values())).detach()

    state = torch.get_rng_state()
    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))
    assert torch.equal(state, torch.get_rng_state())


def test_what_cannot_be_adapted_is_refused() -> None:
    with pytest.raises(ModelError, match="loads no LoRA for pixart"):
        adapters.with_adapter(model_of("pixart_sigma"))
    with pytest.raises(ModelError, match="no layers called to_x"):
        adapters.with_adapter(model_of("sd"), targets=("to_x",))


def older(name: str) -> str:
    """`save_attn_procs` of diffusers before peft, as AlignProp's released files have it."""
    layer, _, side = name.removesuffix(".default.weight").rpartition(".lora_")
    head, _, projection = layer.rpartition(".to_")
    return f"{head}.processor.to_{projection.replace('out.0', 'out')}_lora.{ {'A': 'down', 'B': 'up'}[side] }.weight"


def trl(name: str) -> str:
    """`save_lora_weights` of that time, as TRL's trainer wrote it."""
    layer, _, side = name.removesuffix(".default.weight").rpartition(".lora_")
    return f"unet.{layer}.lora.{ {'A': 'down', 'B': 'up'}[side] }.weight"


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("kind", [older, trl])
def test_files_of_older_tools_load(kind: Callable[[str], str], pickled: bool, tmp_path: Path) -> None:
    model = model_of("sd")
    adapted = moved(adapters.with_adapter(model, rank=2))
    tensors = {kind(name): tensor.detach().clone() for name, tensor in adapted.parameters.items()}
    path = tmp_path / ("pytorch_lora_weights.bin" if pickled else "pytorch_lora_weights.safetensors")
    torch.save(tensors, path) if pickled else save_file(tensors, path)
    for word in (path, tmp_path):
        if word.is_file() or not pickled:  # a folder is asked for safetensors alone
            assert torch.allclose(drawn(model.view(lora=str(word))), drawn(adapted.model), rtol=1e-3, atol=1e-3)


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this ran",))


def test_a_pickle_of_more_than_tensors_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lora.bin"
    torch.save({"weights": Code()}, path)
    with pytest.raises(ModelError, match="more than tensors"):
        model_of("sd").view(lora=str(path))
    assert "this ran" not in capsys.readouterr().out
