"""Students as plugins: what files are found and how they are read, what they bring, what is refused and when."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genbench import generate, generation, hub, models, studentfiles
from genbench.backbones import network_name
from genbench.backbones.toy import ToyModel
from genbench.distilled import ONE_STEP, Student, StudentFile, read_about, save_student
from genbench.errors import GenbenchError, ModelError, UsageError
from genbench.fewstep import FewStep, levels_of
from genbench.kinds import About, Ledger, Model, Resources
from genbench.models import model_hash
from genbench.request import resolve
from genbench.testing import check_plugin
from tests.test_fewstep import SIZE, context, drawn, model_of, plain_x0, rows_noise
from tests.tiny import saved, tiny
from tests.training.rolling import resources

FAMILIES = ("sd", "sd_v", "sdxl", "pixart_alpha", "pixart_sigma", "hunyuan", "sd3", "flux")
TIMES = (0.625, 0.3)


@dataclass(frozen=True)
class Pupil(Student):
    """A test's."""

    about: ClassVar[About] = About("A test's.")
    shipped: ClassVar[Path] = Path("nothing/here")


def state_of(model: Model) -> Mapping[str, Tensor]:
    return model.modules[str(network_name(model))].state_dict()


def told(model: Model, **changes: Any) -> StudentFile:
    return replace(
        StudentFile("pupil", model.name, model_hash(model), str(network_name(model)), TIMES, {"steps": 2}), **changes
    )


def student(model: Model, folder: Path, factor: float = 1.0, **changes: Any) -> Path:
    """A file of the model's own weights, or of weights `factor` as large."""
    path = folder / studentfiles.FILE
    tensors = {k: v * factor if v.is_floating_point() else v for k, v in state_of(model).items()}
    save_student(path, tensors, told(model, **changes))
    return path


def with_plugin(model: Model, weights: object, **options: Any) -> Model:
    return Pupil(str(weights), **options).transform_model(model, resources(model))


# --- drawing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_with_the_bases_own_weights_it_is_the_base_in_few_steps(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    taught = with_plugin(model, student(model, tmp_path))
    with torch.no_grad():
        for steps in (1, 2):
            assert torch.equal(drawn(taught, steps), drawn(model.replace(sampler=FewStep(TIMES)), steps))
    assert taught.recommended["steps"] == 2 and taught.recommended["guidance_scale"] == 1.0
    assert taught.recommended["height"] == model.recommended["height"]


