"""The path from a request to a run folder: what is checked by name, what is recorded, what a run costs."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from genbench import runner
from genbench.errors import GenbenchError
from genbench.generation import Session
from genbench.request import resolve

TOY = {"model": "toy", "prompt": "red", "steps": 3}
HALO = """from __future__ import annotations
from dataclasses import dataclass, replace
from typing import ClassVar
from genbench.kinds import About

@dataclass(frozen=True)
class Halo:
    by: float = 0.5
    about: ClassVar[About] = About("Shifts the noise.")

    def transform_noise(self, start, ctx):
        return replace(start, noise=start.noise + self.by)
"""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"plugin": "serach"}, "no plugin 'serach'; did you mean 'search'"),
        ({"plugin": "toy"}, "'toy'"),
        ({"plugin": "./none.py:Halo"}, "plugin file './none.py:Halo' does not exist"),
        ({"sampler": "eulr"}, "did you mean 'euler'"),
        ({"verifier": "tyo"}, "no scorer 'tyo'; did you mean 'toy'"),
    ],
)
def test_names_are_checked_before_anything_loads(work: Path, words: dict[str, str], message: str) -> None:
    with pytest.raises(GenbenchError, match=message):
        runner.preflight(resolve({**TOY, **words}, files=False))


def test_what_a_run_records(work: Path) -> None:
    (work / "halo.py").write_text(HALO)
    totals = runner.Totals()
    asked = resolve({**TOY, "plugin": "./halo.py:Halo", "halo.by": "0.25", "num_images": 2}, files=False)
    made = list(runner.run(asked, totals))
    assert (totals.pictures, totals.evaluations) == (2, 12) and totals.folder == made[0][0].parent
    found = json.loads((totals.folder / "run.json").read_text())
    assert found["status"] == "done" and found["evaluations"] == 12 and len(found["images"]) == 2
    assert found["options"] == {"./halo.py:Halo": {"by": 0.25}} and found["origins"]["height"] == "model toy"
    assert set(found["timings"]) >= {"load", "total"}
    environment = found["environment"]
    assert environment["device"] == "cpu" and environment["dtype"] == "float32" and environment["threads"] == 1
    assert len(environment["model_hash"]) == 64 and environment["versions"]["torch"]
    sha = hashlib.sha256(HALO.encode()).hexdigest()
    content = hashlib.sha256(f"halo.py {sha}".encode()).hexdigest()[:12]
    assert environment["plugins"] == [{"word": "./halo.py:Halo", "file": "halo.py", "content": content}]
    assert environment["batch_size"] == 1


def test_the_rows_to_come(work: Path) -> None:
    def rows(**words: Any) -> int | None:
        return runner.rows_to_come(Session.open(resolve({**TOY, **words}, files=False)))

    assert rows(seeds="0..3") == 12 and rows(plugin="search") is None and rows(prompt="", prompts="-") is None


def test_recommended_settings_without_opening_a_model(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genbench.models.open_model", lambda *arguments: pytest.fail("a model was opened"))
    settled = runner.settled(resolve({"model": "toy", "prompt": "a", "plugin": "search"}, files=False))
    assert (settled.value("steps"), settled.origin("steps")) == (10, "model toy")
    assert settled.options["search"]["candidates"] == 4
    assert runner.settled(resolve({"model": "x/y", "prompt": "a"}, files=False)).value("steps") is None


def test_a_run_that_stops_keeps_its_pictures(work: Path) -> None:
    (work / "p.jsonl").write_text('{"prompt": "red", "height": 16}\n{"prompt": "red", "height": 7}\n')
    totals = runner.Totals()
    with pytest.raises(GenbenchError):
        list(runner.run(resolve({"model": "toy", "steps": 2, "prompts": "p.jsonl"}, files=False), totals))
    assert totals.pictures == 1 and totals.folder is not None
    assert json.loads((totals.folder / "run.json").read_text())["status"].startswith("stopped: UsageError")
