"""The matrix of docs/ptq4dm.md: an int8 network with LoRA, compile, caches and every kind of plugin, or the reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genbench import generate
from genbench.backbones import adapt
from genbench.distilled import StudentFile, save_student
from genbench.errors import GenbenchError, ModelError, UsageError
from genbench.generation import plan, resolve
from genbench.kinds import Ledger
from genbench.models import ModelOptions, model_hash, open_model
from genbench.training import adapters
from genbench.training.job import train
from genbench.training.rollouts import Rollout
from genbench_ptq4dm import PTQ4DM, PTQ4DMTrainer, executed
from genbench_ptq4dm.layers import quantized_layers
from tests.plugins.test_ptq4dm import job, model_of
from tests.test_controlnet import controlnet, tiny_of
from tests.tiny import saved
from tests.training.rolling import resources
from tests.training.test_adapters import moved

ROOT = Path(__file__).resolve().parents[2]
ENGINES = (
    "simulate",
    "torch",
    pytest.param("openvino", marks=pytest.mark.skipif(not executed.installed(), reason="-")),
)
WORDS: dict[str, Any] = {"prompt": "red cube", "seed": 3, "steps": 2, "height": 16, "width": 16, "verifier": "toy"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion, a LoRA and a student of it, and int8 files of model and student."""
    folder = tmp_path_factory.mktemp("together")
    saved("sd", folder / "sd")
    (folder / "prompts.txt").write_text("red cube\nblue\n")
    model = open_model(str(folder / "sd"), ModelOptions(), Ledger())
    adapted = moved(adapters.with_adapter(model, rank=2))
    adapters.save_adapter(adapted, adapted.parameters, folder / "lora", torch.float32)
    other = {name: tensor * 1.1 for name, tensor in model.modules["unet"].state_dict().items()}
    told = StudentFile("sid", model.name, model_hash(model), "unet", (0.6, 0.3), {"steps": 2})
    save_student(folder / "student" / "student.safetensors", other, told)
    common = {"plugin": "ptq4dm", "model": model.name, "prompts": str(folder / "prompts.txt")}
    train({**common, "run": str(folder / "int8"), "ptq4dm": {"pictures": 16, "steps": 2, "candidates": 10}})
    student = {"pictures": 16, "candidates": 10, "before": f"sid:{folder / 'student'}"}
    train({**common, "run": str(folder / "int8-student"), "ptq4dm": student})
    return folder


