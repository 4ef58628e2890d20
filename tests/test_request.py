"""Requests: fields, seeds, rows, items."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from genbench.errors import UsageError
from genbench.fields import described
from genbench.request import MAX_SEED, Request, Resolved, parse_seeds, resolve, row_request, says_offline, schema

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))


def test_words_become_fields() -> None:
    words = {"prompt": "a", "steps": "30", "guidance_scale": "5", "plugin": "a,b", "compile": "yes", "lora": "x:0.5"}
    request = resolve(words, files=False).request
    assert (request.steps, request.guidance_scale, request.plugin) == (30, 5.0, ("a", "b"))
    assert request.compile is True and request.lora == ("x:0.5",)


def test_python_values_take_the_same_path() -> None:
    by_text = Request(prompt="a", seeds="0..2", steps="3", plugin="search")  # type: ignore[arg-type]
    assert by_text == Request(prompt="a", seeds=(0, 1, 2), steps=3, plugin=("search",))
    with pytest.raises(UsageError, match="steps=0 is out of range"):
        Request(steps=0)
    with pytest.raises(FrozenInstanceError):
        by_text.steps = 4  # type: ignore[misc]


@settings(deadline=None)
@given(TEXT, TEXT)
def test_prompts_are_literal(prompt: str, negative: str) -> None:
    request = resolve({"prompt": prompt, "negative_prompt": negative}, files=False).request
    assert (request.prompt, request.negative_prompt) == (prompt, negative)


def test_none_resets_an_optional_but_is_a_prompt() -> None:
    request = Request(prompt="none", negative_prompt="None", steps="none", sampler="none")  # type: ignore[arg-type]
    assert (request.prompt, request.negative_prompt, request.steps, request.sampler) == ("none", "None", None, None)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("7", (7,)), ("0..3", (0, 1, 2, 3)), ("1,5,9", (1, 5, 9)), ("3..3", (3,)), ("0..1,9, 4..5", (0, 1, 9, 4, 5))],
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds and Request(seeds=text).all_seeds == seeds  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["3..1", "a", "1..", "..3", "0-3", "1,,2", "", "-1", "0..99999999", str(2**63)])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="seeds"):
        Request(seeds=text)  # type: ignore[arg-type]


def test_the_seed_of_each_picture() -> None:
    assert list(Request(seed=7, num_images=3).all_seeds) == [7, 8, 9]
    assert list(Request(seed=MAX_SEED).all_seeds) == [MAX_SEED]
    with pytest.raises(UsageError, match="goes beyond the last seed"):
        Request(seed=MAX_SEED, num_images=2)
    with pytest.raises(UsageError, match="num_images=3 but seeds= names 2"):
        Request(seeds=(1, 2), num_images=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0), ("steps", -1), ("steps", 2.5), ("steps", True), ("guidance_scale", float("nan")),
        ("guidance_scale", "inf"), ("guidance_scale", "strong"), ("seed", -1), ("seed", MAX_SEED + 1),
        ("height", 0), ("width", "64px"), ("num_images", 0), ("batch_size", 0), ("dtype", "fp8"), ("format", "xml"),
        ("metadata", "all"), ("compile", "maybe"), ("model", ""), ("out", ""), ("prompt", 3), ("prompt", "\udcff"),
    ],
)  # fmt: skip
def test_values_out_of_range_name_their_field(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"{name}|UTF-8"):
        Request(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "meant"),
    [("stpes", "steps"), ("cfg", "guidance_scale"), ("num_inference_steps", "steps"), ("--seed", "seed")],
)
def test_unknown_words(word: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"there is no word '{word}'; did you mean '{meant}'"):
        resolve({word: "1"}, files=False)


def test_every_field_has_a_help_text() -> None:
    assert [each.option.name for each in described(Request) if not each.help] == []
    assert list(schema()) == [field.name for field in fields(Request)]


# --- items --------------------------------------------------------------------------------------------------------


def test_items_are_prompts_times_seeds() -> None:
    resolved = Resolved(Request(seeds=(3, 4)), rows=({"prompt": "a"}, {"prompt": "b", "kind": "pair"}))
    items = list(resolved.items())
    assert [(item.index, item.prompt, item.seed) for item in items] == [
        (0, "a", 3),
        (1, "a", 4),
        (2, "b", 3),
        (3, "b", 4),
    ]
    assert items[2].row["kind"] == "pair" and items[2].overrides == {}


def test_columns_override_fields_for_their_row() -> None:
    row = {"prompt": "a", "steps": "3", "guidance_scale": 2, "seed": "9", "num_images": "2", "negative_prompt": "b"}
    resolved = Resolved(Request(seeds=(0, 1, 2), steps=30), rows=(row, {"prompt": "c"}))
    items = list(resolved.items())
    assert [item.seed for item in items] == [9, 10, 0, 1, 2]
    assert items[0].overrides == {"steps": 3, "guidance_scale": 2.0} and items[0].negative_prompt == "b"
    assert items[2].overrides == {} and resolved.override(items[0].overrides).value("steps") == 3


def test_columns_override_options_of_the_plugins_of_the_run() -> None:
    rows = ({"prompt": "a", "search.candidates": "2", "halo.strength": 3}, {"prompt": "b"})
    searched = resolve({"plugin": "search", "search.candidates": 8}, files=False, rows=rows)
    first, second = searched.items()
    assert first.overrides == {"search.candidates": "2"} and second.overrides == {}
    assert searched.override(first.overrides).options == {"search": {"candidates": "2"}}
    assert searched.options == {"search": {"candidates": 8}} and searched.override({}) == searched
    assert [item.overrides for item in Resolved(Request(), rows=rows).items()] == [{}, {}]
    (again,) = resolve({"plugin": "search"}, files=False, rows=(first.as_row(),)).items()
    assert again.overrides == first.overrides


def test_an_item_asks_for_itself_again() -> None:
    row = {"prompt": "a", "steps": "3", "seeds": "4..5", "kind": "pair"}
    resolved = Resolved(Request(num_images=1), rows=(row,))
    second = list(resolved.items())[1]
    (again,) = Resolved(Request(), rows=(second.as_row(),)).items()
    assert (again.prompt, again.seed, again.overrides, again.row["kind"]) == ("a", 5, {"steps": 3}, "pair")


def test_what_cannot_change_per_row(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="list.csv:3: 'model' cannot change from row to row"):
        row_request(Request(), {"prompt": "a", "model": "toy"}, "list.csv:3")
    path = tmp_path / "p.csv"
    path.write_text("prompt,steps\na,3\nb,many\n")
    with pytest.raises(UsageError, match="p.csv:3: steps=many is not a whole number"):
        resolve({"prompts": str(path)}, files=False)


def test_an_empty_prompt_is_allowed_and_said_once() -> None:
    with pytest.warns(UserWarning, match="the prompt is empty") as said:
        items = list(Resolved(Request(), rows=({"prompt": ""}, {"prompt": " "})).items())
    assert len(items) == 2 and len(said) == 1


# --- resolved -----------------------------------------------------------------------------------------------------


def test_recommended_settings_that_are_wrong() -> None:
    with pytest.raises(UsageError, match="model x recommends 'stpes', which is no request field; did you mean 'steps'"):
        Resolved(Request()).with_recommended("model x", {"stpes": 3})
    with pytest.raises(UsageError, match="steps=0 is out of range"):
        Resolved(Request()).with_recommended("model x", {"steps": 0})


def test_all_options_of_a_built_plugin_are_kept_with_their_origins() -> None:
    resolved = resolve({"plugin": "search", "search.candidates": "8"}, files=False)
    resolved = resolved.with_options("search", {"candidates": 8, "verifier": None})
    assert resolved.options == {"search": {"candidates": 8, "verifier": None}}
    assert resolved.origin("search.candidates") == "command line" and resolved.origin("search.verifier") == "default"


def test_resolving_imports_neither_torch_nor_a_plugin() -> None:
    code = (
        "import sys; from genbench.request import resolve\n"
        "resolve({'plugin': 'search', 'search.candidates': '8', 'prompt': 'a', 'model': 'solids'})\n"
        "print([m for m in sys.modules if m.partition('.')[0] in ('torch', 'numpy', 'diffusers', 'PIL')"
        " or m.startswith('genbench_')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_offline_is_read_off_a_commands_words_before_it_runs(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert says_offline(["out=x", "offline=true", "--dry-run"]) and not says_offline(["prompt=offline=true"])
    (work / "genbench.toml").write_text("offline = true\n")
    assert says_offline([]) and not says_offline(["offline=no"])
    monkeypatch.setenv("GENBENCH_OFFLINE", "false")
    assert not says_offline([]) and not says_offline(["offline=perhaps"])
    (work / "genbench.toml").write_text("offline = [")
    monkeypatch.delenv("GENBENCH_OFFLINE")
    assert not says_offline([])
