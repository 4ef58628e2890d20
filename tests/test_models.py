"""Opening models: every kind of word, every refusal before weights load, offline as a promise, hashes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import safetensors.torch
import torch

from genbench import models
from genbench.backbones import adapt, loading
from genbench.backbones.folders import check_safetensors
from genbench.backbones.preparation import LoraWord, parse_lora
from genbench.errors import GenbenchError, ModelError, UsageError
from genbench.kinds import Ledger
from genbench.models import ModelOptions, chosen_device, chosen_dtype, file_hash, model_hash, open_model
from tests.originals import save_original
from tests.test_backbones import conditioning, point, write_lora
from tests.tiny import saved, tiny

OPTIONS = ModelOptions(device="cpu", dtype="float32", offline=True)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("sd", tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture
def folder(stock: Path, tmp_path: Path) -> Path:
    """A copy of the stock folder to spoil."""
    return Path(shutil.copytree(stock, tmp_path / "model"))


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Weights must not be touched."""

    def load(*ignored: object) -> None:
        pytest.fail("weights were loaded before the mistake was found")

    monkeypatch.setattr(models, "load", load)
    monkeypatch.setattr(loading, "load", load)
    yield


@dataclass(frozen=True)
class Named:
    """A source plugin in shape: a folder, settings, further folders."""

    place: Any
    recommended: dict[str, object]
    views: dict[str, Path]

    def open(self) -> Any:
        return self.place


def sources(place: Any) -> Callable[[str], Any]:
    named = Named(place, {"steps": 3, "verifier": "reader"}, {"weak": place})
    return lambda word: named if word == "tiny" else None


@torch.no_grad()
def test_a_folder_opens_as_its_stock_pipeline(stock: Path) -> None:
    ledger = Ledger()
    model = open_model(str(stock), OPTIONS, ledger)
    reference = adapt(tiny("sd"), Ledger())
    x, level = point(reference)
    given = conditioning(model)
    stock_pipeline = diffusers.StableDiffusionPipeline.from_pretrained(stock, safety_checker=None)
    again = adapt(stock_pipeline, Ledger()).denoiser(given, 5.0)(x, level).raw
    assert torch.equal(model.denoiser(given, 5.0)(x, level).raw, again)
    assert torch.allclose(reference.denoiser(given, 5.0)(x, level).raw, again, atol=1e-4)
    assert ledger.evaluations == 2
    assert (model.family, model.dtype, model.device.type) == ("sd", torch.float32, "cpu")
    assert model.recommended == {"steps": 50, "guidance_scale": 7.5, "height": 32, "width": 32}


@pytest.mark.parametrize("family", ["sdxl", "pixart_sigma", "hunyuan", "sd3", "flux", "ddpm"])
@torch.no_grad()
def test_every_family_opens_from_its_folder(family: str, tmp_path: Path) -> None:
    model = open_model(str(saved(family, tmp_path / family)), OPTIONS, Ledger())
    reference = adapt(tiny(family), Ledger())
    x, level = point(reference)
    given = reference.encode_prompt(["a red cube"], guidance=False, height=32, width=32)
    again = model.encode_prompt(["a red cube"], guidance=False, height=32, width=32)
    assert given.positive.keys() == again.positive.keys()
    for name, module in reference.modules.items():
        loaded = model.modules[name].state_dict()
        assert all(torch.equal(tensor, loaded[key]) for key, tensor in module.state_dict().items()), name
    # Weights mapped from a file lie at other addresses, so sums may run in another order.
    left, right = (each.denoiser(told, 1.0)(x, level).raw for each, told in ((model, again), (reference, given)))
    assert torch.allclose(left, right, atol=1e-4, rtol=1e-4)


def test_installed_names_and_their_views(stock: Path) -> None:
    model = open_model("tiny", OPTIONS, Ledger(), sources(stock))
    assert (model.recommended["steps"], model.recommended["verifier"]) == (3, "reader")
    assert model.recommended["guidance_scale"] == 7.5
    assert open_model("tiny/weak", OPTIONS, Ledger(), sources(stock)).family == "sd"
    with pytest.raises(ModelError, match="tiny/strong.*weak"):
        open_model("tiny/strong", OPTIONS, Ledger(), sources(stock))


def test_a_model_has_the_name_it_was_opened_by(stock: Path) -> None:
    assert open_model("tiny/weak", OPTIONS, Ledger(), sources(stock)).name == "tiny/weak"
    assert open_model("toy", OPTIONS, Ledger()).name == "toy"
    model = open_model(str(stock), OPTIONS, Ledger())
    assert model.name == str(stock) and model.replace(name="other").name == "other"


def test_a_source_may_bring_a_ready_model() -> None:
    ledger = Ledger()
    ready = adapt(tiny("sd"), Ledger())
    model = open_model("tiny", OPTIONS, ledger, sources(ready))
    assert model.recommended["steps"] == 3
    with torch.no_grad():
        model.denoiser(conditioning(model), 5.0)(*point(model))
    assert ledger.evaluations == 2


