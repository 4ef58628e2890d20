"""docs/scorers.md says what is so: commands run, or stop for weights that are not here; tables match the code."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from genbench import cli, discovery, fields
from genbench.errors import ModelError, UsageError

PAGE = (Path(__file__).parents[2] / "docs" / "scorers.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (genbench .*)$", PAGE.replace("\\\n", " "), re.MULTILINE)
SCORERS = PAGE.partition("## Ensembles")[0]
PUBLISHED = ("clip", "aesthetic", "pickscore", "hpsv2", "imagereward", "vqascore")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_or_stop_for_weights(
    command: str, work: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root / "prompts", work / "prompts")
    monkeypatch.setenv("GENBENCH_MODEL", "toy")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(work / "empty"))
    verb, *words = shlex.split(command)[1:]
    fetches = verb != "plugins" and "hpsv2" in command
    stopped = UsageError if verb == "eval" else ModelError  # eval says which of its chains cannot be drawn
    assert cli.main([verb, *words]) == (stopped.exit_code if fetches else 0)
    assert ("hpsv2.weights=FILE" in capsys.readouterr().err) == fetches
    assert not list(work.glob("outputs/**/*.png")) if fetches else True


def test_there_are_commands() -> None:
    assert [command.split()[1] for command in COMMANDS] == ["plugins", "run", "eval", "run"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_has_every_scorer_with_its_options_and_licence(name: str) -> None:
    loaded = discovery.plugin_class(name, ("scorer",))
    (row,) = re.findall(rf"^\| `{name}` \|.*\|$", SCORERS, re.MULTILINE)
    *_, needs, licence, _ = row.split("|")
    options = fields.options_of(loaded.cls)
    for option in re.findall(rf"`{name}\.(\w+)`", needs):
        assert option in options
        where = str(options[option].default).removeprefix("hf:")
        assert name == "aesthetic" or where.split("/")[1] in needs, where
    assert licence.strip() in loaded.about.license
    assert loaded.about.paper and loaded.about.url.startswith("https://")


def test_options_of_the_ensemble_are_its_fields() -> None:
    named = re.findall(r"^\| `ensemble\.(\w+)` \|", PAGE, re.MULTILINE)
    assert named == list(fields.options_of(discovery.plugin_class("ensemble", ("scorer",)).cls))


def test_every_shipped_judge_declares_how_it_resizes_and_the_page_says_the_same() -> None:
    """All but the toy's, which takes pictures of any size as they are."""
    table = PAGE.partition("## How pictures are resized")[2].partition("\n## ")[0]
    rules = {
        name: rule.strip()
        for names, rule in re.findall(r"^\| (`.*?) \| (.*) \|$", table, re.MULTILINE)
        for name in re.findall(r"`([\w-]+)`", names)
    }
    judges = [entry for kind in ("scorer", "encoder") for entry in discovery.entries(kind)]
    shipped = {entry.name: entry for entry in judges if entry.distribution == "genbench" and entry.name != "toy"}
    declared = {name: getattr(discovery.load_class(entry), "resize", "") for name, entry in shipped.items()}
    assert declared == rules and all(rules.values())
    assert not any(mark in rule for rule in rules.values() for mark in ("{", ";")), "marks that a version is parted at"
