"""`genbench plugins`: a table from metadata, one plugin's page, and the check that isolates broken plugins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genbench import listing, plugincheck
from genbench.errors import PluginError, UsageError

GLOW = """
from dataclasses import dataclass, field
from typing import ClassVar
from genbench.kinds import About

@dataclass(frozen=True)
class Glow:
    strength: float = field(default=1.0, metadata={"range": (0.0, 2.0), "help": "how much it glows"})
    hard: bool = False  # sharp edges
    about: ClassVar[About] = About(
        "Makes it glow.", contract=1, paper="A. Author, Glow", url="https://example.org/glow", license="MIT",
        families=("toy",), cost="2 x plain", neutral={"strength": 0.0},
    )
    recommended = {"steps": 4}

    def wrap_step(self, step, ctx):
        return step

    def transform_noise(self, start, ctx):
        return start
"""
TWO_KINDS = "[genbench.step]\nglow = glow_listed:Glow\n[genbench.noise]\nglow = glow_listed:Glow\n"


def install(site: Path, distribution: str, points: str, **modules: str) -> None:
    info = site / f"{distribution.replace('-', '_')}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(points)
    for name, source in modules.items():
        (site / f"{name}.py").write_text(source)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed distributions, seen by this process and its children; only those in it are loaded."""
    folder = tmp_path / "site"
    install(folder, "genbench-glow", TWO_KINDS, glow_listed=GLOW)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("GENBENCH_LOAD_PLUGINS", "genbench-glow,genbench-other,genbench-bad")
    return folder


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert listing.main(args) == 0
    return capsys.readouterr().out


def test_the_table_comes_from_metadata_alone(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys).splitlines() == [
        "name  kind         what it is",
        "glow  noise, step  Makes it glow.",
        "",
        "all from genbench-glow 1.5",
    ]
    assert "glow_listed" not in sys.modules


def test_the_table_imports_neither_torch_nor_a_plugin(site: Path) -> None:
    code = "import sys; from genbench import listing; listing.main([]); print('glow_listed' in sys.modules, 'torch' "
    code += "in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"


def test_a_clash_is_marked_with_the_word_that_picks_one(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    install(site, "genbench-other", "[genbench.step]\nglow = other_listed:Glow\n", other_listed=GLOW)
    head, *lines = printed(capsys).splitlines()
    assert head.split() == ["name", "kind", "version", "distribution", "what", "it", "is"]
    assert [[part.strip() for part in line.split("  ") if part][2:] for line in lines] == [
        ["1.5", "genbench-glow", "(shipped twice; this one is genbench-glow:glow)", "Makes it glow."],
        ["1.5", "genbench-other", "(shipped twice; this one is genbench-other:glow)", "Makes it glow."],
    ]


@pytest.mark.parametrize(("columns", "says"), [("32", "Makes it …"), ("33", "Makes it glow."), ("20", "")])
def test_what_a_plugin_is_is_cut_to_the_terminals_width(
    columns: str, says: str, site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert printed(capsys).splitlines()[1] == f"glow  noise, step  {says}".rstrip()


def test_nothing_installed_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GENBENCH_LOAD_PLUGINS", "")
    assert printed(capsys) == "no plugin is installed\n"


def test_a_page_shows_options_with_types_ranges_defaults_and_the_citation(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        printed(capsys, "glow")
        == """\
glow 1.5, genbench-glow
Makes it glow.

  glow.strength  = 1.0    number in [0.0, 2.0]  how much it glows
  glow.hard      = false  true | false          sharp edges

kind         noise (a chain, left to right; after a search's proposals)
             step (a chain, leftmost innermost; called once per trajectory)
cost         2 x plain
families     toy
predictions  all
neutral      glow.strength=0.0
brings       steps=4
licence      MIT
paper        A. Author, Glow
             https://example.org/glow
"""
    )


def test_a_file_has_a_page_too(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("glow.py").write_text(GLOW)
    assert printed(capsys, "./glow.py:Glow").startswith("glow (a file), ./glow.py:Glow\nMakes it glow.\n")


def test_json_holds_everything(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [row] = json.loads(printed(capsys, "--json"))
    assert row == {
        "name": "glow", "kinds": ["noise", "step"], "version": "1.5", "distribution": "genbench-glow",
        "value": "glow_listed:Glow", "clash": False, "summary": "Makes it glow.",
    }  # fmt: skip
    [page] = json.loads(printed(capsys, "glow", "--json"))
    assert page["about"]["paper"] == "A. Author, Glow" and page["recommended"] == {"steps": 4}
    assert page["options"][0] == {
        "name": "strength", "type": "number", "range": "in [0.0, 2.0]", "default": 1.0, "required": False,
        "help": "how much it glows",
    }  # fmt: skip


def test_unknown_names_and_flags_stop_with_the_nearest(site: Path) -> None:
    with pytest.raises(PluginError, match="'glwo'; did you mean 'glow'"):
        listing.main(["glwo"])
    with pytest.raises(PluginError, match="'glwo'; did you mean 'glow'"):
        listing.main(["glwo", "--check"])
    with pytest.raises(UsageError, match="--chek"):
        listing.main(["--chek"])


BAD = {
    "raises": ("raise RuntimeError('boom')", "could not be imported: RuntimeError: boom"),
    "exits": ("import os; os._exit(7)", "the process that imported it was ended with exit code 7"),
    "killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was killed by signal 9"),
    "talks": ("print('noise on stdout')\n1 / 0", "could not be imported: ZeroDivisionError: division by zero"),
}


def test_check_imports_each_in_its_own_process_and_shows_the_broken(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = "[genbench.step]\n" + "".join(f"{name} = wreck_{name}:Bad\n" for name in BAD)
    install(site, "genbench-bad", points, **{f"wreck_{name}": source for name, (source, _) in BAD.items()})
    assert listing.main(["--check", "--json"]) == 1
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert {name: found[name]["error"].endswith(said) for name, (_, said) in BAD.items()} == dict.fromkeys(BAD, True)
    assert "error" not in found["glow"] and found["glow"]["about"]["license"] == "MIT"
    assert not any(name.startswith("wreck_") for name in sys.modules)
    assert listing.verdict(found["raises"]).startswith("BROKEN  raises (step; genbench-bad 1.5)\n")
    assert "licence: MIT; cost: 2 x plain; families: toy" in listing.verdict(found["glow"])


def test_a_plugin_that_hangs_is_given_up(site: Path) -> None:
    install(site, "genbench-bad", "[genbench.step]\nslow = wreck_slow:Bad\n", wreck_slow="import time; time.sleep(60)")
    [found] = plugincheck.check(listing.rows("slow"), seconds=2.0)
    assert found["error"] == "its import did not end within 2 s"


def test_check_of_sound_plugins_ends_well(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--check", "glow").startswith("ok      glow (noise, step; genbench-glow 1.5)\n")
