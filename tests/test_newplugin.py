"""`genbench new-plugin`: every kind is written as a package whose test is green from the first minute."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from genbench import listing, newplugin
from genbench.errors import UsageError
from genbench.kinds import GROUPS
from genbench.testing import check_plugin

KINDS = [kind.name for kind in GROUPS]


@pytest.mark.parametrize("kind", KINDS)
def test_the_template_of_every_kind_keeps_its_contract(kind: str) -> None:
    check_plugin(import_module(f"genbench.templates.{kind}").Newname, kind)


def install(folder: Path, name: str) -> dict[str, str]:
    """Make the written package importable and its entry point visible, as an editable install does."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    points = [f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in each.items()) for group, each in groups]
    (info / "entry_points.txt").write_text("\n".join(points))
    return {**os.environ, "PYTHONPATH": str(folder.resolve()), "OMP_NUM_THREADS": "1"}


def green(folder: Path, env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout


@pytest.mark.parametrize("kind", ["step", "scorer"])
def test_a_new_package_is_green_from_the_first_minute(work: Path, kind: str) -> None:
    write_and_run(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"step", "scorer"}))
def test_a_new_package_of_any_kind_is_green_from_the_first_minute(work: Path, kind: str) -> None:
    write_and_run(kind)


def write_and_run(kind: str) -> None:
    assert newplugin.main(["my-halo", f"kind={kind}"]) == 0
    folder = Path("genbench-my-halo")
    env = install(folder, "my-halo")
    green(folder, env)
    code = "from genbench import listing; import sys; sys.exit(listing.main(['my-halo']))"
    page = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert page.stdout.startswith("my-halo 0.1.0, genbench-my-halo\n") and f"{kind} (" in page.stdout


def test_what_is_written_holds_no_trace_of_the_template() -> None:
    for kind in KINDS:
        made = newplugin.contents("best-of", kind)
        assert set(made) == {"genbench_best_of.py", "tests/test_best_of.py", "pyproject.toml", "README.md"}
        text = "".join(made.values())
        assert "newname" not in text.lower() and "@" not in text.replace("@dataclass", "")
        project = tomllib.loads(made["pyproject.toml"])["project"]
        assert project["name"] == "genbench-best-of" and project["license"] == "Apache-2.0"
        assert project["entry-points"] == {f"genbench.{kind}": {"best-of": "genbench_best_of:BestOf"}}
        assert "class BestOf:" in made["genbench_best_of.py"]
        assert 'contract_tests(BestOf, "' + kind in made["tests/test_best_of.py"]


def test_the_next_commands_are_said(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert newplugin.main(["halo", "kind=noise", "out=elsewhere"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == str(Path("elsewhere/genbench_halo.py")) and Path(said[0]).is_file()
    assert [line.strip() for line in said[-6:]] == [
        "next:", "cd elsewhere", "pip install -e .", "pytest", "genbench plugins halo",
        'genbench run model=toy plugin=halo prompt="red"',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["halo", "kind=stepp"], "there is no kind 'stepp'; did you mean 'step'?"),
        (["Halo!", "kind=step"], "'Halo!' is no plugin name: lower-case letters"),
        (["../halo", "kind=step"], "'../halo' is no plugin name"),
        (["none", "kind=step"], "'none' is no plugin name"),
        (["search", "kind=search"], "genbench has a search 'search' already; take another name"),
        (["halo", "kind=step", "out=taken"], "'taken' exists and is not written over"),
        (["halo", "kid=step"], "new-plugin has no 'kid='; did you mean 'kind'?"),
        (["halo"], "write: genbench new-plugin NAME kind=KIND"),
        (["halo", "ring", "kind=step"], "write: genbench new-plugin NAME kind=KIND"),
    ],
)
def test_wrong_words_write_nothing(work: Path, args: list[str], said: str) -> None:
    Path("taken").mkdir()
    with pytest.raises(UsageError) as caught:
        newplugin.main(args)
    assert str(caught.value).startswith(said)
    assert list(work.iterdir()) == [work / "taken"]


def test_the_help_names_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert newplugin.main(["--help"]) == 0
    assert all(kind in capsys.readouterr().out for kind in KINDS[:1])
    assert all(kind in newplugin.HELP for kind in KINDS)
    assert tuple(KINDS) == listing.ALL_KINDS