# --- what is refused, before weights load -------------------------------------------------------------------------


def spoil_index(folder: Path, **changes: object) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **changes}))


def truncate(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def to_pickle(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")


def own_code(folder: Path) -> None:
    (folder / "unet" / "mine.py").write_text("raise SystemExit")
    spoil_index(folder, unet=["mine", "UNet2DConditionModel"])


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda f: (f / "model_index.json").unlink(), "is no diffusers pipeline: model_index.json is missing"),
    "bad index": (lambda f: (f / "model_index.json").write_text("{"), "cannot be read as JSON"),
    "other pipeline": (lambda f: spoil_index(f, _class_name="WanPipeline"), "WanPipeline, which is not supported"),
    "missing folder": (lambda f: shutil.rmtree(f / "vae"), "the folder 'vae' \\(AutoencoderKL\\) is missing"),
    "missing config": (lambda f: (f / "unet" / "config.json").unlink(), "config.json' is missing"),
    "missing weights": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").unlink(),
        "vae/diffusion_pytorch_model.safetensors' is missing",
    ),
    "missing scheduler": (lambda f: (f / "scheduler" / "scheduler_config.json").unlink(), "scheduler_config.json' is"),
    "truncated": (truncate, "unet/diffusion_pytorch_model.safetensors' is truncated: .* bytes of"),
    "no safetensors": (
        lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x80\x04 pickled"),
        "truncated or no safetensors file",
    ),
    "pickle": (to_pickle, "only diffusion_pytorch_model.bin, a pickle, which can run code"),
    "own code": (own_code, "remote code is never run"),
}


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_folder_is_refused_and_the_file_named(how: str, folder: Path) -> None:
    spoil, says = SPOILED[how]
    spoil(folder)
    with pytest.raises(ModelError, match=says) as error:
        open_model(str(folder), OPTIONS, Ledger())
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": "float8"}, "dtype='float8' is not known"),
        ({"device": "tpu9"}, "is not a device"),
        ({"device": "cuda:63"}, "device='cuda:63' is not here"),
        ({"attention": "xformers"}, "attention=xformers has no operator for cpu"),
        ({"attention": "flash"}, "attention=flash has no operator for cpu"),
        ({"attention": "sage_hub"}, "downloads code at run time"),
        ({"attention": "nativ"}, "did you mean 'native'"),
        ({"offload": "model"}, "there is none; leave it out"),
        ({"offload": "disk"}, "offload='disk' is not known"),
        ({"cache": "first_block"}, "no step cache for sd; families with one: flux"),
        ({"true_cfg": 2.0}, "true_cfg=2.0 is FLUX's second guidance"),
        ({"cache": "deep"}, "cache='deep' is not known"),
        ({"lora": ("./missing.safetensors:0.5",)}, "missing.safetensors' does not exist"),
        ({"lora": ("style.safetensors:much",)}, "'much' is no number"),
        ({"lora": ("./style.pt",)}, "does not exist"),
        ({"variant": "fp16"}, "model.fp16.safetensors' is missing; there is model.safetensors: leave variant= out"),
    ],
)
def test_options_that_cannot_work_are_refused_first(changes: dict[str, Any], says: str, stock: Path) -> None:
    with pytest.raises(GenbenchError, match=says) as error:
        open_model(str(stock), replace(OPTIONS, **changes), Ledger())
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("no-such-model", "neither installed nor a folder, file or Hub id"),
        ("./nowhere", "model='./nowhere' does not exist"),
        ("weights.safetensors", "model='weights.safetensors' does not exist"),
        ("nobody/nothing", "model='nobody/nothing' is not in the local cache and offline=true"),
    ],
)
def test_unknown_models_say_what_exists(word: str, says: str, work: Path) -> None:
    with pytest.raises(ModelError, match=says):
        open_model(word, OPTIONS, Ledger(), lambda word: None)


@pytest.mark.usefixtures("unloaded")
def test_single_files(work: Path) -> None:
    pickle = work / "model.ckpt"
    pickle.write_bytes(b"x")
    with pytest.raises(ModelError, match="can run code when opened"):
        open_model(str(pickle), OPTIONS, Ledger())
    file = work / "model.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(4)}, file)
    with pytest.raises(ModelError, match=r"needs the configs of .*, which are not here; put its files .*model'"):
        open_model(str(file), OPTIONS, Ledger())
    with pytest.raises(ModelError, match="config='.*' holds no model_index.json"):
        open_model(str(file), replace(OPTIONS, config=str(work)), Ledger())
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ModelError, match="truncated: .* bytes of"):
        open_model(str(file), OPTIONS, Ledger())