@pytest.mark.parametrize("family", ("sd", "sd3"))
def test_it_draws_with_the_files_weights_and_leaves_the_base_alone(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    with torch.no_grad():
        plain = drawn(model.replace(sampler=FewStep(TIMES)), 1)
        taught = with_plugin(model, student(model, tmp_path, factor=1.1))
        assert not torch.allclose(drawn(taught, 1), plain, atol=1e-2)
        assert torch.equal(drawn(model.replace(sampler=FewStep(TIMES)), 1), plain)
    assert taught.modules["vae"] is model.modules["vae"] and type(model.sampler) is not FewStep


def test_weights_take_the_models_dtype_and_are_there_once(tmp_path: Path) -> None:
    model = model_of("sd")
    save_student(tmp_path / "half.safetensors", {k: v.half() for k, v in state_of(model).items()}, told(model))
    network = with_plugin(model, tmp_path / "half.safetensors").modules["unet"]
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    own = {p.data_ptr() for p in model.modules["unet"].parameters()}
    assert not own & {p.data_ptr() for p in network.parameters()} and not network.training
    with torch.no_grad():
        far = drawn(model.replace(sampler=FewStep(TIMES)), 1) - drawn(
            with_plugin(model, tmp_path / "half.safetensors"), 1
        )
    assert 0 < float(far.abs().max()) < 1


def test_times_of_ones_own_choice(tmp_path: Path) -> None:
    model = model_of("sd")
    taught = with_plugin(model, student(model, tmp_path), times=(0.9, 0.6, 0.3))
    with torch.no_grad():
        assert torch.equal(drawn(taught, 3), drawn(model.replace(sampler=FewStep((0.9, 0.6, 0.3))), 3))
    for times in ((), (0.3, 0.9), (0.5, 0.5), (1.2,), (0.0,)):
        with pytest.raises(ValueError, match=r"pupil.times="):
            Pupil(times=times)


def test_guidance_may_be_asked_for(tmp_path: Path) -> None:
    model = model_of("sd")
    taught = with_plugin(model, student(model, tmp_path))
    with torch.no_grad():
        assert not torch.allclose(drawn(taught, 1, guidance=3.0), drawn(taught, 1), atol=1e-2)


def test_the_contract(tmp_path: Path) -> None:
    """On the toy: another mixture's means, six steps as the checks take."""
    toy = ToyModel()
    means = {"means": state_of(toy)["means"] * 0.5}
    about = StudentFile("pupil", "toy", model_hash(toy), "network", (0.95, 0.8, 0.65, 0.5, 0.35, 0.2))
    save_student(tmp_path / "toy.safetensors", means, about)
    check_plugin(Pupil, "model", weights=str(tmp_path / "toy.safetensors"))


# --- files --------------------------------------------------------------------------------------------------------


def test_what_a_file_says_is_read_without_its_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("sd")
    path = student(model, tmp_path, init_scale=0.5)
    monkeypatch.setattr(studentfiles, "safe_open", lambda *_: pytest.fail("tensors were read"))
    assert read_about(path) == told(model, init_scale=0.5)
    save_file(load_file(path), path)
    assert read_about(path) is None and read_about(tmp_path / "no.bin") is None
    save_file(load_file(path), path, {"genbench": json.dumps({"colour": 1})})
    with pytest.raises(ModelError, match="is no student of this genbench"):
        read_about(path)


def test_the_words_that_name_a_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("sd")
    file = student(model, tmp_path / "run")
    shipped = tmp_path / "shipped"
    student(model, shipped).rename(shipped / "tiny.safetensors")
    monkeypatch.setattr(Pupil, "shipped", shipped)
    with torch.no_grad():
        expected = drawn(with_plugin(model, file), 1)
        for word in (file.parent, "auto"):
            assert torch.equal(drawn(with_plugin(model, word), 1), expected)
    with pytest.raises(ModelError) as caught:
        Pupil().check("other", "sd")
    assert str(caught.value) == (
        "no pupil student is known for model='other' (there are some for tiny); train one: genbench train "
        "plugin=pupil model=other prompts=FILE; then pupil.weights=FOLDER"
    )


@pytest.mark.parametrize("family", ("sd", "sd3"))
def test_folders_of_diffusers_whole_and_in_shards(family: str, tmp_path: Path) -> None:
    """Published students say nothing of themselves: t / 1000 is asked for, and unit noise begins the walk."""
    pipe, model = tiny(family), model_of(family)
    network = getattr(pipe, str(network_name(model)))
    network.save_pretrained(tmp_path / "whole")
    network.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    pipe.save_pretrained(tmp_path / "pipeline")
    assert len(studentfiles.weight_files(tmp_path / "sharded")) > 1
    walk = FewStep((0.9, 0.5), init_scale=1.0, as_told=True)
    with torch.no_grad():
        expected = drawn(model.replace(sampler=walk), 2)
        for name in ("whole", "sharded", "pipeline"):
            assert torch.equal(drawn(with_plugin(model, tmp_path / name, times=(0.9, 0.5)), 2), expected)
    with pytest.raises(ModelError, match=r"does not say when it was trained; give pupil.times=, the t / 1000"):
        Pupil(str(tmp_path / "whole")).check("tiny", family)
    next((tmp_path / "sharded").glob("*-00001-*")).unlink()
    with pytest.raises(ModelError, match="is incomplete: .*00001.* is missing"):
        Pupil(str(tmp_path / "sharded"), (0.9,)).check("tiny", family)


def test_a_flow_student_is_told_unshifted_times(tmp_path: Path) -> None:
    model = model_of("sd3")
    model.modules["transformer"].save_pretrained(tmp_path)  # type: ignore[operator]
    taught = with_plugin(model, tmp_path, times=(1.0, 0.75))
    schedule = taught.sampler.schedule(2, taught, taught.latent_shape(SIZE, SIZE))
    assert [float(level.t) for level in schedule.levels] == [1000.0, 750.0, 0.0]
    assert float(schedule.init_scale) == 1.0


def test_published_bin_files(tmp_path: Path) -> None:
    model = model_of("sdxl")
    torch.save(dict(state_of(model)), tmp_path / "dmd2_sdxl_1step_unet_fp16.bin")
    taught = with_plugin(model, tmp_path / "dmd2_sdxl_1step_unet_fp16.bin", times=(0.399,))
    (level,) = levels_of(model, model.latent_shape(SIZE, SIZE), (0.399,))
    (z,) = rows_noise(model, 1)
    with torch.no_grad():
        assert int(level.t) == 399  # from unit noise, not from sigma times it
        assert torch.allclose(drawn(taught, 1).double(), plain_x0(model, context(model, 1), z, level), atol=1e-3)


def test_files_and_folders_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("sd")
    places = {
        "hf:org/name/student.safetensors": student(model, tmp_path / "one"),
        "hf:org/name/unet/": tmp_path / "two",
    }
    model.modules["unet"].save_pretrained(tmp_path / "two")  # type: ignore[operator]
    monkeypatch.setattr(hub, "fetch", lambda word, *_: places[word])
    ctx: Any = Resources(Ledger(), generation.FileCache({}).load, lambda word: model)
    for word, times in zip(places, (None, (0.9,)), strict=True):
        asked = Pupil(word, times)
        asked.check("tiny", "sd")  # says nothing of what is not here yet
        assert dict(asked.recommended) == dict(ONE_STEP)
        taught = asked.transform_model(model, ctx)
        assert isinstance(taught.sampler, FewStep) and taught.sampler.times == (times or TIMES)
    monkeypatch.undo()
    with hub.closed(), pytest.raises(ModelError, match="is not in the local cache and the Hub is out of bounds"):
        Pupil("hf:org/name/unet/", (0.9,)).transform_model(model, ctx)


def test_the_record_notes_the_files_hash(tmp_path: Path) -> None:
    model, noted = model_of("sd"), dict[str, str]()
    file = student(model, tmp_path / "run")
    ctx: Any = Resources(Ledger(), generation.FileCache(noted).load, lambda word: model)
    Pupil(str(tmp_path / "run")).transform_model(model, ctx)
    assert list(noted) == [f"run/{file.name}"]


def test_the_version_is_the_content_of_the_file(tmp_path: Path) -> None:
    model = model_of("sd")
    file = student(model, tmp_path)
    before = Pupil(str(tmp_path)).version()
    student(model, tmp_path, factor=1.1)
    assert Pupil(str(tmp_path)).version() != before and before.startswith(f"{tmp_path} ")
    assert Pupil(str(file)).version().split()[1] == Pupil(str(tmp_path)).version().split()[1]
    assert Pupil().version() == "auto" and Pupil("hf:org/name/file.safetensors").version().startswith("hf:")


# --- what is refused ----------------------------------------------------------------------------------------------


def refused(model: Model, weights: object, message: str, **options: Any) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        with_plugin(model, weights, **options)
    assert "\n" not in str(caught.value)


def rewritten(file: Path, tensors: Mapping[str, Tensor]) -> Path:
    about = read_about(file)
    assert about is not None
    save_student(file, tensors, about)
    return file


def test_the_first_layer_that_does_not_fit_is_named(tmp_path: Path) -> None:
    model = model_of("sd")
    file = student(model, tmp_path)
    tensors = load_file(file)
    wide = {**tensors, "conv_in.weight": torch.zeros(16, 4, 3, 3)}
    refused(
        model, rewritten(file, wide), r"model=tiny: its conv_in.weight is \[16, 4, 3, 3\], and \[8, 4, 3, 3\] is exp"
    )
    less = {k: v for k, v in tensors.items() if k != "conv_out.bias"}
    refused(model, rewritten(file, less), r"its conv_out.bias is not there, and \[4\] is expected")
    refused(model, rewritten(file, {**tensors, "more.weight": torch.zeros(1)}), "whose network has no more.weight")


def test_of_another_family_or_another_base(tmp_path: Path) -> None:
    refused(model_of("sd3"), student(model_of("sd"), tmp_path), "is a unet, of another family; this model has a transf")
    model = model_of("sd")
    refused(
        model, student(model, tmp_path, base_hash="0" * 64), "was made of other weights than those of model=tiny he"
    )
    message = "was made of model=other, and model=tiny has other weights; draw with model=other, or train one: genbench"
    refused(model, student(model, tmp_path, base="other", base_hash="0" * 64), message)
    with_plugin(model, student(model, tmp_path, base="other", base_hash=""))  # nothing known that speaks against it


@pytest.mark.parametrize("prefix", ("fake_unet.", "real_unet.", "cls_pred_branch."))
def test_what_a_student_was_trained_against(prefix: str, tmp_path: Path) -> None:
    model = model_of("sd")
    tensors = {f"{prefix}{name}": tensor for name, tensor in state_of(model).items()}
    torch.save(tensors, tmp_path / "pytorch_model_1.bin")
    refused(
        model, tmp_path / "pytorch_model_1.bin", f"holds {prefix}conv_in.weight: it is what a student was", times=(0.9,)
    )


def test_a_lora_and_things_that_are_no_networks(tmp_path: Path) -> None:
    model = model_of("sd")
    save_file({"unet.conv_in.lora_A.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    refused(model, tmp_path / "lora.safetensors", "is a LoRA, not a network; draw with it by lora=FILE", times=(0.9,))
    torch.save({"unet": state_of(model)}, tmp_path / "nested.bin")
    refused(model, tmp_path / "nested.bin", "does not hold a network's tensors by name", times=(0.9,))
    (tmp_path / "code.bin").write_bytes(pickle.dumps(Pupil()))
    refused(model, tmp_path / "code.bin", "is no file of tensors alone", times=(0.9,))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("atuo", "is neither a file nor a folder; did you mean 'auto'"),
        ("no/such", "does not exist; give a student's file"),
        ("no.safetensors", "does not exist; give a student's file"),
        (".", "is a folder without student.safetensors"),
        ("net.pkl", "is a pickle, which can run code when opened; convert it to .safetensors first"),
    ],
)
def test_words_that_name_nothing(word: str, message: str, work: Path) -> None:
    (work / "net.pkl").write_bytes(b"")
    with pytest.raises(ModelError, match=message) as caught:
        Pupil(word).check("tiny", "sd")
    assert str(caught.value).startswith(f"pupil.weights={word} ") and "\n" not in str(caught.value)


def test_a_damaged_file(tmp_path: Path) -> None:
    file = student(model_of("sd"), tmp_path)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ModelError, match="truncated"):
        Pupil(str(file)).check("tiny", "sd")


