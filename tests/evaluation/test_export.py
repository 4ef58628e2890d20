"""Exports: tables that other programs read back, folders as official scorers walk them."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from genbench.errors import MissingDependency, UsageError
from genbench.evaluation import cli_main, export, layouts
from genbench.evaluation.store import Store

GENEVAL = [
    {"tag": "single_object", "include": [{"class": "cup", "count": 1}], "prompt": "red"},
    {"tag": "counting", "include": [{"class": "cup", "count": 2}], "exclude": [], "prompt": "blue"},
]
PLUGINS = """
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genbench.kinds import About


@dataclass(frozen=True)
class Refuses:
    about: ClassVar[About] = About("Refuses every model.")

    def transform_model(self, model, ctx):
        raise ValueError("not today")


@dataclass(frozen=True)
class Mean:
    about: ClassVar[About] = About("Mean colours.")

    def embed_images(self, images):
        return images.mean((2, 3))

    def embed_texts(self, texts):
        raise NotImplementedError
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two chains, two prompts and two seeds, scored; no test changes it."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "evaluation_metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GENEVAL))
    words = ["model=toy", "steps=2", f"prompts={folder / 'evaluation_metadata.jsonl'}", "seeds=0..1"]
    chains = [
        "chains=none; search; ./no.py:Refuses",
        "search.candidates=2",
        "metrics=toy,vendi",
        "encoder=./no.py:Mean",
    ]
    (folder / "no.py").write_text(PLUGINS)
    with contextlib.chdir(folder):
        assert cli_main("eval", [*words, *chains, "out=cmp"]) == 1
    return folder


@pytest.fixture
def run(made: Path, work: Path) -> Path:
    (work / "cmp").symlink_to(made / "cmp")
    return work


def exported(*words: str) -> int:
    return cli_main("export", ["cmp", *words])


def test_a_csv_holds_every_picture_with_its_settings_and_scores(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert exported("out=cmp.csv") == 0
    assert capsys.readouterr().out == "cmp.csv: 8 rows\n"
    with Path("cmp.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["chain"], row["prompt"], row["seed"]) for row in rows} == {
        (chain, prompt, seed) for chain in ("none", "search") for prompt in ("red", "blue") for seed in "01"
    }
    assert {row["settings.search.candidates"] for row in rows} == {"", "2"} and {r["settings.steps"] for r in rows} == {
        "2"
    }
    assert json.loads(rows[0]["row.include"]) == GENEVAL[0]["include"] and rows[0]["row.kind"] == "single_object"
    with Store("cmp") as store:
        (scores,) = (values for (name, detail), values in store.scores().items() if (name, detail) == ("toy", ""))
        by_key = {made.key: scores[made.image, made.asked] for made in store.pictures()}
    assert {row["key"]: float(row["toy"]) for row in rows} == by_key
    assert all(row["toy.version"].startswith("genbench") and (run / "cmp" / row["path"]).is_file() for row in rows)


def test_parquet_has_typed_columns(run: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    exported("out=cmp.parquet", "chain=search")
    table = parquet.read_table("cmp.parquet")
    assert table.num_rows == 4 and set(table["chain"].to_pylist()) == {"search"}
    assert [str(table.schema.field(name).type) for name in ("seed", "toy", "prompt")] == ["int64", "double", "string"]


def test_failures_and_sets(run: Path) -> None:
    exported("out=failures.csv", "table=failures")
    with Path("failures.csv").open(newline="") as file:
        failed = list(csv.DictReader(file))
    assert {(row["chain"], row["error"]) for row in failed} == {("./no.py:Refuses", "ValueError: not today")}
    assert len(failed) == 4
    exported("out=sets.csv", "table=sets", "chain=none")
    with Path("sets.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["metric"], row["encoder"], row["n"], row["reference"]) == ("vendi", "./no.py:Mean", "4", "")
    assert row["version"] and 1 <= float(row["value"]) <= 2


def test_mixed_columns_become_text() -> None:
    rows: list[dict[str, object]] = [{"a": 1, "b": True}, {"a": "x", "b": None, "c": [1]}]
    assert export.columns(rows) == {"a": ["1", "x"], "b": [True, None], "c": [None, "[1]"]}


def test_parquet_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingDependency, match="genbench\\[eval\\]"):
        export.to_parquet([{"a": 1}])


def test_geneval_as_its_scorer_walks_it(run: Path) -> None:
    """Every numeric folder has a metadata.jsonl that is one JSON object, and its pictures under samples/."""
    exported("out=geneval", "layout=geneval", "chain=none")
    folders = sorted(path.name for path in Path("geneval").iterdir() if path.name.isdigit())
    assert folders == ["00000", "00001"]
    for folder, row in zip(folders, GENEVAL, strict=True):
        assert json.loads(Path("geneval", folder, "metadata.jsonl").read_text()) == row
        names = sorted(path.name for path in Path("geneval", folder, "samples").iterdir())
        assert names == ["0000.png", "0001.png"] and all(re.match(r"\d+\.png", name) for name in names)
        for seed, name in enumerate(names):
            with Image.open(Path("geneval", folder, "samples", name)) as opened:
                told = json.loads(opened.text["genbench"])["picture"]  # type: ignore[attr-defined]
            assert (told["prompt"], told["seed"]) == (row["prompt"], seed)


def test_every_chain_has_its_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    exported("out=both", "layout=edm")
    assert capsys.readouterr().out == "both/none: 4 pictures of none\nboth/search: 4 pictures of search\n"
    assert sorted(p.relative_to("both").as_posix() for p in Path("both").rglob("*.png")) == [
        f"{chain}/000000/{number:06d}.png" for chain in ("none", "search") for number in range(4)
    ]


def test_edm_puts_a_thousand_into_a_folder() -> None:
    paths = [path.as_posix() for path, _ in layouts.edm([None] * 2001)]  # type: ignore[list-item]
    assert (paths[0], paths[999], paths[1000], paths[2000]) == (
        "000000/000000.png",
        "000000/000999.png",
        "001000/001000.png",
        "002000/002000.png",
    )


def test_without_links_pictures_are_copied(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refused)
    exported("out=edm", "layout=edm", "chain=none")
    assert len(list(Path("edm").rglob("*.png"))) == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["out=cmp.txt"], "neither .csv nor .parquet"),
        ([], "export needs export.out="),
        (["out=x.csv", "chain=nothing"], "chain=nothing is not in this store; it has none; search; "),
        (["out=cmp", "layout=edm"], "out=cmp exists and is not empty"),
        (["out=x", "layout=coco"], "none, geneval, edm"),
    ],
)
def test_what_cannot_be_exported(run: Path, words: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        exported(*words)


def test_geneval_needs_its_own_prompts(work: Path) -> None:
    (work / "p.txt").write_text("red\n")
    cli_main("eval", ["model=toy", "steps=2", "prompts=p.txt", "out=cmp"])
    with pytest.raises(UsageError, match="'red' has no 'tag': layout=geneval is for prompts"):
        exported("out=geneval", "layout=geneval")
    assert not Path("geneval").exists()
