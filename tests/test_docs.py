"""docs/writing-a-plugin.md says what is so: its commands run in order in an empty folder, its table is the contract."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from genbench import cli
from genbench.discovery import plugin_class
from genbench.kinds import GROUPS
from genbench.testing import check_plugin

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "writing-a-plugin.md").read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """Return the lines of every `sh` block, in order."""
    return [line for block in blocks(page, "sh") for line in block.splitlines()]


def write_files(page: str, folder: Path) -> None:
    """Write each Python block whose first line is `# name.py` to that file."""
    for block in blocks(page, "python"):
        named = re.match(r"# (\w+\.py)\n", block)
        if named:
            (folder / named[1]).write_text(block, encoding="utf-8")


def test_the_table_names_every_kind_method_and_law() -> None:
    for kind in GROUPS:
        row = re.search(rf"^\| [^|]+ \| `{kind.name}` \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
        assert row is not None, kind.name
        assert f"{kind.method}(" in row[1] and row[2] == kind.law


def test_the_file_on_the_page_keeps_the_contract(work: Path) -> None:
    write_files(PAGE, work)
    check_plugin(plugin_class("./halo.py:Halo").cls, "step")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do in this process what `pip install -e .` does: put the package and its entry points on the path."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    points = [f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in each.items()) for group, each in groups]
    (info / "entry_points.txt").write_text("\n".join(points))
    monkeypatch.syspath_prepend(str(folder.resolve()))


def test_every_genbench_command_of_the_page_runs(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; what pip and pytest do is left to the slow test."""
    write_files(PAGE, work)
    ran = []
    for line in commands(PAGE):
        verb, *words = shlex.split(line)
        if verb == "cd":
            monkeypatch.chdir(words[0])
        elif verb == "genbench" and "--check" not in words:
            assert cli.main(words) == 0, line
            ran.append(words[0])
        elif line == "pip install -e .":
            install(Path.cwd(), monkeypatch)
    assert ran == ["run", "run", "run", "plugins", "new-plugin", "plugins", "run", "run"]
    assert len(list(work.glob("**/outputs/**/*.png"))) == 5


def environment(folder: Path) -> dict[str, str]:
    """Make an environment into which pip may install; it borrows everything else, genbench too, from this one."""
    venv.create(folder, with_pip=True, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    borrowed = [sysconfig.get_path("purelib"), str(ROOT), str(ROOT / "plugins")]
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    script = folder / "bin" / "genbench"
    script.write_text(f"#!{folder / 'bin' / 'python'}\nimport sys\nfrom genbench.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**clean, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(folder)}


@pytest.mark.slow
@pytest.mark.sockets
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("bash") is None, reason="the page's commands are written for a shell")
def test_every_command_of_the_page_runs_as_written(work: Path) -> None:
    env = environment(work / "venv")
    folder = work / "empty"
    folder.mkdir()
    write_files(PAGE, folder)
    script = "set -e\n" + "\n".join(commands(PAGE))
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(folder.glob("genbench-glow/dist/genbench_glow-0.1.0-*.whl"))
    assert "ok      glow (step; genbench-glow 0.1.0)" in done.stdout
