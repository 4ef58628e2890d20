"""Every mistake a user can make is one line that says what is wrong, with its exit code, and leaves nothing behind."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from genbench import models
from genbench.cli import main
from tests.tiny import saved

HEAD = """from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from genbench.kinds import About
"""
SAMPLER = """
@dataclass(frozen=True)
class {name}:
    strength: float = 1.0
    about: ClassVar[About] = About("A sampler.")
    def schedule(self, steps, model, shape): ...
    def step(self, state, denoise, ctx): ...
"""
Refused = Callable[[list[str], int, str], str]


@pytest.fixture
def refused(work: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run `genbench run`, check code, message and that no run folder is left; returns the line."""

    def check(words: list[str], code: int, message: str) -> str:
        assert main(["run", *words]) == code
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("genbench: ") and err.count("\n") == 1, err
        assert message in err
        assert [path.name for path in (work / "outputs").rglob("*") if path.is_file()] == []
        return err

    return check


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*arguments: object) -> None:
        pytest.fail("a model was opened")

    monkeypatch.setattr(models, "open_model", opened)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("sd", tmp_path_factory.mktemp("models") / "sd")


SIZED = ["prompt=a", "steps=1", "guidance_scale=2", "height=16", "width=16"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps=0"], "steps=0 is out of range: it is in [1, 1000000]"),
        (["guidance_scale=nan"], "guidance_scale=nan is out of range: it is a finite number"),
        (["guidance=nan"], "there is no word 'guidance'; did you mean 'guidance_scale'?"),
        (["seed=-1"], "seed=-1 is out of range"),
        (["seed=9223372036854775808"], "seed=9223372036854775808 is out of range: it is in [0, 9223372036854775807]"),
        (["seeds=5..1"], "a range goes upwards"),
        (["height=0"], "height=0 is out of range"),
        (["seed=1", "seed=2"], "seed= is given twice"),
        (["prompt=caf\udce9"], "'prompt=caf\\udce9' is not UTF-8"),
        (["prompts=empty.txt"], "prompts=empty.txt holds no prompt; write one per line"),
        (["prompts=missing.txt"], "prompts=missing.txt does not exist"),
        (["prompts=latin.txt"], "latin.txt is not UTF-8 at line 2 (byte 0xe9)"),
    ],
)
def test_words_and_files(work: Path, refused: Refused, no_weights: None, words: list[str], message: str) -> None:
    (work / "empty.txt").write_text("\n\n")
    (work / "latin.txt").write_bytes(b"a\ncaf\xe9\n")
    refused(["model=toy", *words], 2, message)


# --- plugins ------------------------------------------------------------------------------------------------------


def test_two_samplers(work: Path, refused: Refused, no_weights: None) -> None:
    (work / "two.py").write_text(HEAD + SAMPLER.format(name="One") + SAMPLER.format(name="Two"))
    line = refused(["model=toy", "prompt=a", "plugin=./two.py:One,./two.py:Two"], 3, "at most one")
    assert "one" in line and "two" in line


def test_a_plugin_file_that_does_not_parse(work: Path, refused: Refused, no_weights: None) -> None:
    (work / "bad.py").write_text("class Bad(:\n")
    refused(["model=toy", "prompt=a", "plugin=./bad.py:Bad"], 3, "bad.py:1")
    refused(["model=toy", "prompt=a", "plugin=./none.py:Bad"], 3, "none.py")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("one.strenght=2", "has no option 'strenght'; did you mean 'strength'"),
        ("one.strength=strong", "one.strength=strong is not a number"),
        ("two.strength=1", "has no 'two'"),
    ],
)
def test_options_of_plugins(work: Path, refused: Refused, no_weights: None, word: str, message: str) -> None:
    (work / "one.py").write_text(HEAD + SAMPLER.format(name="One"))
    refused(["model=toy", "prompt=a", "plugin=./one.py:One", word], 2, message)


# --- models -------------------------------------------------------------------------------------------------------


def test_an_unknown_model(refused: Refused) -> None:
    assert "toy" in refused(["model=tyo", "prompt=a"], 4, "model='tyo'")
    refused(["model=./none", "prompt=a"], 4, "model='./none' does not exist")


def test_a_folder_that_is_no_pipeline(work: Path, refused: Refused) -> None:
    (work / "empty").mkdir()
    refused(["model=./empty", *SIZED], 4, "model_index.json")


def test_weights_that_are_cut_off(work: Path, refused: Refused, folder: Path) -> None:
    for source in sorted(folder.rglob("*")):
        target = work / "cut" / source.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file():
            target.write_bytes(source.read_bytes())
    weights = next((work / "cut" / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(["model=./cut", *SIZED], 4, weights.name)
    (work / "one.safetensors").write_bytes(b"\xff" * 50)
    refused(["model=./one.safetensors", *SIZED], 4, "one.safetensors")


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("trapped",))


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin"])
def test_a_pickle_is_refused_unopened(work: Path, refused: Refused, name: str) -> None:
    (work / name).write_bytes(pickle.dumps(Trap()))
    refused([f"model=./{name}", *SIZED], 4, name)
    assert not (work / "trapped").exists()


def test_a_size_that_does_not_fit_the_model(refused: Refused, folder: Path) -> None:
    refused([f"model={folder}", *SIZED[:-2], "height=17", "width=16"], 2, "17")


# --- allowed ------------------------------------------------------------------------------------------------------


def test_an_empty_prompt_is_said(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "model=toy", "steps=1", "prompt="]) == 0
    assert capsys.readouterr().err.count("genbench: warning: the prompt is empty") == 1


def test_a_prompt_of_100_000_characters_is_cut_with_a_warning(
    work: Path, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    prompt = "red cube " * 11_112
    assert main(["run", f"model={folder}", *SIZED[1:], f"prompt={prompt}"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("genbench: warning: ") and "cut" in err and len(err) < 1000, err[:2000]
    (path,) = work.rglob("*.png")
    assert main(["rerun", str(path)]) == 0
    assert main(["show", str(path)]) == 0
    assert prompt in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(work: Path, refused: Refused, no_weights: None) -> None:
    (work / "file").write_text("")
    refused(["model=toy", "prompt=a", "out=file"], 8, "could not be written")
