"""A complete external package: its contract here, and its wheel beside genbench's in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import venv
from importlib import import_module
from pathlib import Path

import pytest

from genbench.testing import check_plugin

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tests" / "third_party" / "genbench-halo"


def test_it_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PACKAGE / "src"))
    check_plugin(import_module("genbench_halo.step").Halo, "step")
    check_plugin(import_module("genbench_halo.scorer").HaloScorer, "scorer")


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env={**clean, **env}, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def environment(folder: Path) -> Path:
    """Make an environment with neither genbench nor plugins, which borrows torch and the rest from this one."""
    venv.create(folder, with_pip=True, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


@pytest.mark.slow
@pytest.mark.sockets
@pytest.mark.timeout(1800)
def test_its_wheel_works_in_an_environment_of_its_own(work: Path) -> None:
    source = shutil.copytree(PACKAGE, work / "source")
    bin = environment(work / "venv")
    for project in (ROOT, source):
        run(bin / "python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", work / "wheels", project, cwd=work)
    wheels = sorted((work / "wheels").glob("*.whl"))
    assert [wheel.name.partition("-")[0] for wheel in wheels] == ["genbench", "genbench_halo"]
    run(bin / "python", "-m", "pip", "install", "--no-deps", "--no-index", *wheels, cwd=work)

    where = run(bin / "python", "-c", "import genbench, genbench_halo; print(genbench.__file__)", cwd=work)
    assert Path(where.strip()).is_relative_to(work / "venv")
    listed = run(bin / "genbench", "plugins", cwd=work)
    assert [line.split()[:4] for line in listed.splitlines() if "genbench-halo" in line] == [
        ["halo", "scorer", "1.2.0", "genbench-halo"],
        ["halo", "step", "1.2.0", "genbench-halo"],
    ]
    checked = run(bin / "genbench", "plugins", "--check", "halo", cwd=work)
    assert checked.count("ok      halo") == 2
    page = run(bin / "genbench", "plugins", "halo", cwd=work)
    assert "halo.strength  = 0.5  number in [0, 1]  how far towards white; 0 is neutral" in page

    def made(*words: str) -> list[dict[str, object]]:
        said = run(bin / "genbench", "run", "model=toy", "prompt=blue", "seed=3", "format=json", *words, cwd=work)
        return [json.loads(line) for line in said.splitlines()]

    [plain], [ring], [found] = made(), made("plugin=halo"), made("plugin=halo,search", "verifier=halo")
    assert (work / str(ring["path"])).read_bytes() != (work / str(plain["path"])).read_bytes()
    assert ring["nfe"] == plain["nfe"] and found["nfe"] == 4 * int(str(plain["nfe"]))
    refused = subprocess.run(
        [bin / "genbench", "run", "model=toy", "plugin=halo", "halo.strength=2", "prompt=blue"],
        cwd=work, capture_output=True, text=True,
    )  # fmt: skip
    assert refused.returncode == 2
    assert refused.stderr.strip().endswith("halo.strength=2.0 is out of range: it is in [0, 1]")
    run(bin / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", source / "tests", cwd=source)
