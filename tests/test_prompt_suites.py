"""Published prompt suites as they are published: columns and file names as in the original repositories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genbench import prompt_suites, prompts
from genbench.errors import UsageError
from genbench.prompts import Row

GENEVAL = [
    {
        "tag": "two_object",
        "include": [{"class": "cup", "count": 1}, {"class": "dog", "count": 1}],
        "prompt": "a photo of a cup and a dog",
    },
    {
        "tag": "counting",
        "include": [{"class": "bench", "count": 2}],
        "exclude": [{"class": "bench", "count": 3}],
        "prompt": "a photo of two benches",
    },
]


@pytest.fixture
def read(tmp_path: Path):
    def read(name: str, text: str, suite: str = "") -> tuple[Row, ...]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return prompts.read_rows(f"{suite}{path}")

    return read


def test_partiprompts(read) -> None:
    text = 'Prompt\tCategory\tChallenge\tNote\nan owl\tAnimals\tBasic\t\n"Go" on a sign, seen\tArts\tWriting\ta note\n'
    assert read("PartiPrompts.tsv", text) == (
        {"prompt": "an owl", "kind": "Animals", "challenge": "Basic"},
        {"prompt": '"Go" on a sign, seen', "kind": "Arts", "challenge": "Writing", "note": "a note"},
    )


@pytest.mark.parametrize("head", ["Prompts,Category", "prompts,category"])
def test_drawbench(read, head: str) -> None:
    assert read("d.csv", f'{head}\n"A cube, on a ball.",Positional\nA car.,Colors\n') == (
        {"prompt": "A cube, on a ball.", "kind": "Positional"},
        {"prompt": "A car.", "kind": "Colors"},
    )


def test_geneval_keeps_what_its_scorer_needs(read) -> None:
    rows = read("evaluation_metadata.jsonl", "".join(json.dumps(row) + "\n" for row in GENEVAL))
    assert rows == tuple({**row, "kind": row["tag"]} for row in GENEVAL)


@pytest.mark.parametrize(
    ("name", "added"),
    [
        ("color_val.txt", {"kind": "color"}),
        ("3d_spatial.txt", {"kind": "3d_spatial"}),
        ("complex_val_spatial.txt", {"kind": "complex_spatial"}),
        ("texture_val_unseen.txt", {"kind": "texture", "unseen": True}),
        ("shape_val_seen.txt", {"kind": "shape", "unseen": False}),
    ],
)
def test_t2i_compbench_is_chosen_by_its_word(read, name: str, added: dict[str, object]) -> None:
    assert read(name, "a red cup\n", "t2i-compbench:") == ({"prompt": "a red cup", **added},)
    assert read(name, "a red cup\n") == ({"prompt": "a red cup"},)


def test_t2i_compbench_as_a_folder(read, tmp_path: Path) -> None:
    read("all/color_val.txt", "a red cup\na green cup\n")
    read("all/spatial_val.txt", "a cup on a box\n")
    rows = prompts.read_rows(f"t2i-compbench:{tmp_path / 'all'}")
    assert [(row["kind"], row["prompt"]) for row in rows] == [
        ("color", "a red cup"),
        ("color", "a green cup"),
        ("spatial", "a cup on a box"),
    ]


def test_hpdv2_as_a_file_and_as_a_folder(read, tmp_path: Path) -> None:
    assert read("hpd/anime.json", '["a fox", "a crane"]', "hpdv2:")[1] == {"prompt": "a crane", "kind": "anime"}
    read("hpd/concept-art.json", '["a castle"]')
    rows = prompts.read_rows(str(tmp_path / "hpd"))
    assert [(row["kind"], row["prompt"]) for row in rows] == [
        ("anime", "a fox"),
        ("anime", "a crane"),
        ("concept-art", "a castle"),
    ]


def test_dpg_bench_as_a_folder_and_as_its_table(read, tmp_path: Path) -> None:
    read("dpg/COCOval_1.txt", "A long text.\n")
    expected = {"prompt": "A long text.", "item_id": "COCOval_1"}
    assert prompts.read_rows(str(tmp_path / "dpg")) == (expected,)
    assert prompts.read_rows(f"dpg-bench:{tmp_path / 'dpg'}") == (expected,)
    head = "item_id,text,keywords,proposition_id,dependency,category_broad,question_natural_language\n"
    questions = "".join(f"COCOval_1,A long text.,,{n},0,entity,Is there a text?\n" for n in (1, 2))
    (row,) = read("dpg.csv", f"{head}{questions}")
    assert (row["prompt"], row["item_id"]) == ("A long text.", "COCOval_1")


def test_a_suite_that_the_file_is_not(read) -> None:
    with pytest.raises(
        UsageError, match="x.csv:2 is not as drawbench is published: it has no column category, prompts"
    ):
        read("x.csv", "text\na\n", "drawbench:")


def test_a_word_without_a_suite_is_a_place() -> None:
    assert prompt_suites.split("geneval:a:b.jsonl") == ("geneval", "a:b.jsonl")
    assert prompt_suites.split("hf:org/name/p.csv") == ("", "hf:org/name/p.csv")
    assert prompt_suites.split("C:/p.txt") == ("", "C:/p.txt")


# --- the suites that come with genbench ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((Path(__file__).resolve().parent.parent / "prompts").iterdir()), ids=str)
def test_a_suite_says_its_licence_and_holds_no_prompt_twice(path: Path) -> None:
    assert "Apache-2.0" in path.read_text(encoding="utf-8").split("\n", 2)[path.suffix == ".txt"]
    texts = [row["prompt"] for row in prompts.read_rows(str(path))]
    assert len(texts) == len(set(texts)) > 3


def test_the_general_suite_has_ten_prompts_of_each_kind(root: Path) -> None:
    rows = prompts.read_rows(str(root / "prompts" / "general.jsonl"))
    kinds = [row["kind"] for row in rows]
    assert len(rows) == 110 and {kinds.count(kind) for kind in kinds} == {10}
