"""Prompt files and standard input."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from genbench import prompts
from genbench.errors import MissingDependency, UsageError


def write(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_text_file_has_one_prompt_per_line_after_its_header(tmp_path: Path) -> None:
    word = write(tmp_path, "p.txt", '\ufeff# source: mine\n#\n\na, "b" = c\n# not a header\r\n  中文 🟥 \n\n')
    assert [row["prompt"] for row in prompts.read_rows(word)] == ['a, "b" = c', "# not a header", "  中文 🟥 "]


def test_jsonl_rows_keep_their_columns(tmp_path: Path) -> None:
    word = write(tmp_path, "p.jsonl", '{"source": "x"}\n{"prompt": "a", "steps": 3, "kind": "pair", "seed": null}\n')
    assert prompts.read_rows(word) == ({"prompt": "a", "steps": 3, "kind": "pair"},)


def test_csv_cells_may_hold_commas_quotes_and_newlines(tmp_path: Path) -> None:
    word = write(tmp_path, "p.csv", 'prompt,seed\n"a, ""b""\nc",7\nd,\n')
    assert prompts.read_rows(word) == ({"prompt": 'a, "b"\nc', "seed": "7"}, {"prompt": "d"})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("e.txt", "", "holds no prompt"),
        ("e.txt", "# only a header\n\n", "holds no prompt"),
        ("e.jsonl", '{"source": "x"}\n', "holds no prompt"),
        ("e.csv", "prompt\n", "holds no prompt"),
        ("b.txt", b"one\ntw\xff", r"b.txt is not UTF-8 at line 2 \(byte 0xff\)"),
        ("b.jsonl", '{"prompt": "a"}\n{"prompt"', "b.jsonl:2 is no JSON"),
        ("b.jsonl", '["a"]\n', "b.jsonl:1 is no JSON object"),
        ("b.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', "b.jsonl:2 has no text in a column 'prompt'; it has text"),
        ("b.jsonl", '{"prompt": 3}\n', "b.jsonl:1 has no text"),
        ("b.csv", "text\na\n", "b.csv:2 has no text in a column 'prompt'"),
        ("b.csv", "prompt\n" + "a" * 140_000, "b.csv is no readable table after line 1: field larger than"),
        ("b.csv", "prompt\na,b\n", "b.csv:2 has more cells than the header"),
        ("b.json", '{"prompt": "a"}', "b.json is no JSON list of prompts"),
        ("b.json", '["a", 3]', "b.json, entry 2 is no JSON object"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        prompts.read_rows(write(tmp_path, name, text))


def test_a_json_list_of_texts_or_objects(tmp_path: Path) -> None:
    word = write(tmp_path, "p.json", '["a", {"prompt": "b", "seed": 3}]')
    assert prompts.read_rows(word) == ({"prompt": "a"}, {"prompt": "b", "seed": 3})


def test_a_folder_of_text_files_is_one_prompt_each(tmp_path: Path) -> None:
    write(tmp_path, "b.txt", "a long prompt,\nover two lines\n")
    write(tmp_path, "a.txt", "short")
    write(tmp_path, "notes.md", "no prompt")
    assert prompts.read_rows(str(tmp_path)) == (
        {"prompt": "short", "item_id": "a"},
        {"prompt": "a long prompt, over two lines", "item_id": "b"},
    )


def test_parquet_without_its_pictures(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"prompt": "a", "seed": 3, "image": b"png", "note": None}, {"prompt": "b", "seed": None, "note": "x"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    found = prompts.read_rows(str(tmp_path / "p.parquet"))
    assert found == ({"prompt": "a", "seed": 3}, {"prompt": "b", "note": "x"})


def test_a_folder_of_lists_is_no_list(root: Path) -> None:
    with pytest.raises(UsageError, match="is a folder of lists; name one: general.jsonl, solids-scenes"):
        prompts.read_rows(str(root / "prompts"))


def test_a_suite_without_a_file() -> None:
    with pytest.raises(UsageError, match="write prompts=SUITE:FILE"):
        prompts.read_rows("geneval:")


def test_what_is_no_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(UsageError, match="p.parquet is no readable Parquet file"):
        prompts.read_rows(write(tmp_path, "p.parquet", b"prompt\na\n"))


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependency, match=r"pip install 'genbench\[eval\]'"):
        prompts.read_rows(write(tmp_path, "p.parquet", b""))


def test_a_file_of_a_data_set_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, asked = Path(write(tmp_path, "p.csv", "prompt\na\n")), list[object]()
    monkeypatch.setattr("genbench.hub.fetch", lambda *given, **named: (asked.append((*given, named)), file)[1])
    assert prompts.read_rows("hf:org/name/data/p.csv@main", True) == ({"prompt": "a"},)
    assert asked == [("hf:org/name/data/p.csv@main", True, {"kind": "dataset"})]


def test_a_hub_file_that_is_not_in_the_cache() -> None:
    with pytest.raises(UsageError, match=r"prompts='hf:org/name/p.csv' is not in the local cache.*fetch p.csv"):
        prompts.read_rows("hf:org/name/p.csv", offline=True)
    with pytest.raises(UsageError, match="names no file of the Hub"):
        prompts.read_rows("hf:p.csv")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none.txt does not exist"):
        prompts.read_rows(str(tmp_path / "none.txt"))
    with pytest.raises(UsageError, match="holds no prompt"):
        prompts.read_rows(str(tmp_path))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\n"), min_size=1).filter(str.strip),
        min_size=1,
    )
)
def test_lines_are_taken_literally(tmp_path: Path, lines: list[str]) -> None:
    word = write(tmp_path, "p.txt", "first\n" + "\n".join(lines))
    assert [row["prompt"] for row in prompts.read_rows(word)][1:] == lines


def test_standard_input_is_read_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO("one\r\n\n  \n两 = 2".encode())
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream))
    rows = prompts.stdin_rows()
    assert next(rows) == {"prompt": "one"} and stream.tell() == 5
    assert list(rows) == [{"prompt": "两 = 2"}]


def test_standard_input_that_is_no_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"one\n\xe9\n")))
    rows = prompts.stdin_rows()
    next(rows)
    with pytest.raises(UsageError, match="standard input is not UTF-8 at line 2"):
        next(rows)
