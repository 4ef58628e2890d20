"""docs/evaluation.md and docs/prompts.md say what is so: their commands run, their tables name what exists."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from genbench import cli, prompts
from genbench.evaluation import export, layouts
from genbench.evaluation.words import Words
from genbench.prompt_suites import SUITES
from genbench.request import CHOSEN_BY_ROW, PER_ROW

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "docs" / name for name in ("evaluation.md", "prompts.md")]


def commands(page: Path) -> list[str]:
    """Return the indented command lines, continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if re.match(r" {4}(cat \S+ \| )?genbench ", line)]


def place(folder: Path) -> None:
    """The suites of genbench cut to three prompts, and one prompt in GenEval's layout."""
    shutil.copytree(ROOT / "prompts", folder / "prompts")
    for path in (folder / "prompts").iterdir():
        path.write_text("\n".join(path.read_text().splitlines()[:4]) + "\n")
    row = {"tag": "single_object", "include": [{"class": "cup", "count": 1}], "prompt": "a photo of a cup"}
    (folder / "evaluation_metadata.jsonl").write_text(json.dumps(row) + "\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_runs_on_the_toy(page: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(work)
    monkeypatch.setenv("GENBENCH_MODEL", "toy")
    monkeypatch.setenv("GENBENCH_STEPS", "2")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"red\nblue\n")))
    ran = []
    for line in commands(page):
        words = shlex.split(line.partition("| ")[2] or line)[1:]
        words = [re.sub("^metrics=.*", "metrics=toy", word) for word in words if word not in ("model=...", "workers=2")]
        assert cli.main(words) == 0, line
        ran.append(words[0])
    assert set(ran) >= ({"eval", "score", "report", "export"} if page.stem == "evaluation" else {"run", "eval"})


def test_the_page_names_every_word_table_and_layout() -> None:
    page = PAGES[0].read_text(encoding="utf-8")
    shown = set(re.findall(r"^\| `(\w+)=", page, re.MULTILINE))
    assert {field.name for field in fields(Words)} - {"encoder"} <= shown and "encoder=" in page
    assert {f"table={name}" for name in export.TABLES} <= set(re.findall(r"`(table=\w+)`", page))
    assert set(layouts.LAYOUTS) == set(re.findall(r"^\| `(geneval|edm|\w+)` \| `0", page, re.MULTILINE))


def test_the_page_names_every_format_suite_and_column() -> None:
    page = PAGES[1].read_text(encoding="utf-8")
    assert set(SUITES) == set(re.findall(r"^\| `([\w-]+)` \(arXiv", page, re.MULTILINE))
    assert set(prompts.READERS) - {".ndjson"} <= set(re.findall(r"`(\.\w+)`", page))
    assert {f"`{name}`" for name in (*PER_ROW, *CHOSEN_BY_ROW) if name != "prompt"} <= set(re.findall(r"`\w+`", page))
    listed = re.findall(r"^\| `prompts/([\w.-]+)` \| ([\d,]+) ", page, re.MULTILINE)
    counts = {path.name: len(prompts.read_rows(str(path))) for path in (ROOT / "prompts").iterdir()}
    assert {name: int(count.replace(",", "")) for name, count in listed} == counts
