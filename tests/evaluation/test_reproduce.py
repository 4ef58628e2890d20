"""Commands worked out from a store: words, quoting, what goes into one command."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from genbench.evaluation.reproduce import commands, prompt_lines, ranges, spelled
from genbench.evaluation.store import Made, SetValue, Store
from genbench.evaluation.worklist import Settings
from genbench.request import Request, Resolved


def made(prompt: str = "red", seed: int = 0, **row: object) -> Made:
    return Made("k", "s", prompt, prompt, seed, "p", f"{prompt}{seed}", 1, 1.0, prompt, {"prompt": prompt, **row}, "a")


def noted(id: str, chain: str, options: dict[str, object] | None = None, **request: object) -> Settings:
    plugins = [{"plugin": chain, "version": "1", "options": options or {}}] if chain != "none" else []
    content = {"request": {"model": "toy", **request}, "plugins": plugins, "model": "m"}
    return Settings(id, chain, content, Resolved(Request()))


def words(command: str) -> dict[str, str]:
    program, verb, *rest = shlex.split(command)
    assert (program, verb) == ("genbench", "eval")
    return dict(word.split("=", 1) for word in rest)


@pytest.mark.parametrize(
    ("seeds", "text"), [([0], "0"), ([3, 1, 2], "1..3"), ([0, 1, 5, 7, 8], "0..1,5,7..8"), ([], "")]
)
def test_ranges(seeds: list[int], text: str) -> None:
    assert ranges(seeds) == text


def test_values_are_spelled_as_words() -> None:
    assert [spelled(value) for value in (True, None, 3.5, ["a", "b"], "x y")] == ["true", "none", "3.5", "a,b", "x y"]


def test_chains_of_one_request_share_a_command_and_defaults_are_left_out(tmp_path: Path) -> None:
    chains = [
        noted("1", "none", steps=3, dtype="auto", lora=[]),
        noted(
            "2",
            "search",
            {"candidates": 8, "algorithm": "random"},
            steps=3,
            dtype="auto",
            lora=[],
            verifier=["clip", "f", {"convention": "paper"}],
        ),
    ]
    with Store(tmp_path) as store:
        store.add_plan(chains, [])
        (command,) = commands(store, [made(seed=4)])
    told = words(command)
    assert (told["chains"], told["steps"], told["seeds"], told["model"]) == ("none; search", "3", "4", "toy")
    assert (told["search.candidates"], told["verifier"], told["clip.convention"]) == ("8", "clip", "paper")
    assert not {"dtype", "lora", "search.algorithm"} & told.keys()


def test_chains_that_disagree_get_commands_of_their_own(tmp_path: Path) -> None:
    chains = [
        noted("1", "search", {"candidates": 8}, steps=3), noted("2", "search", {"candidates": 2}, steps=3),
        noted("3", "none", steps=3), noted("4", "none", steps=5),
    ]  # fmt: skip
    with Store(tmp_path) as store:
        store.add_plan(chains, [])
        found = [words(command) for command in commands(store, [made()])]
    assert [(each["chains"], each["steps"]) for each in found] == [
        ("search; none", "3"),
        ("search", "3"),
        ("none", "5"),
    ]
    assert [each.get("search.candidates") for each in found] == ["8", "2", None]


def test_metrics_come_back_with_their_options_and_reference(tmp_path: Path) -> None:
    version = 'genbench 0.1 abc {"bandwidth": 5.0}; genbench 0.1 def'
    value = SetValue("1", "cmmd", "clip", version, "solids genbench 0.1 abc 300 of 0123", 4, 300, "x", 0.1, ())
    with Store(tmp_path) as store:
        store.add_plan([noted("1", "none"), noted("2", "search")], [])
        store.add_scores("clip", "genbench 0.1 abc", [(made(), "", 0.5)])
        store.add_set(value)
        store.add_set(SetValue(**{**vars(value), "settings": "2"}))  # every chain has its own value
        told = words(commands(store, [made()])[0])
        assert (told["metrics"], told["cmmd.bandwidth"]) == ("clip,cmmd@clip", "5.0")
        assert (told["reference"], told["reference_size"]) == ("solids", "300")
        for settings in ("1", "2"):
            store.add_set(SetValue(**{**vars(value), "settings": settings, "reference": "folder 0123"}))
        assert words(commands(store, [made()])[0])["reference"] == "FOLDER"


def test_a_negative_prompt_of_the_command_line_is_told(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add_plan([noted("1", "none")], [])
        assert words(commands(store, [made()], 'it\'s "ugly"; $HOME')[0])["negative_prompt"] == 'it\'s "ugly"; $HOME'


def test_the_prompt_list_has_every_row_once() -> None:
    lines = prompt_lines([made("red", 0, kind="one"), made("red", 1, kind="one"), made("blå\n", 0, kind="two")])
    assert [json.loads(line) for line in lines.splitlines()] == [
        {"prompt": "red", "kind": "one"},
        {"prompt": "blå\n", "kind": "two"},
    ]
