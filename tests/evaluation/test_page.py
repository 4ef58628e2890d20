"""report.html of a real comparison: structure, escaping, what it holds and what it does not reach for."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from genbench.evaluation import cli_main, page, thumbnails
from genbench.evaluation.numbers import styles
from genbench.evaluation.page import filled, json_text
from genbench.evaluation.report import report
from genbench.evaluation.store import Store
from tests.evaluation.comparison import EVIL, Reader, compare


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compare(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / page.FILE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(text: str) -> Reader:
    return Reader(text)


def test_every_section_is_there_and_linked(read: Reader) -> None:
    names = {"summary", "comparisons", "cost", "kinds", "failures", "gallery", "settings", "again", "methods"}
    assert names <= read.ids
    inside = [link for link in read.links if link.startswith("#")]
    assert {link[1:] for link in inside} == names


def test_what_a_user_wrote_is_shown_and_not_run(text: str, read: Reader) -> None:
    assert read.tags["script"] == 3 and read.handlers == []  # one block of small pictures, the data, the page's own
    assert read.tags["img"] == 1 and read.tags["i"] == read.tags["b"] == 0
    assert EVIL in {row[0] for row in read.data["rows"]} and "<b>one</b>" in read.data["kinds"]
    assert "no <i>red</i> here" in read.text and "On <b>red</b>" in read.text
    assert "<script>document" not in text and "javascript:" not in text


def test_only_the_pages_own_script_may_run(text: str, read: Reader) -> None:
    own = base64.b64encode(hashlib.sha256(read.scripts["script"].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None and f"script-src 'sha256-{own}'" in policy[1] and "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1].replace("style-src 'unsafe-inline'", "")


def test_the_page_needs_nothing_from_elsewhere(text: str, read: Reader) -> None:
    cited = [link for link in read.links if not link.startswith("#")]
    assert cited and all(link.startswith("https://") for link in cited) and read.tags["link"] == 0
    assert "url(" not in text and "@import" not in text and "fetch(" not in text


def test_rows_hold_every_picture_of_a_prompt_and_seed(folder: Path, read: Reader) -> None:
    data = read.data
    assert data["chains"][:2] == ["none steps=2", "search"] and data["chains"][3] == "none steps=4"
    assert [(row[0], row[1]) for row in data["rows"]][:2] == [("red", 0), ("red", 1)] and len(data["rows"]) == 6
    cells = [cell for row in data["rows"] for cell in row[3]]
    assert [cell is None for cell in cells].count(True) == 2  # Fragile drew no red
    assert all((folder / cell[0]).is_file() for cell in cells if cell)
    assert {cell[1] for cell in cells if cell} == {4, 8, 12}


def test_small_pictures_are_in_the_page(read: Reader) -> None:
    lines = read.scripts["b0"].split("\n")
    cells = [cell for row in read.data["rows"] for cell in row[3] if cell]
    assert {cell[3] for cell in cells} == set(range(len(lines)))
    for line in lines:
        with Image.open(io.BytesIO(base64.b64decode(line))) as small:
            assert small.format == "WEBP" and max(small.size) <= thumbnails.EDGE


def test_the_numbers_are_those_of_the_report(folder: Path, read: Reader) -> None:
    with Store(folder) as store:
        found = report(store)
    for line in found.lines:
        style = styles(found.lines)[line.metric]
        told = (*style.value(line.estimate), *(style.difference(line.difference) if line.difference else ()))
        assert all(each in read.text for each in told), told
    tested = [line.signs for line in found.lines if line.signs and line.group == "all"]
    assert all(f"{each.wins}–{each.ties}–{each.losses}" in read.text for each in tested) and tested
    assert "3 ×" in read.text  # three candidates cost three times as much


def test_settings_versions_licences_and_papers_are_told(read: Reader) -> None:
    for told in (
        "guidance_scale",
        "verifier, metric",
        "torch 2.",
        "Ma et al.",
        "code Apache-2.0",
        "weights CC0-1.0",
        "Licences of the prompts: CC0",
    ):
        assert told in read.text, told


def test_the_commands_make_the_same_pictures_again(
    folder: Path, read: Reader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    commands = re.findall(r"genbench eval [^\n]*", read.text)
    assert len(commands) == 2  # two numbers of steps
    for command in commands:
        program, verb, *words = shlex.split(command)
        assert program == "genbench" and cli_main(verb, words) in (0, 1)
    with Store(folder) as first, Store(folder / "again") as second:
        assert first.done() == second.done()
        assert first.scores() == second.scores()


def test_an_empty_store_makes_a_page(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        path = page.save(store, report(store), ("kind",))
    read = Reader(path.read_text())
    assert read.data["rows"] == [] and "gallery" not in read.ids and not (tmp_path / "report-prompts.jsonl").exists()


def test_a_prompt_cannot_fill_the_template_nor_leave_its_json() -> None:
    assert filled("{{a}} {{b}}", {"a": "{{b}}", "b": "x"}) == "{{b}} x"
    packed = json_text({"prompt": "</script><!-- \u2028"})
    assert "<" not in packed and "\u2028" not in packed