# --- runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def solids(tmp_path: Path) -> Path:
    """A student of `solids` that is `solids`, of two steps."""
    return student(models.open_model("solids", models.ModelOptions(), Ledger()), tmp_path / "run")


def pupil(weights: object, **options: Any) -> dict[str, Any]:
    words = {"weights": str(weights), **options}
    return {"plugin": f"{__file__}:Pupil", "options": {"pupil": words}, "prompt": "a red cube", "seed": 7}


def settings(**words: Any) -> tuple[object, object, str]:
    resolved, _ = generation.build_chain(resolve(words))
    return resolved.request.steps, resolved.request.guidance_scale, resolved.origin("steps")


def test_what_a_run_brings_and_that_the_users_words_win(solids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dict(Pupil.recommended) == dict(ONE_STEP) == {"steps": 1, "guidance_scale": 1.0}
    assert settings(**pupil("auto")) == (1, 1.0, "plugin pupil")
    assert settings(**pupil(solids)) == (2, 1.0, "plugin pupil")  # the file's own
    assert settings(**pupil("unknown", times="0.9,0.6,0.3")) == (3, 1.0, "plugin pupil")
    assert settings(**pupil(solids), steps=1, guidance_scale=2.5) == (1, 2.5, "command line")
    monkeypatch.setenv("GENBENCH_STEPS", "1")
    assert settings(**pupil(solids)) == (1, 1.0, "environment")
    monkeypatch.setattr(Pupil, "shipped", solids.parent)
    solids.rename(solids.parent / "solids.safetensors")
    assert Pupil().recommended["steps"] == 2  # the only one that comes with it


def test_a_run_is_as_many_evaluations_as_steps(solids: Path) -> None:
    two, one = (generate(**pupil(solids), **words)[0] for words in ({}, {"steps": 1}))
    assert (two.nfe, one.nfe) == (2, 1) and two.resolved.request.height == 64
    assert generate(**pupil(solids), guidance_scale=2.0)[0].nfe == 4
    model = models.open_model("solids", models.ModelOptions(), Ledger())
    x = drawn_solids(model, 7)
    assert torch.allclose(one.latents, x, atol=1e-4)


@torch.no_grad()
def drawn_solids(model: Model, seed: int) -> Tensor:
    """v-prediction at t = 625, in its plainest form."""
    shape = model.latent_shape(64, 64)
    a = float(model.pipeline.scheduler.alphas_cumprod[625])  # type: ignore[attr-defined]
    x = (1 - a) ** 0.5 * torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed))
    (level,) = levels_of(model, shape, (0.625,))
    v = model.denoiser(model.encode_prompt(["a red cube"], guidance=False), 1.0)(x, level).raw
    return (a**0.5 * x - (1 - a) ** 0.5 * v)[0]


