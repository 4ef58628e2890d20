"""The text for other tools, read back by a parser written from the format's description alone."""

import json

import pytest
from hypothesis import given, settings, strategies as st

from genbench.infotext import infotext, quoted, sampler_labels

LINE = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")))


def pairs(line: str) -> dict[str, str]:
    """Read `Key: value, Key: "quoted, value"`: a quoted value is a JSON string, another ends at the next comma."""
    found: dict[str, str] = {}
    while line:
        key, _, rest = line.partition(": ")
        if rest.startswith('"'):
            value, end = json.JSONDecoder().raw_decode(rest)
        else:
            end = len(rest) if "," not in rest else rest.index(",")
            value = rest[:end]
        found[key] = value
        line = rest[end:].removeprefix(", ")
    return found


def parse(text: str) -> tuple[str, str, dict[str, str]]:
    *lines, last = text.split("\n")
    marks = [number for number, line in enumerate(lines) if line.startswith("Negative prompt: ")]
    cut = marks[0] if marks else len(lines)
    negative = "\n".join(lines[cut:]).removeprefix("Negative prompt: ")
    return "\n".join(lines[:cut]), negative, pairs(last)


def test_the_layout_is_the_one_that_tools_know() -> None:
    text = infotext("a cat\non a mat", "blurry", {"Steps": 30, "Sampler": "Euler a", "CFG scale": "7", "Seed": 1})
    assert text == "a cat\non a mat\nNegative prompt: blurry\nSteps: 30, Sampler: Euler a, CFG scale: 7, Seed: 1"
    assert infotext("a", "", {"Steps": 3, "Model hash": "", "Model": None}) == "a\nSteps: 3"


@settings(deadline=None)
@given(LINE.filter(str.strip), LINE, LINE.filter(bool), LINE.filter(bool))
def test_an_independent_parser_reads_it_back(prompt: str, negative: str, model: str, plugins: str) -> None:
    text = infotext(f"x{prompt}x", f"{negative}x", {"Steps": 30, "Model": f"x{model}", "Plugins": f"x{plugins}"})
    found = parse(text)
    if not prompt.startswith("Negative prompt: "):
        assert found[:2] == (f"x{prompt}x", f"{negative}x")
    assert found[2]["Steps"] == "30" and found[2]["Plugins"].strip() == f"x{plugins}".strip()


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), ("a,b", '"a,b"'), ("a: b", '"a: b"'), ("a\nb", '"a\\nb"'), ("中,文", '"中,文"'), (7, "7")],
)
def test_values_with_marks_are_json(value: object, text: str) -> None:
    assert quoted(value) == text


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("EulerAncestralDiscreteScheduler", ("Euler a", None)),
        ("dpmpp_2m_karras", ("DPM++ 2M", "Karras")),
        ("DDIMScheduler", ("DDIM", None)),
        ("Mine", ("Mine", None)),
    ],
)
def test_samplers_have_the_labels_of_those_tools(name: str, labels: tuple[str, str | None]) -> None:
    assert sampler_labels(name) == labels
