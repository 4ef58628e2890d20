"""README and docs/ say what is so: commands run, tables match the code, links lead somewhere."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from genbench import cli, fields
from genbench.discovery import plugin_class
from genbench.kinds import GROUPS
from genbench.request import Request
from genbench.testing import check_plugin

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# --- tables and links ---------------------------------------------------------------------------------------------


def _shown(default: object) -> str:
    if default is None or default in ("", ()):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _type(name: str) -> str:
    """A table cell: no column separator, and none is said by the empty default."""
    return name.removesuffix(" or none").replace(" | ", ", ")


def _options_table() -> list[str]:
    """One line per request field, as it stands in docs/options.md."""
    rows = [(each.option, each.help) for each in fields.described(Request)]
    return [f"| `{o.name}` | {_type(o.type)} | {_shown(o.default)} | {said} |" for o, said in rows]


def test_options_page_lists_every_word() -> None:
    lines = re.findall(r"^\| `[a-z_]+` \|.*\|$", _text("docs/options.md"), re.MULTILINE)
    assert lines == _options_table(), "\n".join(["docs/options.md should say:", *_options_table()])


def test_architecture_page_lists_every_kind() -> None:
    page = _text("docs/architecture.md")
    for kind in GROUPS:
        assert f"| `{kind.group}` | `{kind.method}` | {kind.law} |" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if not t.startswith("https://") and not (page.parent / t).exists()]
    assert not missing


def test_index_lists_every_page() -> None:
    index = _text("docs/index.md")
    assert not [
        page.name for page in (ROOT / "docs").glob("*.md") if page.name != "index.md" and page.name not in index
    ]


# --- commands -----------------------------------------------------------------------------------------------------

README = _text("README.md")
SET_UP = (
    'pip install uv && uv run genbench run plugin=npnet prompt="a red cube left of a blue sphere"',
    "pip install uv && uv run pytest",
)


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _commands() -> Iterator[str]:
    """Every genbench command line of the README, in order, as it is typed after `uv run`."""
    written = re.findall(r"^```sh\n(.*?)^```$|`((?:uv run )?genbench [^`]*)`", README, re.MULTILINE | re.DOTALL)
    for line in (line for block, inline in written for line in (block or inline).splitlines()):
        command = line.removeprefix("pip install uv && ").removeprefix("uv run ")
        if command.startswith("genbench ") and "..." not in command:
            yield command


def _place(folder: Path) -> None:
    """Lay out what the README's reader has: the prompt files, and the plugin file that the page shows."""
    shutil.copytree(ROOT / "prompts", folder / "prompts")
    for block in _blocks("python"):
        named = re.match(r"# (\w+\.py)\n", block)
        if named:
            (folder / named[1]).write_text(block, encoding="utf-8")


def _words(command: str, folder: Path) -> list[str]:
    """Split as a shell does, patterns expanded."""
    words = shlex.split(command)[1:]
    return [found for word in words for found in ([str(p) for p in sorted(folder.glob(word))] or [word])]


def test_set_up_is_two_commands_and_ci_runs_the_second() -> None:
    assert tuple(re.findall(r"^pip install.*$", README, re.MULTILINE)) == SET_UP
    assert re.search(r"^uv run pytest$", _text(".ci/run"), re.MULTILINE)


def test_there_are_commands() -> None:
    verbs = {command.split()[1] for command in _commands()}
    assert {"run", "show", "rerun", "eval", "report", "plugins", "doctor"} <= verbs


def _for_toy(word: str) -> str:
    """The toy has colours and no text embeddings: its own scorer, and the method that needs no weights."""
    return word.replace("metrics=solids-exact", "metrics=toy").replace("npnet", "redenoise")


def test_every_command_runs_on_the_toy(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, one after the other, in one folder; what the README leaves to the default model is the toy.

    `doctor` starts a process per thing it looks at; it is left to the slow test.
    """
    _place(work)
    monkeypatch.setenv("GENBENCH_MODEL", "toy")
    for command in (command for command in _commands() if command != "genbench doctor"):
        words = [_for_toy(word) for word in _words(command, work)]
        assert cli.main(words) == 0, command


def test_python_snippets_run_on_the_toy(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_MODEL", "toy")
    for block in _blocks("python"):
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert (work / "best.png").is_file()


def test_the_smallest_plugin_holds_the_contract(work: Path) -> None:
    _place(work)
    check_plugin(plugin_class("./late_guidance.py:LateGuidance").cls, "step")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_runs_as_written(work: Path) -> None:
    """By a shell, with the default model, each in a process of its own."""
    if "solids" not in {point.name for point in entry_points(group="genbench.source")}:
        pytest.skip("the embedded model is not installed")
    _place(work)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in _commands():
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    pictures = list(work.glob("outputs/**/*.png"))
    assert len(pictures) > 12
