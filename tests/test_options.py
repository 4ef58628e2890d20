"""Words and their types."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from hypothesis import given, settings, strategies as st

from genbench.errors import UsageError
from genbench.options import Range, check_utf8, coerce, convert, options, parse_words, short, split_flags, type_name

if TYPE_CHECKING:
    from torch import Tensor

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))


@dataclass(frozen=True)
class Example:
    scale: Annotated[float, Range(0, 1)]
    steps: Annotated[int, Range(1)] | None = None
    words: tuple[str, ...] = field(default_factory=tuple)
    hidden: int = field(default=0, init=False)


@dataclass(frozen=True)
class Unreadable:
    x: Tensor


@settings(deadline=None)
@given(TEXT)
def test_the_value_is_everything_after_the_first_equals_sign(text: str) -> None:
    assert parse_words([f"prompt={text}", "seed=1"]) == {"prompt": text, "seed": "1"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a red cube"], r"'a red cube' is no key=value word; a prompt is given as prompt=\"a red cube\""),
        (["=3"], "'=3' is no key=value word"),
        (["seed=1", "seed=2"], "seed= is given twice"),
        (["prompt=caf\udce9"], r"'prompt=caf\\udce9' is not UTF-8 at character 10"),
    ],
)
def test_words_that_are_none(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_words(argv)


def test_flags_are_told_from_words() -> None:
    assert split_flags(["--dry-run", "prompt=--x", "steps=3"], ("--dry-run",)) == (
        frozenset({"--dry-run"}),
        ["prompt=--x", "steps=3"],
    )
    with pytest.raises(UsageError, match="there is no flag --dryrun; did you mean '--dry-run'"):
        split_flags(["--dryrun"], ("--dry-run", "--help"))


READ: list[tuple[str, Any, Any]] = [
    ("7", int, 7),
    ("-7", int, -7),
    ("7", float, 7.0),
    ("1e-3", float, 1e-3),
    ("TRUE", bool, True),
    ("no", bool, False),
    ("1", bool, True),
    ("off", bool, False),
    ("none", int | None, None),
    ("none", str, "none"),
    ("None", str | None, None),
    ("a,b", tuple[str, ...], ("a", "b")),
    ("1, 2", tuple[int, int], (1, 2)),
    ("1,2", list[float], [1.0, 2.0]),
    ("", tuple[str, ...], ()),
    ("Two", Literal["one", "two"], "two"),
    ("2", Literal[1, 2], 2),
    ("x/y", Path, Path("x/y")),
    ("auto", int | str, "auto"),
    ("3", int | str, 3),
    ("0.5", Annotated[float, Range(0, 1)] | None, 0.5),
]


@pytest.mark.parametrize(("text", "annotation", "value"), READ)
def test_text_is_read_as_its_type(text: str, annotation: Any, value: Any) -> None:
    read = coerce(text, annotation, "x")
    assert read == value and type(read) is type(value)
    assert convert(value, annotation, "x") == value


REFUSED: list[tuple[object, Any, str]] = [
    ("7.0", int, "x=7.0 is not a whole number"),
    ("１", int, "is not a whole number"),
    ("1_000", int, "is not a whole number"),
    ("", int, "x= is not a whole number"),
    ("fast", float, "x=fast is not a number"),
    ("maybe", bool, "x=maybe is neither true nor false"),
    ("none", int, "x=none is not a whole number"),
    ("three", Literal["one", "two"], "x=three: it is one of one, two"),
    ("1,2,3", tuple[int, int], "x takes 2 values, got 3"),
    ("1,b", tuple[int, ...], "x=b is not a whole number"),
    ("1.5", Annotated[float, Range(0, 1)], r"x=1.5 is out of range: it is in \[0, 1\]"),
    ("0", Annotated[float, Range(0, low_open=True)], "x=0.0 is out of range: it is above 0"),
    ("nan", Annotated[float, Range()], "x=nan is out of range: it is a finite number"),
    ("-inf", Annotated[float, Range(high=1)], "it is at most 1"),
    ("9" * 400, Annotated[int, Range(0, 9)], "is out of range"),
    (True, int, "x=True is not a whole number"),
    (2.5, int, "x=2.5 is not a whole number"),
    (1, bool, r"x=1 is not one of true \| false"),
    (7, str, "x=7 is not a text"),
    ([1, "b"], tuple[int, ...], "x=b is not a whole number"),
    (None, int, "x=None is not a whole number"),
    ("x", dict[str, int], "x cannot be given as text"),
]


@pytest.mark.parametrize(("value", "annotation", "message"), REFUSED)
def test_what_is_not_of_its_type_is_refused(value: object, annotation: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        convert(value, annotation, "x")
    assert "\n" not in str(error.value)


def test_options_are_the_fields() -> None:
    found = options(Example)
    assert list(found) == ["scale", "steps", "words"]
    assert found["scale"].default is dataclasses.MISSING and found["words"].default == ()
    assert found["steps"].range == Range(1) and str(found["steps"].range) == "at least 1"
    assert found["steps"].type == "whole number or none"


def test_a_type_that_only_type_checkers_see_is_named() -> None:
    with pytest.raises(UsageError, match="option types of Unreadable cannot be read: name 'Tensor'"):
        options(Unreadable)


def test_types_as_a_user_reads_them() -> None:
    assert type_name(Literal["a", "b"]) == "a | b"
    assert type_name(tuple[int, ...]) == "list of whole number"
    assert type_name(Annotated[float, Range(0, 1)]) == "number"
    assert type_name(bool) == "true | false"


def test_messages_stay_on_one_line() -> None:
    assert short("a\n b") == "a b" and len(short("x" * 100)) == 60


@settings(deadline=None)
@given(TEXT)
def test_every_unicode_text_is_utf8(text: str) -> None:
    assert check_utf8(text) == text