def test_nothing_loads_where_words_or_headers_tell(solids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("weights were loaded"))
    cases: list[tuple[dict[str, Any], type[GenbenchError], str]] = [
        ({"steps": 3}, UsageError, r"steps=3: this student was made for 1 to 2 steps"),
        ({"lora": "some.safetensors"}, UsageError, "lora= is for the network that pupil replaces"),
        ({"offload": "model"}, UsageError, "offload= is for the network that pupil replaces"),
        ({"model": "solids/weak"}, ModelError, "was made of model=solids, and model=solids/weak has other weights"),
    ]
    for words, kind, message in cases:
        with pytest.raises(kind, match=message):
            generate(**pupil(solids), **words)
    with pytest.raises(UsageError, match=r"steps=2: this student was made for one step \(times 0.4\)"):
        generate(**pupil(solids, times="0.4"), steps=2)


def test_another_model_in_a_folder_is_told_by_its_hash(solids: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"was made of model=solids, and model=.*tiny has other weights"):
        generate(**pupil(solids), model=str(saved("sd_v", tmp_path / "tiny")))


def test_in_a_search_and_beside_reflection(solids: Path) -> None:
    """Best of two noises; and W2SD reflects all steps but the last, so a student's only step it leaves alone."""
    words = pupil(solids)
    own = words.pop("plugin")
    searched = {**words["options"], "search": {"candidates": 2}}
    found = generate(**{**words, "options": searched}, plugin=f"{own},search")[0]
    assert found.nfe == 4 and len(found.trace) == 2
    once = generate(**words, plugin=f"{own},w2sd", steps=1)[0]
    assert torch.equal(once.latents, generate(**words, plugin=own, steps=1)[0].latents)
    reflected = generate(**words, plugin=f"{own},w2sd")[0]
    assert reflected.nfe > 2 and torch.isfinite(reflected.latents).all()


def test_another_sampler_is_refused(solids: Path) -> None:
    with pytest.raises(UsageError, match="sampler=ddim: this model brings a sampler of its own kind"):
        generate(**pupil(solids), sampler="ddim")


def test_two_students_in_one_chain_are_refused(tmp_path: Path) -> None:
    model = model_of("sd")
    taught = with_plugin(model, student(model, tmp_path))
    with pytest.raises(UsageError, match="another student"):
        with_plugin(taught, tmp_path)


def test_a_compiled_model_has_a_compiled_student(tmp_path: Path) -> None:
    model = model_of("sd")
    file = student(model, tmp_path)
    name = str(network_name(model))
    assert with_plugin(model, file).modules[name]._compiled_call_impl is None
    model.modules[name].compile()
    assert with_plugin(model, file).modules[name]._compiled_call_impl is not None
