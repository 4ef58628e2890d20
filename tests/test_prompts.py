"""Prompt files and standard input."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from genbench import prompts
from genbench.errors import UsageError


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
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        prompts.read_rows(write(tmp_path, name, text))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none.txt does not exist"):
        prompts.read_rows(str(tmp_path / "none.txt"))
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
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
