"""`genbench doctor`: every section says something true, and nothing that is broken breaks it."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
import torch

from genbench import doctor, listing, plugincheck
from genbench.cores import usable_cores
from genbench.kinds import CONTRACT

SECTIONS = ["versions", "processor", "devices", "threads", "environment", "extras", "plugins", "models"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer for the plugins without starting a process."""
    monkeypatch.setattr(plugincheck, "readiness", lambda rows: {rows[0].key: "ready", f"open {rows[-1].key}": "ready"})
    doctor._readiness.cache_clear()


def test_versions_and_machine_are_those_that_run() -> None:
    versions, devices, threads = doctor.versions(), doctor.devices(), doctor.threads()
    assert versions["python"] == platform.python_version() and versions["contract"] == CONTRACT
    assert versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert set(devices) >= {"cpu"} and ("gpu" in devices) != torch.cuda.is_available()
    assert threads["torch"] == torch.get_num_threads()


def test_the_instruction_sets_are_those_of_the_processor() -> None:
    found = doctor.processor()
    assert set(found) >= {"name", "cores", "memory_gib", "AVX2", "AVX-512", "VNNI", "AMX", "bf16"}
    assert found["cores"] == usable_cores()
    if "AVX512" in torch.backends.cpu.get_cpu_capability():
        assert found["AVX-512"] is True


def test_more_threads_than_cores_is_advised_against(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 999)
    assert "OMP_NUM_THREADS=" in doctor.threads()["advice"]


def test_the_environment_shows_what_matters_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GENBENCH_STEPS", "4")
    monkeypatch.setenv("UNRELATED", "x")
    found = doctor.environment()
    assert (found["HF_TOKEN"], found["HF_HUB_OFFLINE"], found["GENBENCH_STEPS"]) == ("(set)", "1", "4")
    assert "UNRELATED" not in found and "hf_very_secret" not in json.dumps(found)


def test_an_incomplete_extra_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    requires = [
        "torch>=2",
        "timm>=1; extra == 'eval'",
        "not-there>=1; extra == 'eval'",
        "genbench[eval]; extra == 'all'",
    ]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: requires)
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "not-there" else "1")
    assert doctor.extras() == {"eval": 'lacks not-there: pip install "genbench[eval]"'}


def test_cached_pipelines_are_told_whole_from_broken(tmp_path: Path) -> None:
    for name, parts in (("org--whole", ["unet", "vae"]), ("org--half", ["unet"])):
        snapshot = tmp_path / f"models--{name}" / "snapshots" / "abc"
        for part in parts:
            (snapshot / part).mkdir(parents=True)
        index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"]}
        (snapshot / "model_index.json").write_text(json.dumps({**index, "safety_checker": [None, None]}))
    assert doctor.cached_pipelines(tmp_path) == {
        "org/half": "StableDiffusionPipeline: lacks vae; download it again",
        "org/whole": "StableDiffusionPipeline, 0.0 GiB: ready",
    }


def test_the_hubs_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert doctor.hub_cache() == Path("/caches/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "/home/hf")
    assert doctor.hub_cache() == Path("/home/hf/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/elsewhere")
    assert doctor.hub_cache() == Path("/elsewhere")


@pytest.mark.parametrize("section", SECTIONS)
def test_a_failing_section_is_reported_and_the_others_are_shown(
    quick: None, monkeypatch: pytest.MonkeyPatch, section: str
) -> None:
    def fails() -> doctor.Section:
        raise RuntimeError("the driver is gone\nmore")

    monkeypatch.setattr(doctor, section, fails)
    found = doctor.report()
    assert list(found) == SECTIONS
    assert found[section] == {"error": "RuntimeError: the driver is gone"}
    assert not any("error" in each for name, each in found.items() if name != section)
    assert "the driver is gone" in doctor.text(found)


def test_it_prints_text_and_json(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line and not line.startswith(" ")] == SECTIONS
    assert doctor.main(["--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == SECTIONS


def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: str, **modules: str) -> None:
    info = tmp_path / "genbench_ill-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: genbench-ill\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    for name, source in modules.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("GENBENCH_LOAD_PLUGINS", "genbench-ill")


SOURCE = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from genbench.kinds import About

@dataclass(frozen=True)
class Bare:
    recommended: ClassVar[dict] = {}
    about: ClassVar[About] = About("A source without its weights.", contract=1)
    def open(self): return Path("weights")
"""


def test_readiness_goes_on_after_a_plugin_that_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = "[genbench.step]\na = ill_needs:A\nb = ill_dies:B\n[genbench.source]\nc = ill_bare:Bare\n"
    needs, dies = "import package_that_is_absent", "import os; os._exit(3)"
    site(tmp_path, monkeypatch, points, ill_needs=needs, ill_dies=dies, ill_bare=SOURCE)
    rows = {row.name: row for row in listing.rows()}
    found = plugincheck.readiness(tuple(rows.values()))
    assert found[rows["a"].key].endswith(
        "needs the package 'package_that_is_absent': pip install package_that_is_absent"
    )
    assert found[rows["b"].key] == f"lacks: {plugincheck.LOST}"
    assert found[rows["c"].key] == "ready"
    assert found[f"open {rows['c'].key}"] == "lacks: FileNotFoundError: weights/model_index.json is not there"
