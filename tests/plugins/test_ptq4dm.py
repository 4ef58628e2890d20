"""The trainer and the plugin `ptq4dm`: files, checks, drawing, and what goes wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from genbench import generate, models
from genbench.backbones import adapt
from genbench.errors import MissingDependency, ModelError, PluginError, UsageError
from genbench.kinds import Ledger, Model, TrainJob
from genbench.training.job import planned, train
from genbench.training.rollouts import Rollout
from genbench_ptq4dm import PTQ4DM, PTQ4DMTrainer, executed
from genbench_ptq4dm.layers import quantized_layers
from genbench_ptq4dm.network import FILE, METADATA, read_about
from tests.tiny import saved, tiny
from tests.training.rolling import resources

PROMPTS = ("red cube", "blue", "a cat", "photo of the sphere")
SMALL: dict[str, Any] = {"pictures": 16, "batch": 8}
FAMILIES = ("sd", "sdxl", "pixart_alpha", "hunyuan", "sd3", "flux", "ddpm", "class_conditional")


def model_of(family: str = "sd", dtype: torch.dtype = torch.float32) -> Model:
    opened: Any = adapt(tiny(family).to(dtype=dtype), Ledger())
    guidance = 1.0 if family in ("flux", "ddpm", "class_conditional") else 2.0
    known = {"height": 16, "width": 16, "steps": 3, "guidance_scale": guidance}
    return opened.replace(name="tiny", recommended=known)


def job(folder: Path, model: Model | None = None, **more: Any) -> TrainJob:
    model = model or model_of()
    prompts = () if model.family == "unconditional" else PROMPTS
    return TrainJob(folder, resources(model), model, **{"prompts": prompts, **more})


def drawn(model: Model) -> torch.Tensor:
    prompts = ["3", "5"] if model.family == "unconditional" else ["red cube", "blue"]
    return Rollout(resources(model), model).latents(prompts, [3, 4])


def off(made: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((made - wanted).norm() / wanted.norm())


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Stable Diffusion in 8 bits."""
    return PTQ4DMTrainer(**SMALL).train(job(tmp_path_factory.mktemp("int8")))


def with_plugin(model: Model, file: Path, **options: Any) -> Model:
    return PTQ4DM(**{"engine": "simulate", "weights": str(file), **options}).transform_model(model, resources(model))


# --- what is written --------------------------------------------------------------------------------------------------


def test_a_file_holds_integers_and_says_what_it_is(file: Path) -> None:
    with safe_open(file, "pt") as opened:
        told = json.loads(opened.metadata()[METADATA])
    tensors, network = load_file(file), model_of().modules["unet"]
    assert told["method"] == "ptq4dm" and told["base"] == "tiny" and told["module"] == "unet" and told["bits"] == 8
    for name in told["shapes"]:
        assert tensors[f"{name}.weight"].dtype == torch.int8
        assert tensors[f"{name}.weight_scale"].shape == (told["shapes"][name][0],)
        assert float(tensors[f"{name}.input_scale"]) > 0 and tensors[f"{name}.input_zero_point"].dtype == torch.uint8
    own = {name for name, _ in network.named_parameters()}
    assert own <= set(tensors)  # a whole network
    weights = sum(p.numel() for name, p in network.named_parameters() if name.removesuffix(".weight") in told["shapes"])
    assert sum(t.nbytes for n, t in tensors.items() if t.dtype == torch.int8 and n.endswith(".weight")) == weights


def test_the_set_and_its_hash_are_kept(file: Path) -> None:
    about = read_about(file, "it")
    with safe_open(file.parent / "calibration.safetensors", "pt") as opened:
        assert opened.get_tensor("x").shape[0] == 16
    assert len(str(about.calibration["hash"])) == 64 and about.calibration["pictures"] == 16
    report = json.loads((file.parent / "report.json").read_text())
    assert set(report["error_by_step"]) <= {"0", "1", "2"} and report["calibration"] == about.calibration
    assert all(0 < error < 0.5 for error in report["error_by_step"].values())


