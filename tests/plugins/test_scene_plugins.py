"""The scene methods as plugins: the contract on the toy model, and whole runs from words to files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from genbench.cli import main
from genbench.errors import GenbenchError
from genbench.generation import generate
from genbench.kinds import About
from genbench.scenes.files import read_gaussians
from genbench.testing import check_plugin
from genbench.testing.toyrun import toy_context
from genbench_asd import ASD
from genbench_sds import CSD, SDS, VSD
from genbench_tsm import ISM, TSM

QUICK = {"iterations": "3", "batch": "1", "count": "20", "frames": "8", "size": "32"}
TOY = {"model": "toy", "prompt": "red", "seed": "3"}
FILES = ["scene.ply", "turntable.mp4", "turntable.gif", "views.png", "viewer.html"]


@pytest.mark.parametrize("cls", [ASD, TSM, ISM, SDS, CSD])
def test_contract(cls: type) -> None:
    check_plugin(cls, "scene", **QUICK)


@pytest.mark.parametrize("cls", [ASD, TSM, ISM, SDS, CSD, VSD])
def test_it_says_what_it_is(cls: Any) -> None:
    about: About = cls.about
    assert about.url.startswith("https://arxiv.org/abs/") and "camera and iteration" in about.cost


@pytest.mark.parametrize(("cls", "each"), [(ASD, 3), (SDS, 2), (CSD, 2), (VSD, 4)])
def test_it_says_what_it_costs(cls: Any, each: int) -> None:
    assert cls(iterations=10, batch=3).evaluations(0, toy_context((1,))) == 30 * each


def run(folder: Path, *words: str, plugin: str = "asd") -> int:
    options = [f"{plugin}.{name}={value}" for name, value in QUICK.items()]
    base = [f"{name}={value}" for name, value in TOY.items()]
    return main(["run", f"plugin={plugin}", f"out={folder}", *base, *options, *words])


def only(folder: Path) -> Path:
    (found,) = folder.glob("*/*/run.json")
    return found.parent


def test_a_run_leaves_a_scene_and_can_be_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    folder, said = only(tmp_path), capsys.readouterr().out
    assert sorted(each.name for each in folder.iterdir()) == sorted([*FILES, "run.json"])
    assert "scene.ply, turntable.mp4" in said and "9 network evaluations" in said
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "done" and record["evaluations"] == 9 and record["images"][0]["files"] == [
        "scene.ply", "turntable.mp4", "turntable.gif", "views.png", "viewer.html"
    ]  # fmt: skip
    assert record["options"]["asd"]["iterations"] == 3 and record["request"]["guidance_scale"] == 7.5
    assert main(["rerun", str(folder / "views.png"), f"out={tmp_path / 'again'}"]) == 0
    assert (only(tmp_path / "again") / "scene.ply").read_bytes() == (folder / "scene.ply").read_bytes()


def test_several_scenes_have_folders_of_their_own(tmp_path: Path) -> None:
    assert run(tmp_path, "num_images=2") == 0
    folder = only(tmp_path)
    assert all((folder / name / "scene.ply").is_file() for name in ("0000-seed3", "0001-seed4"))
    assert len(json.loads((folder / "run.json").read_text())["images"]) == 2


def test_a_plan_counts_the_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{name}={value}" for name, value in TOY.items()]
    assert main(["run", "--dry-run", "plugin=asd", "asd.iterations=10", *words]) == 0
    assert "120" in capsys.readouterr().out


def test_the_function_gives_a_scene(tmp_path: Path) -> None:
    (made,) = generate(**TOY, plugin="asd", options={"asd": QUICK})
    assert made.scene is not None and made.image.shape == (3, 512, 1024) and made.nfe == 9
    assert made.scene.save(tmp_path)[0].name == "scene.ply"
    assert len(read_gaussians(tmp_path / "scene.ply")) == 20


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["asd.init=nowhere.ply"], "nowhere.ply"),
        (["asd.engine=gsplat"], "gsplat"),
        (["asd.elevation_deg=40,10"], "smaller number first"),
        (["asd.camera_distance=0,1"], "above 0"),
        (["asd.view_words=front,back"], "view_words"),
        (["asd.iterations=0"], "out of range"),
        (["plugin=asd,tsm"], "at most one"),
        (["plugin=asd,w2sd"], "leaves no step"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = {**TOY, "plugin": "asd", "out": str(tmp_path)}
    given = {**base, **dict(word.split("=", 1) for word in words)}
    assert main(["run", *(f"{name}={value}" for name, value in given.items())]) > 0
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not list(tmp_path.rglob("*.ply"))


def test_a_scene_that_breaks_keeps_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def penalty(self: ASD, *_: object) -> torch.Tensor:
        calls.append(1)
        return torch.tensor(float("nan") if len(calls) == 3 else 0.0)

    monkeypatch.setattr(ASD, "penalty", penalty)
    assert run(tmp_path) == 10
    folder = only(tmp_path)
    assert len(read_gaussians(folder / "scene.ply")) == 20
    assert json.loads((folder / "run.json").read_text())["status"].startswith("stopped: SceneError: iteration 3")


def test_resume_needs_a_run_that_was_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    folder = only(tmp_path)
    for path, more, said in (
        (folder, [], "is done"),
        (folder / "views.png", [], "give its folder"),
        (folder, ["seed=4"], "leave seed= out"),
    ):
        capsys.readouterr()
        assert main(["rerun", str(path), "resume=true", *more]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_goes_on_in_the_same_bits(tmp_path: Path) -> None:
    words = [f"{name}={value}" for name, value in {**TOY, "plugin": "asd", "asd.count": 50, "asd.batch": 1}.items()]
    command = [sys.executable, "-c", SAVING, "run", *words, "asd.iterations=60", f"out={tmp_path}"]
    running = subprocess.Popen(command)
    deadline = time.monotonic() + 240
    while not list(tmp_path.rglob("checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    folder = only(tmp_path)
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
    assert main(["rerun", str(folder), "resume=true"]) == 0
    assert json.loads((folder / "run.json").read_text())["images"][0]["nfe"] == 180
    assert main(["run", *words, "asd.iterations=60", f"out={tmp_path / 'whole'}"]) == 0
    assert (only(tmp_path / "whole") / "scene.ply").read_bytes() == (folder / "scene.ply").read_bytes()


SAVING = """
import sys
from genbench.scenes import optimising
optimising.Optimisation.save_seconds = 0.0
init = optimising.Optimisation.__init__
def every(self, *given, **named):
    init(self, *given, **{**named, "save_seconds": 0.0})
optimising.Optimisation.__init__ = every
from genbench.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_errors_of_a_scene_are_genbenchs() -> None:
    with pytest.raises(GenbenchError):
        generate(**TOY, plugin="asd", options={"asd": {**QUICK, "init": "nowhere.ply"}})
