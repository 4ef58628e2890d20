"""A run from words to pictures on the toy model: neutrality, batches, the ledger, broken pictures, the Python API."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image

import genbench
from genbench import cli, discovery, models
from genbench.errors import BrokenImage, ModelError, PluginError, UsageError
from genbench.generation import FileCache, Session, batched, generate, pictures, plan
from genbench.judging import options_of
from genbench.kinds import About
from genbench.request import resolve

TOY = {"model": "toy", "prompt": "red", "steps": 4}


def files(tmp_path: Any, name: str, source: str) -> str:
    path = tmp_path / f"{name}.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass, replace\nfrom typing import ClassVar\n"
        "from genbench.kinds import About\n\n\n" + source
    )
    return str(path)


SHIFT = """
@dataclass(frozen=True)
class Shift:
    by: float = 0.5
    about: ClassVar[About] = About("Shifts the noise.", neutral={"by": 0.0}, families=%s)

    def transform_noise(self, start, ctx):
        return replace(start, noise=start.noise + self.by)
"""
DISTILLED = """
@dataclass(frozen=True)
class Distilled:
    about: ClassVar[About] = About("A student with recommended settings.")

    def transform_model(self, model, ctx):
        return model.replace(recommended={**model.recommended, "steps": 1, "guidance_scale": 1.0})
"""
SAMPLER = """
@dataclass(frozen=True)
class Walk:
    about: ClassVar[About] = About("A sampler.")

    def schedule(self, steps, model, shape):
        return model.sampler.schedule(steps, model, shape)

    def step(self, state, denoise, ctx):
        return ctx.model.sampler.step(state, denoise, ctx)
"""
SCENE = """
import torch


@dataclass(frozen=True)
class Splat:
    about: ClassVar[About] = About("A scene optimiser.")

    def optimize(self, job):
        return self

    def render(self, cameras):
        return torch.full((len(cameras), 3, 8, 8), 0.5)

    def save(self, folder):
        return []
