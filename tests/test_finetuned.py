"""Finetuned models as plugins: what weights are found, that scales are linear in weight space, what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from genbench.backbones import adapt
from genbench.errors import ModelError
from genbench.finetuned import Finetuned
from genbench.kinds import About, Ledger, Model
from genbench.training import adapters
from genbench.training.rollouts import Rollout
from tests.tiny import tiny
from tests.training.rolling import resources
from tests.training.test_adapters import moved

FAMILIES = ("sd", "sd_v", "sdxl", "sd3", "flux")
HERE = Path("shipped")


@dataclass(frozen=True)
class Prettier(Finetuned):
    about: ClassVar[About] = About("A test's.", neutral={"strength": 0.0})
    shipped: ClassVar[Path] = HERE


def model_of(family: str = "sd", name: str = "tiny", seed: int = 0) -> Model:
    opened: Any = adapt(tiny(family, seed=seed), Ledger())
    return opened.replace(name=name)


def lora(model: Model, folder: Path, seed: int = 0, rank: int = 2) -> Path:
    adapted = moved(adapters.with_adapter(model, rank=rank, seed=seed))
    return adapters.save_adapter(adapted, adapted.parameters, folder, torch.float32)


def drawn(model: Model) -> torch.Tensor:
    return Rollout(resources(model), model, steps=2).latents(("red cube", "blue"), (3, 4))


def with_plugin(model: Model, *words: str, strength: float = 1.0) -> Model:
    return Prettier(strength, words).transform_model(model, resources(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_lora_and_at_zero_the_model_itself(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    plain, file = drawn(model), lora(model, tmp_path / "lora")
    with_lora = drawn(model.view(lora=str(file)))
    assert not torch.allclose(with_lora, plain, atol=1e-4)
    for word in (file, file.parent, tmp_path):  # the file, the LoRA's folder, the training's folder
        assert torch.equal(drawn(with_plugin(model, str(word))), with_lora)
    assert with_plugin(model, str(file), strength=0.0) is model and torch.equal(drawn(model), plain)


def product(file: Path, layer: str) -> torch.Tensor:
    tensors = load_file(file)
    return tensors[f"unet.{layer}.lora_B.weight"] @ tensors[f"unet.{layer}.lora_A.weight"]


def test_several_add_up_in_weight_space(tmp_path: Path) -> None:
    """Against weights into which strength sum_i scale_i B_i A_i was added by hand."""
    model = model_of()
    one, two = lora(model, tmp_path / "one", 0), lora(model, tmp_path / "two", 7, rank=3)
    by_hand = model_of()
    layers = {name.removeprefix("unet.").rpartition(".lora")[0] for name in load_file(one)}
    with torch.no_grad():
        for layer in layers:
            change = 0.7 * product(one, layer) + 0.3 * product(two, layer)
            by_hand.modules["unet"].get_submodule(layer).weight.add_(0.5 * change)  # type: ignore[operator]
    mixed = with_plugin(model, f"{one}:0.7", f"{two}:0.3", strength=0.5)
    assert torch.allclose(drawn(mixed), drawn(by_hand), atol=1e-3)
    assert not torch.allclose(drawn(mixed), drawn(model), atol=1e-2)


def test_the_ends_of_a_mixture_are_its_parts(tmp_path: Path) -> None:
    model = model_of()
    one, two = lora(model, tmp_path / "one", 0), lora(model, tmp_path / "two", 7)
    ends = drawn(with_plugin(model, f"{one}:1", f"{two}:0"))
    assert torch.allclose(ends, drawn(with_plugin(model, str(one))), atol=1e-5)


def test_a_scale_is_linear_and_that_of_the_factors_is_not(tmp_path: Path) -> None:
    """Half of B A, and not (A / 2)(B / 2), a quarter of it."""
    model = model_of()
    file = lora(model, tmp_path / "whole")
    for name, scale in (("product", (1.0, 0.5)), ("factors", (0.5, 0.5))):
        halved = {k: v * scale[".lora_B." in k] for k, v in load_file(file).items()}
        (tmp_path / name).mkdir()
        save_file(halved, tmp_path / name / adapters.FILE)
    half = drawn(with_plugin(model, str(file), strength=0.5))
    assert torch.allclose(half, drawn(with_plugin(model, str(tmp_path / "product"))), atol=1e-4)
    assert not torch.allclose(half, drawn(with_plugin(model, str(tmp_path / "factors"))), atol=1e-3)


def test_auto_finds_the_file_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Prettier, "shipped", tmp_path)
    model = model_of(name="Tiny")
    with pytest.raises(ModelError, match=r"no prettier weights are known for model='Tiny' \(none come with it\)"):
        with_plugin(model, "auto")
    file = lora(model, tmp_path / "made").rename(tmp_path / "tiny.safetensors")
    expected = drawn(model.view(lora=str(file)))
    assert torch.equal(drawn(with_plugin(model, "auto")), expected)
    assert torch.equal(drawn(with_plugin(model.replace(name="copy"), "tiny")), expected)
    assert torch.equal(drawn(with_plugin(model, "auto:0.5")), drawn(with_plugin(model, "auto", strength=0.5)))
    message = (
        r"no prettier weights are known for model='other' \(there are some for tiny\); train some: genbench train "
        r"plugin=prettier model=other reward=SCORER prompts=FILE; then prettier.weights=FOLDER"
    )
    with pytest.raises(ModelError, match=message):
        Prettier().check("other", "sd")
    Prettier(strength=0.0).check("other", "sd")  # nothing is asked for


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("atuo", "is neither a file nor a folder; did you mean 'auto'"),
        ("no/such", "does not exist; give a LoRA's file"),
        ("no.safetensors", "does not exist; give a LoRA's file"),
        (".", "is a folder without pytorch_lora_weights.safetensors"),
    ],
)
def test_words_that_name_nothing(word: str, message: str, work: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        Prettier(weights=(word,)).check("tiny", "sd")
    assert str(caught.value).startswith(f"prettier.weights={word} ") and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="names nothing"):
        Prettier(weights=())


def test_a_damaged_file_is_refused_before_the_model_loads(tmp_path: Path) -> None:
    file = lora(model_of(), tmp_path)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ModelError, match="truncated|incomplete|damaged"):
        Prettier(weights=(str(file),)).check("tiny", "sd")


@pytest.mark.parametrize(
    ("family", "message"),
    [("sd3", "has no transformer; it is of another family"), ("sdxl", "attn2.to_k is 32 wide, here it is 16 wide")],
)
def test_a_lora_of_another_model(family: str, message: str, tmp_path: Path) -> None:
    file = lora(model_of(family), tmp_path)
    with pytest.raises(ModelError, match=f"does not fit model=tiny.*{message}") as caught:
        with_plugin(model_of(), str(file))
    assert "\n" not in str(caught.value)


def test_a_layer_that_is_not_there(tmp_path: Path) -> None:
    file = lora(model_of(), tmp_path)
    save_file({k.replace("mid_block", "middle"): v for k, v in load_file(file).items()}, file)
    with pytest.raises(ModelError, match="whose middle.* is 16 wide, here it is not there"):
        with_plugin(model_of(), str(file))


def test_old_files_that_name_no_network_load(tmp_path: Path) -> None:
    model = model_of()
    file = lora(model, tmp_path)
    expected = drawn(with_plugin(model, str(file)))
    save_file({k.removeprefix("unet."): v for k, v in load_file(file).items()}, file)
    assert torch.equal(drawn(with_plugin(model_of(), str(file))), expected)


def test_the_version_is_the_content_of_the_file(tmp_path: Path) -> None:
    file = lora(model_of(), tmp_path)
    before = Prettier(weights=(str(tmp_path), "auto")).version()
    save_file({k: v + 1 for k, v in load_file(file).items()}, file)
    assert Prettier(weights=(str(tmp_path), "auto")).version() != before and before.endswith(",auto")


def test_the_file_is_hashed_into_the_record(tmp_path: Path) -> None:
    from genbench.generation import FileCache
    from genbench.kinds import Resources

    model, noted = model_of(), dict[str, str]()
    file = lora(model, tmp_path / "lora")
    ctx: Any = Resources(Ledger(), FileCache(noted).load, lambda word: model)
    Prettier(weights=(str(file),)).transform_model(model, ctx)
    assert list(noted) == [f"lora/{file.name}"] and len(json.dumps(noted)) > 64
