"""Run folders, run.json and what a picture says of its making."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genbench import files, record
from genbench.errors import OutputError
from genbench.record import Run
from genbench.request import Item, Request, Resolved

ENVIRONMENT = {"versions": {"torch": "2.10"}, "sampler": "DDIMScheduler", "model_hash": "31768bfe48aabb", "threads": 1}


@dataclass(frozen=True)
class Fake:
    """A finished picture without a model."""

    item: Item
    resolved: Resolved
    batch: tuple[Item, ...]
    position: int = 0
    nfe: int = 60
    seconds: float = 0.25
    score: float | None = None
    trace: tuple[Mapping[str, object], ...] = ()
    scene: None = None

    @property
    def pil(self) -> Any:
        noise = np.random.default_rng(self.item.seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        return Image.fromarray(noise)


def finished(resolved: Resolved, position: int = 0, **more: Any) -> Fake:
    items = tuple(resolved.items())
    return Fake(items[position], resolved, items, position, **more)


def resolved(**words: Any) -> Resolved:
    settings = {"prompt": "a red cube", "steps": 30, "guidance_scale": 5.0, "height": 16, "width": 24, "seed": 7}
    return Resolved(Request(**{**settings, **words}))


def texts(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        image.load()
        return {key: value for key, value in image.info.items() if isinstance(value, str)}


def test_a_run_has_a_folder_of_its_own(work: Path) -> None:
    asked = resolved(prompt="Ein Würfel, rot: (1.2)!" + " sehr" * 50)
    first, second = Run.create(asked), Run.create(asked)
    assert first.folder != second.folder and first.folder.parent.parent == Path("outputs")
    assert first.folder.name.removeprefix(f"{first.began:%H%M%S}-").startswith("ein-wurfel-rot-1-2-sehr")
    assert len(first.folder.name) <= 50
    assert first.folder.parent.name == f"{first.began:%Y-%m-%d}"
    assert json.loads((first.folder / "run.json").read_text())["status"] == "running"


@pytest.mark.parametrize(
    ("words", "slug"),
    [
        ({"prompt": "../../etc/passwd"}, "etc-passwd"),
        ({"prompt": "红色"}, "pictures"),
        ({"prompt": ""}, "pictures"),
        ({"prompt": "", "prompts": "x/my file.txt"}, "my-file"),
        ({"prompt": "", "prompts": "-"}, "stdin"),
    ],
)
def test_folder_names_are_safe(words: dict[str, str], slug: str) -> None:
    assert record.slug(resolved(**words)) == slug


def test_pictures_are_named_and_complete(work: Path) -> None:
    run = Run.create(resolved(), "run")
    run.environment = ENVIRONMENT
    path = run.save(
        finished(resolved(), score=0.5, trace=({"seed": 7, "score": 0.5}, {"seed": 8, "score": float("nan")}))
    )
    run.save(finished(resolved(seed=9)))
    run.write("done")
    assert sorted(each.name for each in run.folder.iterdir()) == ["0000-seed7.png", "0001-seed9.png", "run.json"]
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), np.asarray(finished(resolved()).pil))
    written = json.loads((run.folder / "run.json").read_text())
    assert (written["schema"], written["status"], written["evaluations"]) == (1, "done", 120)
    assert written["environment"] == ENVIRONMENT and written["request"]["steps"] == 30
    assert written["images"][0]["file"] == "0000-seed7.png" and written["images"][0]["score"] == 0.5
    assert written["images"][0]["trace"][1] == {"seed": 8, "score": "nan"}


def test_the_two_texts_of_a_picture(work: Path) -> None:
    run = Run.create(resolved(plugin="search", negative_prompt="blurry", model="a/b/solids"))
    run.environment = ENVIRONMENT
    found = texts(run.save(finished(run.resolved)))
    *lines, last = found["parameters"].split("\n")
    assert lines == ["a red cube", "Negative prompt: blurry"]
    assert last.startswith("Steps: 30, Sampler: DDIM, CFG scale: 5, Seed: 7, Size: 24x16, Model hash: 31768bfe48, ")
    assert "Model: solids, Plugins: search, RNG: CPU, Version: " in last
    own = json.loads(found["genbench"])
    assert own["schema"] == record.SCHEMA and own["picture"]["nfe"] == 60 and own["plugins"] == ["search"]
    assert own["environment"]["model_hash"] == "31768bfe48aabb" and own["batch"][0]["prompt"] == "a red cube"


@pytest.mark.parametrize(
    ("level", "keys"), [("none", set()), ("basic", {"parameters"}), ("full", {"parameters", "genbench"})]
)
def test_metadata_can_be_left_out(work: Path, level: str, keys: set[str]) -> None:
    run = Run.create(resolved(metadata=level))
    assert set(texts(run.save(finished(run.resolved)))) == keys


def test_the_home_folder_is_never_told(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = "/home/ann"
    monkeypatch.setattr(Path, "home", lambda: Path(home))
    asked = resolved(prompt=f"a folder {home}/x", model=f"{home}/models/m", lora=(f"{home}/l.safetensors:0.5",))
    asked = asked.with_options("p", {"weights": Path(home) / "w.pt", "other": "/home/anna/x"})
    run = Run.create(asked)
    found = texts(run.save(finished(asked)))
    run.write("done")
    for text in (found["genbench"], (run.folder / "run.json").read_text()):
        assert home not in text.replace(f"a folder {home}/x", "").replace("/home/anna", "")
        assert "~/models/m" in text and "~/l.safetensors:0.5" in text and "~/w.pt" in text and "/home/anna/x" in text
    assert home not in found["parameters"].replace(f"a folder {home}/x", "")


def test_values_that_json_does_not_know() -> None:
    torchlike = np.arange(3)
    assert record.plain({"a": float("inf"), "b": (Path("x"), None, True), "c": torchlike, "d": np.zeros(100)}) == {
        "a": "inf",
        "b": ["x", None, True],
        "c": [0, 1, 2],
        "d": "100 values",
    }


def test_a_full_disk_keeps_what_was_saved(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.create(resolved())
    kept = run.save(finished(run.resolved))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", full)
        with pytest.raises(OutputError, match="0001-seed7.png could not be written: the disk is full"):
            run.save(finished(run.resolved))
    assert [path.name for path in run.folder.glob("*.png")] == [kept.name] and len(run.images) == 1
    with Image.open(kept) as image:
        image.verify()
    run.discard()
    assert kept.exists()


def test_a_run_without_pictures_can_be_discarded(work: Path) -> None:
    run = Run.create(resolved())
    run.discard()
    assert not run.folder.exists()


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
import importlib.util
spec = importlib.util.spec_from_file_location("fakes", sys.argv[2])
fakes = importlib.util.module_from_spec(spec)
sys.modules["fakes"] = fakes
spec.loader.exec_module(fakes)
fakes.record.SECONDS_BETWEEN = 0.0
asked = fakes.resolved()
run = fakes.Run.create(asked)
for _ in range(int(sys.argv[3])):
    run.save(fakes.finished(asked))
    print("saved", flush=True)
"""


def writer(root: Path, count: int) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", WRITER, str(root), __file__, str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def check_every_picture(folder: Path) -> int:
    pictures = sorted(folder.rglob("*.png"))
    for path in pictures:
        assert "genbench" in texts(path)
    for path in folder.rglob("run.json"):
        assert json.loads(path.read_text())["schema"] == 1
    return len(pictures)


def test_two_processes_write_at_once(work: Path, root: Path) -> None:
    both = [writer(root, 8) for _ in range(2)]
    assert [process.communicate(timeout=120)[0].count("saved") for process in both] == [8, 8]
    assert len(list(work.rglob("run.json"))) == 2 and check_every_picture(work) == 16


def test_a_killed_process_leaves_no_half_picture(work: Path, root: Path) -> None:
    chance = random.Random(0)
    for _ in range(3):
        process = writer(root, 10_000)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    assert check_every_picture(work) >= 3