@pytest.mark.parametrize("by", ["config", "folder beside"])
@torch.no_grad()
def test_a_single_file_opens_with_the_configs_of_its_family(by: str, stock: Path, tmp_path: Path) -> None:
    file = save_original(tiny("sd"), tmp_path / "model.safetensors")
    options = replace(OPTIONS, config=str(stock))
    if by == "folder beside":
        options = OPTIONS
        shutil.copytree(stock, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    model = open_model(str(file), options, Ledger())
    folder = open_model(str(stock), OPTIONS, Ledger())
    for name, module in folder.modules.items():
        loaded = model.modules[name].state_dict()
        assert all(torch.equal(tensor, loaded[key]) for key, tensor in module.state_dict().items()), name
    x, level = point(folder)
    left, right = (each.denoiser(conditioning(each), 5.0)(x, level).raw for each in (model, folder))
    assert torch.allclose(left, right, atol=1e-4, rtol=1e-4)
    assert model_hash(model) == file_hash(file)


def test_the_offline_variable_counts_as_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    options = replace(OPTIONS, offline=False)
    assert not options.local_only
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert options.local_only
    with pytest.raises(ModelError, match="not in the local cache"):
        open_model("nobody/nothing", options, Ledger(), lambda word: None)


# --- adapters, devices, hashes ------------------------------------------------------------------------------------


@torch.no_grad()
def test_lora_words(stock: Path, tmp_path: Path) -> None:
    path = write_lora("sd", tmp_path)
    plain = open_model(str(stock), OPTIONS, Ledger())
    model = open_model(str(stock), replace(OPTIONS, lora=(f"{path}:0.7",)), Ledger())
    x, level = point(plain)
    given = conditioning(plain)
    view = plain.view(lora=str(path), lora_scale=0.7)
    assert torch.equal(model.denoiser(given, 1.0)(x, level).raw, view.denoiser(given, 1.0)(x, level).raw)
    assert not torch.equal(model.denoiser(given, 1.0)(x, level).raw, plain.denoiser(given, 1.0)(x, level).raw)
    assert parse_lora("a/b:0.8") == LoraWord("a/b", 0.8)
    assert parse_lora("style.safetensors") == LoraWord("style.safetensors", 1.0)


@torch.no_grad()
def test_a_lora_of_another_family_is_refused(stock: Path, tmp_path: Path) -> None:
    path = write_lora("flux", tmp_path)
    with pytest.raises(ModelError, match="has no weights for this model|cannot be loaded"):
        open_model(str(stock), replace(OPTIONS, lora=(str(path),)), Ledger())


def test_devices_and_dtypes() -> None:
    cpu = torch.device("cpu")
    assert chosen_device("cpu") == cpu
    assert chosen_dtype("auto", cpu) == torch.float32
    assert chosen_dtype("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(UsageError, match="is not a device"):
        chosen_device("gpu")


@torch.no_grad()
def test_half_precision_on_the_cpu(stock: Path) -> None:
    model = open_model(str(stock), replace(OPTIONS, dtype="bfloat16"), Ledger())
    assert model.dtype == torch.bfloat16
    x, level = point(model)
    raw = model.denoiser(conditioning(model), 5.0)(x.to(model.dtype), level).raw
    assert raw.dtype == torch.bfloat16
    assert torch.isfinite(raw).all()


def test_the_hash_follows_the_weights(folder: Path, tmp_path: Path) -> None:
    model = open_model(str(folder), OPTIONS, Ledger())
    first = model_hash(model)
    assert len(first) == 64
    assert {file.name for file in model.files} == {"diffusion_pytorch_model.safetensors", "model.safetensors"}
    assert model_hash(model) == first
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = safetensors.torch.load_file(file)
    name = next(iter(weights))
    safetensors.torch.save_file({**weights, name: weights[name] + 1}, file)
    assert model_hash(model) != first
    alone = replace(model, files=(file,))
    assert model_hash(alone) == file_hash(file)


def test_safetensors_headers(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3, 2)}, file)
    assert check_safetensors(file)["a"]["shape"] == [3, 2]
    file.write_bytes(b"")
    with pytest.raises(ModelError, match="truncated"):
        check_safetensors(file)


def test_a_second_guidance_is_its_familys_own() -> None:
    class Guided:
        family = "flux"
        true_cfg_scale = 2.0

        def with_true_cfg(self, scale: float) -> float:
            return scale

    source: Any = models.installed_source("toy")
    toy: Any = source.open()
    guided: Any = Guided()
    assert models.with_true_cfg(toy, 1.0) is toy and models.with_true_cfg(guided, 2.0) is guided
    assert models.with_true_cfg(guided, 1.0) == 1.0
    with pytest.raises(ModelError, match="true_cfg=3.0 is FLUX's second guidance; toy has guidance_scale alone"):
        models.with_true_cfg(toy, 3.0)