"""


def test_the_public_function_is_the_run() -> None:
    assert genbench.generate is generate
    (picture,) = generate(**TOY, seed=7)
    assert picture.image.shape == (3, 16, 16) and 0 <= float(picture.image.min()) <= float(picture.image.max()) <= 1
    assert picture.nfe == 4 * 2 and picture.seed == 7 and picture.prompt == "red"
    assert picture.resolved.origin("steps") == "command line" and picture.resolved.origin("height") == "model toy"
    assert picture.pil.size == (16, 16)


def test_every_setting_changes_the_picture() -> None:
    base = generate(**TOY)[0].image
    for change in ({"prompt": "blue"}, {"seed": 1}, {"steps": 5}, {"guidance_scale": 1}, {"negative_prompt": "orange"}):
        other = generate(**{**TOY, **change})[0].image
        assert not torch.equal(base, other), change


def test_seeds_and_prompts_multiply_and_batches_do_not_matter() -> None:
    alone = generate(**TOY, seeds="0..4", batch_size=1)
    together = generate(**TOY, seeds="0..4", batch_size=3)
    assert [picture.seed for picture in together] == [0, 1, 2, 3, 4]
    assert [picture.position for picture in together] == [0, 1, 2, 0, 1]
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(one.image, other.image, atol=1e-4) and one.nfe == other.nfe


def test_rows_of_a_prompt_file_override_settings(tmp_path: Any) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "red"}\n{"prompt": "blue", "steps": 2, "height": 24}\n{"prompt": "red", "seed": 3}\n')
    made = generate(model="toy", prompts=str(file), steps=4)
    assert [picture.nfe for picture in made] == [8, 4, 8]
    assert made[1].image.shape == (3, 24, 16)
    assert torch.allclose(made[2].image, generate(**TOY, seed=3)[0].image, atol=1e-5)


def test_a_neutral_plugin_changes_nothing_and_its_default_does(tmp_path: Any) -> None:
    plugin = files(tmp_path, "shift", SHIFT % "()")
    base = generate(**TOY)[0]
    neutral = generate(**TOY, plugin=(plugin,), options={"shift": {"by": "0"}})[0]
    shifted = generate(**TOY, plugin=(plugin,))[0]
    assert torch.equal(base.image, neutral.image) and not torch.equal(base.image, shifted.image)
    assert neutral.resolved.options[plugin] == {"by": 0.0}


def test_a_plugin_that_does_not_hold_for_the_model_is_refused(tmp_path: Any) -> None:
    plugin = files(tmp_path, "shift", SHIFT % '("sdxl",)')
    with pytest.raises(PluginError, match="toy.*sdxl"):
        generate(**TOY, plugin=(plugin,))


def test_a_model_transform_brings_its_settings_unless_they_are_typed(tmp_path: Any) -> None:
    plugin = files(tmp_path, "distilled", DISTILLED)
    assert generate(model="toy", prompt="red", plugin=(plugin,))[0].nfe == 1
    assert generate(model="toy", prompt="red", plugin=(plugin,), steps=3)[0].nfe == 3


def test_two_searches_are_refused_before_anything_runs() -> None:
    with pytest.raises(PluginError, match="at most one"):
        generate(**TOY, plugin="search,search")


def test_another_sampler_walks_to_the_same_colour() -> None:
    own = generate(**TOY, guidance_scale=1)[0].image.mean((1, 2))
    euler = generate(**{**TOY, "steps": 20}, guidance_scale=1, sampler="euler")[0].image.mean((1, 2))
    assert torch.allclose(own, euler, atol=0.15)


def test_plan_counts_what_a_run_then_spends() -> None:
    told = plan(resolve({**TOY, "plugin": "search", "search.candidates": 3, "seeds": "0..1"}))
    made = generate(**TOY, plugin="search", options={"search": {"candidates": 3}}, seeds="0..1")
    assert told["pictures"] == len(made) == 2
    assert told["plain_evaluations"] == 8
    assert told["evaluations_per_picture"] == made[0].nfe == 24
    assert told["evaluations"] == sum(picture.nfe for picture in made)


def test_plan_counts_rows_with_settings_of_their_own(tmp_path: Any) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "red"}\n{"prompt": "blue", "steps": 2}\n{"prompt": "red", "guidance_scale": 1}\n')
    words = {"model": "toy", "prompts": str(file), "steps": 4}
    assert plan(resolve(words))["evaluations"] == sum(picture.nfe for picture in generate(**words)) == 8 + 4 + 4


@pytest.mark.parametrize("more", [{}, {"plugin": "search", "search.candidates": 2}, {"seeds": "0..2", "batch_size": 2}])
def test_python_and_the_command_line_draw_the_same_pictures(work: Any, capsys: Any, more: dict[str, Any]) -> None:
    words = {**TOY, **more}
    assert cli.main(["run", "format=json", *(f"{name}={value}" for name, value in words.items())]) == 0
    files = [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()]
    made = generate(**words)
    assert len(files) == len(made)
    for file, picture in zip(files, made, strict=True):
        with Image.open(file) as saved:
            assert saved.tobytes() == picture.pil.tobytes()


def test_a_search_without_a_verifier_is_refused_before_anything_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "open_model", lambda *words: pytest.fail("the model was opened"))
    with pytest.raises(UsageError, match="verifier="):
        generate(model="./somewhere", prompt="red", plugin="search")


def test_a_sampler_word_beside_a_sampler_plugin_is_refused(tmp_path: Any) -> None:
    plugin = files(tmp_path, "walk", SAMPLER)
    with pytest.raises(UsageError, match="at most one"):
        generate(**TOY, plugin=(plugin,), sampler="euler")


def test_a_scene_is_shown_from_eight_sides(tmp_path: Any) -> None:
    (made,) = generate(**TOY, plugin=(files(tmp_path, "splat", SCENE),))
    assert made.scene is not None and made.image.shape == (3, 16, 32) and made.nfe == 0


def test_a_search_keeps_the_best_and_its_trace() -> None:
    picture = generate(**TOY, plugin="search", options={"search": {"candidates": 6}})[0]
    scores = [candidate["score"] for candidate in picture.trace]
    assert len(scores) == 6 and picture.score == max(scores)
    winner = picture.trace[scores.index(max(scores))]["seed"]
    assert torch.allclose(generate(**TOY, seed=winner)[0].image, picture.image, atol=1e-5)


@dataclass(frozen=True)
class Spoil:
    """Breaks the rows it is told to, as a VAE in half precision would."""

    rows: tuple[int, ...] = ()
    value: float = float("nan")
    about: ClassVar[About] = About("Breaks pictures.")

    def wrap_step(self, step, ctx):
        def spoiled(state, denoise):
            after = step(state, denoise)
            x = after.x.clone()
            x[list(self.rows)] = self.value
            return after.replace(x=x)

        return spoiled


def spoiled_run(spoil: Spoil) -> tuple[list[int], str]:
    """Draw seeds 0..2 in one batch with broken rows; returns the seeds that were kept and the error's message."""
    session = Session.open(resolve({**TOY, "seeds": "0..2", "batch_size": 3}))
    session.chain = replace(session.chain, steps=(spoil,))
    kept: list[int] = []
    with pytest.raises(BrokenImage) as caught:
        for picture in session.pictures(session.resolved.items()):
            kept.append(picture.seed)
    return kept, str(caught.value)