def asked(place: Path, plugin: str, options: dict[str, dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    mine = {"weights": str(place / "int8"), "engine": "torch"}
    told = {**(options or {})}
    told["ptq4dm"] = {**mine, **told.get("ptq4dm", {})}
    return {**WORDS, "model": str(place / "sd"), "plugin": plugin, "options": told, **more}


def latents(words: dict[str, Any]) -> Tensor:
    made = generate(**words)[0].latents
    assert torch.isfinite(made).all()
    return made


def off(made: Tensor, wanted: Tensor) -> float:
    return float((made - wanted).norm() / wanted.norm())


# --- LoRA -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_lora_of_the_run_stays_in_floating_point(place: Path, engine: str) -> None:
    mine = {"ptq4dm": {"engine": engine}}
    plain = latents({**WORDS, "model": str(place / "sd"), "lora": str(place / "lora")})
    with_lora = latents(asked(place, "ptq4dm", mine, lora=str(place / "lora")))
    without = latents(asked(place, "ptq4dm", mine))
    assert off(with_lora, plain) < 0.5 * off(without, plain)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("chain", ["alignprop,ptq4dm", "ptq4dm,alignprop"])
def test_a_lora_of_a_plugin_in_either_order(place: Path, chain: str, engine: str) -> None:
    options = {"alignprop": {"weights": str(place / "lora")}, "ptq4dm": {"engine": engine}}
    by_word = latents(asked(place, "ptq4dm", {"ptq4dm": {"engine": engine}}, lora=str(place / "lora")))
    assert off(latents(asked(place, chain, options)), by_word) < 0.05


# --- students ---------------------------------------------------------------------------------------------------------


def test_a_student_is_quantized_and_drawn_with(place: Path) -> None:
    sid = {"sid": {"weights": str(place / "student")}}
    plain = latents({**asked(place, "sid", sid), "options": sid})
    mine = {**sid, "ptq4dm": {"weights": str(place / "int8-student")}}
    made = latents(asked(place, "sid,ptq4dm", mine))
    assert 0 < off(made, plain) < 0.6
    assert generate(**asked(place, "sid,ptq4dm", mine))[0].nfe == 2


def test_the_models_integers_are_not_the_students(place: Path) -> None:
    sid = {"sid": {"weights": str(place / "student")}}
    with pytest.raises(ModelError, match="was made of model=.*; the network here has other weights"):
        latents(asked(place, "sid,ptq4dm", sid))
    with pytest.raises(ModelError, match="was made of model=.* plugin=sid; the network here has other weights"):
        latents(asked(place, "ptq4dm", {"ptq4dm": {"weights": str(place / "int8-student")}}))
    with pytest.raises(ModelError, match="does not fit"):
        latents(asked(place, "ptq4dm,sid", sid))  # a student's network would take the integers' place


def test_only_plugins_of_weights_come_before(place: Path, tmp_path: Path) -> None:
    opened = open_model(str(place / "sd"), ModelOptions(), Ledger())
    with pytest.raises(UsageError, match="only plugins that change the model's weights come before"):
        PTQ4DMTrainer(pictures=16, before=("w2sd",)).train(job(tmp_path, opened))


# --- other kinds ------------------------------------------------------------------------------------------------------

KINDS: tuple[tuple[str, dict[str, dict[str, Any]]], ...] = (
    ("redenoise", {"redenoise": {"high": 3.0, "steps": 4}}),
    ("w2sd", {}),
    ("w2sd", {"w2sd": {"lora": "LORA"}}),
    ("w2sd", {"w2sd": {"weak_model": "MODEL"}}),
    ("autoguidance", {"autoguidance": {"weak_model": "MODEL"}}),
    ("lml", {}),
    ("lml", {"lml": {"rank": 1}}),
    ("search", {"search": {"candidates": 2}}),
    ("search", {"search": {"algorithm": "zero-order", "iterations": 2}}),
    ("search", {"search": {"algorithm": "paths"}}),
    ("search", {"search": {"algorithm": "fk"}}),
)


def filled(place: Path, options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    known = {"LORA": str(place / "lora"), "MODEL": str(place / "sd")}
    return {plugin: {k: known.get(str(v), v) for k, v in each.items()} for plugin, each in options.items()}


@pytest.mark.parametrize(("plugin", "options"), KINDS, ids=str)
@pytest.mark.parametrize("engine", ENGINES)
def test_it_joins_every_kind(place: Path, plugin: str, options: dict[str, dict[str, Any]], engine: str) -> None:
    told = filled(place, options)
    for chain in (f"ptq4dm,{plugin}", f"{plugin},ptq4dm"):
        words = asked(place, chain, {**told, "ptq4dm": {"engine": engine}})
        made = generate(**words)[0]
        assert torch.isfinite(made.latents).all()
        assert plan(resolve(words))["evaluations_per_picture"] == made.nfe
    plain = generate(**{**asked(place, plugin, told), "options": told})[0]
    assert not torch.equal(made.latents, plain.latents) and made.nfe == plain.nfe


def test_gradients_go_through_the_reference_alone(place: Path) -> None:
    reno = {"search": {"algorithm": "reno", "iterations": 2}}
    assert torch.isfinite(latents(asked(place, "ptq4dm,search", {**reno, "ptq4dm": {"engine": "simulate"}}))).all()
    for engine in ("torch", *(["openvino"] if executed.installed() else [])):
        with pytest.raises(UsageError, match="integers pass no gradient; use ptq4dm.engine=simulate"):
            latents(asked(place, "ptq4dm,search", {**reno, "ptq4dm": {"engine": engine}}))


def test_forward_products_are_refused(place: Path) -> None:
    options = {"lml": {"rank": 1, "products": "forward"}, "ptq4dm": {"engine": "simulate"}}
    with pytest.raises(UsageError, match="lml.products=forward fails on this model .*; use difference"):
        latents(asked(place, "ptq4dm,lml", options))


@pytest.mark.parametrize("engine", ENGINES)
def test_samplers_and_sizes_it_was_not_calibrated_for(place: Path, engine: str) -> None:
    mine = {"ptq4dm": {"engine": engine}}
    for more in ({"sampler": "dpmpp_2m"}, {"sampler": "euler"}, {"height": 32, "width": 32}, {"guidance_scale": 1.0}):
        plain = latents({**WORDS, "model": str(place / "sd"), **more})
        assert off(latents(asked(place, "ptq4dm", mine, **more)), plain) < 0.8


@pytest.mark.parametrize("engine", ENGINES)
def test_a_controlnet_joins(engine: Any, tmp_path: Path) -> None:
    pipeline = tiny_of("sd")
    opened: Any = adapt(pipeline, Ledger())
    controlnet("sd", pipeline).save_pretrained(tmp_path / "net")
    known = {"height": 32, "width": 32, "steps": 2, "guidance_scale": 2.0}
    model = opened.replace(name="tiny", recommended=known)
    made = PTQ4DMTrainer(pictures=16, candidates=10).train(job(tmp_path / "run", model))
    rounded = PTQ4DM(engine=engine, weights=str(made)).transform_model(model, resources(model))
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def drawn(each: Any) -> Tensor:
        view = each.view(controlnet=str(tmp_path / "net"), image=image)
        return Rollout(resources(model), view).latents(["red cube"], [3])

    without = Rollout(resources(model), rounded).latents(["red cube"], [3])
    assert off(drawn(rounded), drawn(model)) < 0.6 and off(drawn(rounded), without) > 0.01


# --- compile, caches, offload -----------------------------------------------------------------------------------------


def test_compile_is_passed_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[nn.Module] = []

    def compile(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        told.append(self)
        self._compiled_call_impl = self._call_impl

    monkeypatch.setattr(nn.Module, "compile", compile)
    made = latents(asked(place, "ptq4dm", {"ptq4dm": {"engine": "auto"}}, compile=True))
    assert len(told) == 2 and quantized_layers(told[1])  # auto takes an engine that can be compiled
    assert torch.equal(made, latents(asked(place, "ptq4dm")))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "simulate"])
def test_it_is_compiled(place: Path, engine: str) -> None:
    mine = {"ptq4dm": {"engine": engine}}
    made, plain = (latents(asked(place, "ptq4dm", mine, compile=compile)) for compile in (True, False))
    assert off(made, plain) < 0.1


@pytest.mark.parametrize("word", ["compile", "cache"])
def test_what_openvino_does_by_itself(place: Path, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executed, "installed", lambda: True)
    value = True if word == "compile" else "first_block"
    with pytest.raises(UsageError, match=f"{word}=: ptq4dm.engine=openvino .*leave one out, or take engine=torch"):
        latents(asked(place, "ptq4dm", {"ptq4dm": {"engine": "openvino"}}, **{word: value}))


def test_offload_is_refused(place: Path) -> None:
    with pytest.raises(GenbenchError, match="offload="):
        latents(asked(place, "ptq4dm", offload="model"))


def test_a_step_cache_on_a_transformer(tmp_path: Path) -> None:
    saved("flux", tmp_path / "flux")
    model = model_of("flux")
    made = PTQ4DMTrainer(pictures=16, candidates=10).train(job(tmp_path / "run", model))
    words = {**WORDS, "model": str(tmp_path / "flux"), "steps": 4, "guidance_scale": 1.0}
    options = {"ptq4dm": {"weights": str(made)}}
    plain = latents(
        {**words, "plugin": "ptq4dm", "options": options | {"ptq4dm": {**options["ptq4dm"], "engine": "torch"}}}
    )
    cached = latents({**words, "plugin": "ptq4dm", "options": options, "cache": "taylorseer:2"})
    assert not torch.equal(cached, plain) and off(cached, plain) < 0.5


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_has_the_matrix() -> None:
    page = (ROOT / "docs" / "ptq4dm.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `?([a-z][^|]*?)`? \| (works|refused)", page, re.MULTILINE)
    named = " ".join(name for name, _ in rows)
    for word in ("lora=", "compile=true", "cache=", "offload=", "npnet", "redenoise", "w2sd", "lml", "search", "sid"):
        assert word in named, word
