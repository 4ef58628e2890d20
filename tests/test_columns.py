"""Columns of a prompt list that look like words and are none."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from genbench import columns, prompts
from genbench.errors import UsageError
from genbench.request import Request, Resolved


def check(*names: str, plugins: tuple[str, ...] = ()) -> None:
    rows = ({"prompt": "a"}, {"prompt": "b", **dict.fromkeys(names, "1")})
    columns.check(Resolved(Request(), rows=rows, places=("p.csv:2", "p.csv:3")), plugins)


@pytest.mark.parametrize(
    ("column", "meant"),
    [("guidence_scale", "guidance_scale"), ("Steps", "steps"), ("cfg_scale", "guidance_scale"), ("step", "steps")],
)
def test_what_is_nearly_a_word_is_warned_of_with_its_line(column: str, meant: str) -> None:
    with pytest.warns(UserWarning, match=rf"p\.csv:3: the column '{column}' changes nothing .* did you mean '{meant}'"):
        check(column)


@pytest.mark.parametrize("column", ["serch.candidates", "foo.bar", "toy.x"])
def test_an_option_of_no_plugin_is_refused_with_its_line(column: str) -> None:
    with pytest.raises(UsageError, match=rf"p\.csv:3: the column '{column}' is an option of"):
        check(column)


def test_options_of_installed_plugins_and_of_the_chains_files_are_taken() -> None:
    check("search.candidates", "halo.strength", plugins=("./halo.py:Halo",))


def test_columns_of_the_lists_that_come_along_are_warned_of_nowhere(root: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in (root / "prompts").iterdir():
            columns.check(Resolved(Request(), rows=prompts.read_rows(str(path))), ())
        check("tag", "include", "category", "challenge", "note", "item_id", "kind", "licence", "n", "style", "size")