def test_the_same_words_write_the_same_bytes(file: Path, tmp_path: Path) -> None:
    again = PTQ4DMTrainer(**SMALL).train(job(tmp_path))
    assert again.read_bytes() == file.read_bytes()
    other = PTQ4DMTrainer(**SMALL).train(job(tmp_path / "other", seed=1))
    assert read_about(other, "it").calibration["hash"] != read_about(file, "it").calibration["hash"]


def test_an_interrupted_calibration_goes_on_with_its_set(file: Path, tmp_path: Path) -> None:
    (tmp_path / "calibration.safetensors").write_bytes((file.parent / "calibration.safetensors").read_bytes())
    assert PTQ4DMTrainer(**SMALL).train(job(tmp_path, resume=True)).read_bytes() == file.read_bytes()
    with pytest.raises(ModelError, match="was drawn otherwise; give the same words again"):
        PTQ4DMTrainer(**SMALL, calibration="uniform").train(job(tmp_path, resume=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_calibrated_and_draws(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    made = PTQ4DMTrainer(**SMALL).train(job(tmp_path, model))
    rounded = with_plugin(model, made)
    module = "unet" if "unet" in model.modules else "transformer"
    assert len(quantized_layers(rounded.modules[module])) > 8 and not quantized_layers(model.modules[module])
    plain, simulated = drawn(model), drawn(rounded)
    assert 0 < off(simulated, plain) < 1
    for engine in ("torch", *(["openvino"] if executed.installed() else [])):
        assert off(drawn(with_plugin(model, made, engine=engine)), plain) < 2 * off(simulated, plain) + 0.02, engine


@pytest.mark.parametrize(
    "options",
    [
        {"calibration": "uniform"}, {"calibration": "one", "at": 0.3}, {"calibration": "noise"},
        {"calibration": "images"}, {"calibration": "diffused"}, {"reading": "paper"},
        {"metric": "cosine"}, {"metric": "kl"}, {"p": 2.0}, {"keep": ("conv_in", "conv_out")},
    ],
    ids=str,
)  # fmt: skip
def test_every_way_to_calibrate(options: dict[str, Any], file: Path, tmp_path: Path) -> None:
    model = model_of()
    made = PTQ4DMTrainer(**{**SMALL, **options}).train(job(tmp_path, model))
    assert made.read_bytes() != file.read_bytes()
    assert 0 < off(drawn(with_plugin(model, made)), drawn(model)) < 0.8
    kept = {"conv_in", "conv_out"} & set(read_about(made, "it").shapes)
    assert kept == (set() if "keep" in options else {"conv_in", "conv_out"})


@pytest.mark.parametrize(("bits", "most"), [(8, 0.1), (4, 1.0)])
def test_weights_alone(bits: Any, most: float, tmp_path: Path) -> None:
    model = model_of()
    made = PTQ4DMTrainer(bits=bits, weight_only=True, pictures=1).train(job(tmp_path, model))
    about, tensors = read_about(made, "it"), load_file(made)
    assert about.weights_alone and not any(name.endswith("input_scale") for name in tensors)
    size = sum(t.nbytes for n, t in tensors.items() if n.removesuffix(".weight") in about.shapes)
    numbers = sum(torch.Size(shape).numel() for shape in about.shapes.values())
    assert size <= numbers * bits / 8 + len(about.shapes)
    plain = drawn(model)
    assert 0 < off(drawn(with_plugin(model, made, engine="auto")), plain) < most
    assert off(drawn(with_plugin(model, made, engine="torch")), drawn(with_plugin(model, made))) == 0


def test_nearer_with_more_bits(tmp_path: Path) -> None:
    model, errors = model_of(), []
    for bits, alone in ((8, True), (4, True)):
        made = PTQ4DMTrainer(bits=bits, weight_only=alone, pictures=1).train(job(tmp_path / str(bits), model))  # type: ignore[arg-type]
        errors.append(off(drawn(with_plugin(model, made)), drawn(model)))
    assert errors[0] < errors[1]


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_off_is_no_plugin_and_the_model_stays(file: Path) -> None:
    model = model_of()
    plain = drawn(model)
    assert PTQ4DM(engine="off").transform_model(model, resources(model)) is model
    assert not torch.equal(drawn(with_plugin(model, file)), plain)
    assert torch.equal(drawn(model), plain)


def test_a_file_is_loaded_without_calibration(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genbench_ptq4dm import observing

    first = drawn(with_plugin(model_of(), file))
    monkeypatch.setattr(observing, "histograms", lambda *_: pytest.fail("it calibrates again"))
    assert torch.equal(drawn(with_plugin(model_of(), file)), first)


def test_what_is_not_quantized_is_shared(file: Path) -> None:
    model = model_of()
    rounded = with_plugin(model, file)
    own = {p.data_ptr() for p in model.modules["unet"].parameters()}
    assert {p.data_ptr() for p in rounded.modules["unet"].parameters()} <= own
    assert rounded.modules["vae"] is model.modules["vae"]


def test_half_precision_loads_the_same_file(file: Path) -> None:
    model = model_of(dtype=torch.bfloat16)
    made = drawn(with_plugin(model, file, engine="auto"))
    assert made.dtype == torch.bfloat16 and torch.isfinite(made).all()


def test_a_bit_less_where_sums_would_saturate(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def largest(**options: Any) -> int:
        layers = quantized_layers(with_plugin(model_of(), file, **options).modules["unet"])
        return max(int(layer.integers.abs().max()) for layer in layers.values())

    monkeypatch.setattr("genbench.instructions.int8_saturates", lambda: True)
    assert largest(engine="torch") == 64 and largest(engine="simulate") == 127
    assert largest(engine="torch", reduce_range=False) == 127
    monkeypatch.setattr("genbench.instructions.int8_saturates", lambda: False)
    assert largest(engine="torch") == 127 and largest(reduce_range=True) == 64


def test_the_engine_that_auto_takes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin, about = PTQ4DM(weights=str(file)), read_about(file, "it")
    network: Any = model_of().modules["unet"]
    monkeypatch.setattr(executed, "installed", lambda: True)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert plugin.chosen(network, about) == "openvino"
    assert plugin.chosen(network.bfloat16(), about) == "torch"
    monkeypatch.setattr(executed, "installed", lambda: False)
    assert plugin.chosen(network.float(), about) == "torch"
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert plugin.chosen(network, about) == "simulate"
    assert plugin.chosen(network, replace(about, activations="floating point")) == "simulate"
    assert replace(plugin, engine="torch").chosen(network, about) == "torch"


# --- through the command's words --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline, calibrated beside it."""
    place = tmp_path_factory.mktemp("words")
    saved("sd", place / "sd")
    (place / "prompts.txt").write_text("\n".join(PROMPTS))
    words = {"model": str(place / "sd"), "prompts": str(place / "prompts.txt"), "run": str(place / "run")}
    train({"plugin": "ptq4dm", **words, "ptq4dm": {"pictures": 16, "steps": 2}})
    return place


def words(folder: Path, **more: Any) -> dict[str, Any]:
    return {"model": str(folder / "sd"), "prompt": "red cube", "steps": 2, "height": 16, "width": 16, **more}


def test_a_folder_of_a_training_is_drawn_with(folder: Path) -> None:
    plain = generate(**words(folder))[0]
    asked = words(folder, plugin="ptq4dm", options={"ptq4dm": {"weights": str(folder / "run")}})
    made = generate(**asked)[0]
    assert 0 < off(made.latents, plain.latents) < 0.6 and made.nfe == plain.nfe
    neutral = generate(**words(folder, plugin="ptq4dm", options={"ptq4dm": {"engine": "off"}}))[0]
    assert torch.equal(neutral.latents, plain.latents)


def test_a_dry_run_says_what_it_takes(folder: Path) -> None:
    told = planned({"plugin": "ptq4dm", "model": str(folder / "sd"), "prompts": str(folder / "prompts.txt")})
    assert told["calls for ranges"] == 2048 and int(str(told["layers"])) > 20 and "MB" in str(told["file"])


def test_other_weights_are_another_version(folder: Path) -> None:
    plugin = PTQ4DM(weights=str(folder / "run"))
    assert plugin.version().startswith(f"{folder / 'run'} ") and len(plugin.version().split()[-1]) == 12


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_too_few_pictures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ptq4dm.pictures=4: ranges of so few samples are chance; give 16 or more"):
        PTQ4DMTrainer(pictures=4).train(job(tmp_path))


def test_prompts_are_needed_where_the_model_is_told_some(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model=tiny is told prompts; give prompts=FILE"):
        PTQ4DMTrainer(**SMALL).train(job(tmp_path, prompts=()))


def test_four_bits_are_for_weights_alone() -> None:
    with pytest.raises(ValueError, match="bits=4 is for weights alone; add weight_only=true"):
        PTQ4DMTrainer(bits=4)


def test_exemplars_are_for_pictures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exemplars= are for calibration=images and diffused; ndtc draws its own"):
        PTQ4DMTrainer(**SMALL).train(job(tmp_path, exemplars=tmp_path))


def test_a_model_that_is_quantized_already(file: Path, tmp_path: Path) -> None:
    rounded = with_plugin(model_of(), file)
    with pytest.raises(UsageError, match="is quantized by ptq4dm already"):
        with_plugin(rounded, file)
    with pytest.raises(UsageError, match="is quantized by ptq4dm already"):
        PTQ4DMTrainer(**SMALL).train(job(tmp_path, rounded))
    with pytest.raises(UsageError, match="ptq4dm.before=ptq4dm is quantized already"):
        PTQ4DMTrainer(**SMALL, before=("ptq4dm",)).train(job(tmp_path))
    other = model_of()
    other.modules["unet"].hf_quantizer = object()  # type: ignore[assignment]
    with pytest.raises(UsageError, match="quantized already"):
        with_plugin(other, file)


def test_a_file_of_another_model(file: Path) -> None:
    opened: Any = adapt(tiny("sd", seed=1), Ledger())
    with pytest.raises(ModelError, match="was made of model=tiny; the network here has other weights"):
        with_plugin(opened, file)
    with pytest.raises(ModelError, match="does not fit: its .* is .*, and here"):
        with_plugin(model_of("sdxl"), file)
    with pytest.raises(ModelError, match="is a unet, of another family; this model has a transformer"):
        with_plugin(model_of("sd3"), file)


def test_files_that_are_none(file: Path, tmp_path: Path) -> None:
    def refused(path: object, said: str) -> None:
        with pytest.raises(ModelError, match=said):
            PTQ4DM(weights=str(path)).check("tiny", "sd")

    refused(tmp_path, f"is a folder without {FILE}")
    refused(tmp_path / "no.safetensors", "does not exist")
    refused("autoo", "did you mean 'auto'")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    refused(tmp_path / "plain.safetensors", "it is no quantized network of this genbench")
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:-10])
    refused(tmp_path / "cut.safetensors", "is truncated")
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", {METADATA: '{"base": "x"}'})
    refused(tmp_path / "odd.safetensors", "is of another genbench")
    with safe_open(file, "pt") as opened:
        told = opened.metadata()
    tensors = load_file(file)
    save_file({n: t for n, t in tensors.items() if n != "conv_in.weight_scale"}, tmp_path / "less.safetensors", told)
    with pytest.raises(ModelError, match="lacks 'conv_in.weight_scale'"):
        with_plugin(model_of(), tmp_path / "less.safetensors")


def test_what_no_weights_are_known_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(ModelError, match="no int8 weights are known for model=.*genbench train plugin=ptq4dm"):
        generate(**words(folder, plugin="ptq4dm"))
    with pytest.raises(PluginError, match="'ptq4dm' does not hold for models of family 'toy'"):
        generate(model="toy", prompt="red", plugin="ptq4dm")


def test_an_engine_that_is_not_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executed, "installed", lambda: False)
    options = {"ptq4dm": {"engine": "openvino", "weights": str(folder / "run")}}
    with pytest.raises(MissingDependency, match=r"pip install 'genbench\[quant\]'"):
        generate(**words(folder, plugin="ptq4dm", options=options))


def test_a_layer_that_is_given_no_number(tmp_path: Path) -> None:
    model = model_of()
    network: Any = model.modules["unet"]
    network.conv_norm_out.weight.data[0] = float("nan")
    with pytest.raises(Exception, match="is given what is no number"):
        PTQ4DMTrainer(**SMALL, calibration="noise").train(job(tmp_path, model))
