"""Weight files of NPNet: every published layout loads strictly, everything else is refused with its reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genbench.errors import ModelError
from genbench_npnet import weights
from genbench_npnet.network import SWIN_SMALL, NPNet, Shape
from tests.plugins import npnet_published as published


@pytest.mark.parametrize(
    ("model", "layout"), [("sdxl", "pth"), ("sdxl", "embeeding"), ("sdxl", "text_embedding"), ("dit", "pth")]
)
def test_published_layouts_load_strictly(model: str, layout: str, tmp_path: Path) -> None:
    path = published.write(model, layout, tmp_path / ("w.pth" if layout == "pth" else "w.safetensors"))
    loaded = weights.load(path)
    shape = loaded.network.shape
    width = {"sdxl": 2048, "dit": 1024}[model]
    assert (shape.channels, shape.size, shape.tokens, shape.width) == (4, 128, 77, width)
    assert not shape.fixed_signs and not loaded.network.training and loaded.told == {}
    state = loaded.network.state_dict()
    for name, tensor in published.tensors(model).items():
        assert torch.equal(state[name], tensor), name
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())


def small() -> NPNet:
    torch.manual_seed(0)
    return NPNet(Shape(4, 16, 24, 128, SWIN_SMALL, fixed_signs=True))


def test_own_files_come_back(tmp_path: Path) -> None:
    made = small()
    weights.save(made, tmp_path / "w.safetensors", {"pairs": 7}, torch.float32)
    loaded = weights.load(tmp_path / "w.safetensors")
    assert loaded.network.shape == made.shape and loaded.told["pairs"] == 7
    state = loaded.network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in made.state_dict().items())
    weights.save(made, tmp_path / "half.safetensors", {})
    assert (tmp_path / "half.safetensors").stat().st_size < 4_000_000
    assert weights.load(tmp_path / "half.safetensors").network.alpha.dtype == torch.float32


def changed(change: Callable[[dict[str, Tensor]], object], path: Path) -> Path:
    """A file of the small network with its tensors changed."""
    weights.save(small(), path, {}, torch.float32)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"npnet": '{"shape": {"channels": 4, "size": 16, "tokens": 24, "width": 128, "swin": '
              '{"img_size": 28, "patch_size": 2, "window_size": 7, "in_chans": 3, "num_classes": 0, "embed_dim": 64, '
              '"depths": [2, 4], "num_heads": [2, 4]}}}'})  # fmt: skip
    return path


SWIN = "unet_embedding.swin."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("unet_svd.mlp1.0.bias"), "'unet_svd.mlp1.0.bias' is missing, and (64,) is expected"),
        (lambda t: t.update({"alpha": torch.zeros(2)}), "'alpha' is (2,), and (1,) is expected"),
        (lambda t: t.update({"more": torch.zeros(2)}), "nothing is known of 'more' (1 such tensors)"),
        (lambda t: t.update({f"{SWIN}layers.0.blocks.0.attn.relative_position_index": torch.zeros(1)}), "timm before"),
        (lambda t: t.update({f"{SWIN}layers.0.downsample.norm.weight": torch.zeros(1)}), "timm before 0.9"),
        (lambda t: t.update({"unet.down.lora_A.weight": torch.zeros(1)}), "is a LoRA, not the weights of an NPNet"),
        (lambda t: [t.pop(n) for n in list(t) if n.startswith("embeeding")], "holds no NPNet"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit(change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        weights.load(changed(change, tmp_path / "w.safetensors"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_embeddings(tmp_path: Path) -> None:
    tensors = published.tensors("dit")
    tensors["embeeding.linear.weight"] = torch.zeros(8, 77 * 768)
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="reads text embeddings of 59136 numbers; published are 77 x 2048, 77 x 1024"):
        weights.load(tmp_path / "w.safetensors")


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"unet_svd": Bomb()}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="is no checkpoint of tensors"):
        weights.load(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("left", [0, 3, 100, 5000])
def test_damaged_files(name: str, left: int, tmp_path: Path) -> None:
    whole = tmp_path / name
    tensors = {"alpha": torch.zeros(9000)}
    torch.save(tensors, whole) if name.endswith("pth") else save_file(tensors, whole)
    whole.write_bytes(whole.read_bytes()[:left])
    with pytest.raises(ModelError, match=name) as caught:
        weights.load(whole)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("told", [{"shape": {}}, {"shape": 3}, {"shape": {"channels": 4}}, {"shape": {"swin": {}}}])
def test_metadata_of_another_version(told: dict[str, object], tmp_path: Path) -> None:
    weights.save(small(), tmp_path / "w.safetensors", told)
    with pytest.raises(ModelError, match="is of another version of genbench .*; train anew"):
        weights.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("word", "model", "source"),
    [
        ("auto", "solids/weak", str(weights.SHIPPED)),
        ("auto", "stabilityai/stable-diffusion-xl-base-1.0", "hf:LucipherDev/Golden-Noise-NPNets/sdxl.safetensors"),
        ("auto", "Lykon/dreamshaper-xl-v2-turbo", "hf:LucipherDev/Golden-Noise-NPNets/dreamshaper.safetensors"),
        ("auto", "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers", "hf:LucipherDev/Golden-Noise-NPNets/dit.safetensors"),
        ("sdxl", "./my-xl", "hf:LucipherDev/Golden-Noise-NPNets/sdxl.safetensors"),
        ("hf:me/mine/w.safetensors", "./my-xl", "hf:me/mine/w.safetensors"),
    ],
)
def test_where_weights_come_from(word: str, model: str, source: str) -> None:
    assert weights.source_for(word, model) == source


def test_a_model_without_weights_is_told_how_to_make_them() -> None:
    with pytest.raises(ModelError, match="genbench train plugin=npnet model=./my-xl prompts=FILE scorer=NAME"):
        weights.source_for("auto", "./my-xl")


def test_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="neither a file nor a name; did you mean 'sdxl'"):
        weights.source_for("sdlx", "./my-xl")
    with pytest.raises(ModelError, match="w.safetensors does not exist; give the path of a file"):
        weights.source_for(str(tmp_path / "w.safetensors"), "./my-xl")
    with pytest.raises(ModelError, match="is a folder; name the file in it, such as .*npnet.safetensors"):
        weights.source_for(str(tmp_path), "./my-xl")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pth").touch()
    assert weights.source_for("~/w.pth", "./my-xl") == str(tmp_path / "w.pth")