def test_broken_pictures_are_explained_and_the_others_kept() -> None:
    kept, message = spoiled_run(Spoil((1,)))
    assert kept == [0, 2]
    assert "seed 1" in message and "NaN" in message and "guidance_scale" in message


def test_constant_pictures_are_not_pictures() -> None:
    kept, message = spoiled_run(Spoil((0, 1, 2), 0.25))
    assert kept == [] and "3 pictures broke" in message and "constant" in message


def test_weights_are_built_once_and_hashed(tmp_path: Any) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"abc")
    noted: dict[str, str] = {}
    cache = FileCache(noted)
    first, second = (cache.load(word, lambda file: [file.name]) for word in (path, str(path)))
    assert first is second
    assert noted == {f"{tmp_path.name}/weights.bin": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    with pytest.raises(ModelError, match="nowhere"):
        cache.load(tmp_path / "nowhere", list)


def test_weights_may_be_a_file_of_the_hub(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"abc")
    asked: list[tuple[str, bool]] = []

    def fetch(word: str, local_only: bool) -> Path:
        asked.append((word, local_only))
        return path

    monkeypatch.setattr("genbench.hub.fetch", fetch)
    assert FileCache({}, local_only=True).load("hf:org/name/weights.bin", Path.read_bytes) == b"abc"
    assert asked == [("hf:org/name/weights.bin", True)]


def test_batched_yields_as_soon_as_full() -> None:
    source = iter(range(5))
    batches = batched(source, 2)
    assert next(batches) == [0, 1] and next(source) == 2
    assert list(batches) == [[3, 4]]


def test_options_of_a_plugin_that_does_not_run_are_refused() -> None:
    with pytest.raises(UsageError, match="search"):
        generate(**TOY, options={"search": {"candidates": 3}})


def test_pictures_come_one_by_one() -> None:
    made = pictures(resolve({**TOY, "seeds": "0..9"}))
    assert next(made).seed == 0
    made.close()


def test_plugin_words_are_found_in_metadata() -> None:
    assert discovery.find("search").kind == "search"


def test_a_row_has_its_own_options() -> None:
    rows = ({"prompt": "red", "search.candidates": 2}, {"prompt": "red"})
    resolved = resolve({"model": "toy", "steps": 2, "plugin": "search", "search.candidates": 3}, rows=rows)
    made = list(pictures(resolved))
    assert [len(picture.trace) for picture in made] == [2, 3]
    assert [picture.resolved.options["search"]["candidates"] for picture in made] == [2, 3]


def test_a_rows_wrong_option_stops_the_run_before_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genbench.models.open_model", None)
    rows = ({"prompt": "red"}, {"prompt": "red", "search.candidates": 0})
    with pytest.raises(UsageError, match="search.candidates=0"):
        next(pictures(resolve({"model": "toy", "plugin": "search"}, rows=rows)))


def test_a_word_that_is_plugin_and_verifier_gives_its_options_to_the_plugin() -> None:
    asked = resolve({**TOY, "plugin": "search", "verifier": "toy"})
    assert options_of(asked.with_options("toy", {"sharpness": 2}), "toy") == {"sharpness": 2}
    both = resolve({**TOY, "plugin": "search", "verifier": "search"})
    assert options_of(both.with_options("search", {"candidates": 2}), "search") == {}
