"""From a picture back to its request: every prompt survives, overrides apply, and the bits come out the same."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image, PngImagePlugin

from genbench import record, replay, runner
from genbench.errors import UsageError
from genbench.options import parse_words
from genbench.request import Item, Resolved, resolve

ARGV = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
AWKWARD = (
    """a, "b" 'c' @ % # ? $HOME ${x} { } ( ) | = \\ 🟥👩‍🚀 红色的立方体\tz\r\n second\u2028line <lora:x:0.8> none -- """
)


class Fake:
    """A finished picture without a model."""

    score, trace, nfe, seconds = None, (), 1, 0.0

    def __init__(self, resolved: Resolved, position: int, batch: tuple[Item, ...]) -> None:
        self.resolved, self.position, self.batch, self.item = resolved, position, batch, batch[position]

    @property
    def pil(self) -> Any:
        return Image.new("RGB", (2, 2))


def recorded(resolved: Resolved, position: int = 0) -> dict[str, Any]:
    """The record of one picture, by way of the bytes of a PNG."""
    made = Fake(resolved, position, tuple(resolved.items()))
    texts = record.picture_texts(record.picture_record(made, {"versions": {}}), "full")
    return json.loads(texts["genbench"])


def saved(path: Path, record_: Any) -> Path:
    path.write_text(json.dumps(record_))
    return path


@pytest.mark.filterwarnings("ignore:the prompt is empty")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ARGV, ARGV)
def test_prompts_survive_from_the_command_line_to_the_rerun(tmp_path: Path, prompt: str, negative: str) -> None:
    for text, other in ((prompt, negative), (AWKWARD + prompt, negative + AWKWARD)):
        words = parse_words([f"prompt={text}", f"negative_prompt={other}", "seed=7"])
        resolved = resolve(words, files=False)
        made = Fake(resolved, 0, tuple(resolved.items()))
        texts = record.picture_texts(record.picture_record(made, {"versions": {}}), "full")
        path = tmp_path / "a.png"
        path.write_bytes(record.png(made.pil, texts))
        (again,) = replay.replay(replay.read(path), {}, path).resolved.items()
        assert (again.prompt, again.negative_prompt, again.seed) == (text, other, 7)
        shown = replay.show(replay.read(path), path)
        assert any(text in line for line in shown)


def test_a_picture_of_a_batch_asks_for_its_batch(tmp_path: Path) -> None:
    asked = resolve({"prompt": "a", "seeds": "3..5", "batch_size": 3}, files=False)
    again = replay.replay(recorded(asked, 2), {}, tmp_path)
    assert [item.seed for item in again.resolved.items()] == [3, 4, 5] and again.keep == {2}
    assert again.resolved.request.batch_size == 3


def test_other_seeds_or_prompts_make_a_batch_of_their_own(tmp_path: Path) -> None:
    asked = resolve({"prompt": "a", "seeds": "3..5"}, files=False)
    for words, expected in (
        ({"seed": "9"}, [("a", 9)]),
        ({"prompt": "b"}, [("b", 4)]),
        ({"seeds": "1..2"}, [("a", 1), ("a", 2)]),
        ({"seed": "1", "num_images": "2"}, [("a", 1), ("a", 2)]),
    ):
        again = replay.replay(recorded(asked, 1), words, tmp_path)
        assert [(item.prompt, item.seed) for item in again.resolved.items()] == expected and again.keep is None


def test_settings_of_a_row_can_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,steps\na,3\nb,4\n")
    asked = resolve({"prompts": str(tmp_path / "p.csv")}, files=False)
    (tmp_path / "p.csv").unlink()
    made = recorded(asked.override({"steps": 4}), 1)
    assert [i.overrides for i in replay.replay(made, {}, tmp_path).resolved.items()] == [{"steps": 3}, {"steps": 4}]
    again = replay.replay(made, {"steps": "9"}, tmp_path).resolved
    assert [item.overrides for item in again.items()] == [{}, {}] and again.value("steps") == 9
    assert again.origin("steps") == "command line"


def test_a_new_model_or_plugin_recommends_again(tmp_path: Path) -> None:
    asked = resolve({"prompt": "a", "plugin": "sid,halo", "halo.strength": "2", "height": "64"}, files=False)
    asked = asked.with_recommended("plugin sid", {"steps": 1}).with_recommended("model solids", {"guidance_scale": 5})
    same = replay.replay(recorded(asked), {"width": "32"}, tmp_path).resolved
    assert (same.value("steps"), same.origin("steps")) == (1, "plugin sid") and same.origin("width") == "command line"
    model = replay.replay(recorded(asked), {"model": "toy"}, tmp_path).resolved
    assert (model.value("steps"), model.value("guidance_scale"), model.value("height")) == (1, None, 64)
    plugin = replay.replay(recorded(asked), {"plugin": "halo"}, tmp_path).resolved
    assert plugin.value("steps") is None and plugin.options == {"halo": {"strength": "2"}}
    assert plugin.with_recommended("model x", {"steps": 3}).value("steps") == 3


def test_options_can_be_overridden(tmp_path: Path) -> None:
    asked = resolve({"prompt": "a", "plugin": "search", "search.candidates": "4", "search.b": "x"}, files=False)
    again = replay.replay(recorded(asked), {"search.candidates": "8"}, tmp_path).resolved
    assert again.options == {"search": {"candidates": "8", "b": "x"}}
    assert again.origin("search.candidates") == "command line"
    with pytest.raises(UsageError, match="plugin=search has no 'halo'"):
        replay.replay(recorded(asked), {"halo.x": "8"}, tmp_path)
    with pytest.raises(UsageError, match="no word 'stpes'; did you mean 'steps'"):
        replay.replay(recorded(asked), {"stpes": "8"}, tmp_path)


def test_home_paths_are_those_of_who_reruns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ann"))
    made = recorded(
        resolve({"prompt": "~/a", "model": "/home/ann/m", "plugin": "p", "p.w": "/home/ann/w"}, files=False)
    )
    assert made["request"]["model"] == "~/m"
    monkeypatch.undo()
    monkeypatch.setenv("HOME", "/home/ben")
    again = replay.replay(made, {}, tmp_path).resolved
    assert again.value("model") == "/home/ben/m" and again.options["p"]["w"] == "/home/ben/w"
    assert next(again.items()).prompt == "~/a"


def png(path: Path, **texts: str) -> Path:
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    Image.new("RGB", (2, 2)).save(path, pnginfo=info)
    return path


def test_pictures_of_other_tools_are_shown_but_not_remade(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", parameters="a cat\nSteps: 3, Seed: 1")
    found = replay.read(path)
    assert replay.show(found, path) == ["a cat\nSteps: 3, Seed: 1"]
    with pytest.raises(UsageError, match="was not made by genbench; `genbench show"):
        replay.replay(found, {}, path)


def test_files_that_say_nothing(tmp_path: Path) -> None:
    whole = png(tmp_path / "a.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[:40])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    newer = saved(tmp_path / "newer.json", {"schema": 99, "request": {}})
    for path, message in (
        (tmp_path / "none.png", "none.png does not exist; give a PNG, a run.json or a run's folder"),
        (tmp_path, "run.json does not exist; give a PNG"),
        (tmp_path / "a.png", "does not say how it was made"),
        (tmp_path / "half.png", "is no whole picture"),
        (tmp_path / "text.png", "is no whole picture"),
        (tmp_path / "bad.json", "its record is no JSON"),
        (tmp_path / "list.json", "is no record of a run"),
        (newer, r"was written by a newer genbench \(record version 99\); upgrade genbench"),
    ):
        with pytest.raises(UsageError, match=message):
            replay.read(path)


def test_what_can_change_the_bits_is_said() -> None:
    old = {"versions": {"torch": "2.9", "numpy": "2"}, "threads": 2, "device": "cpu", "dtype": "float32"}
    new = {"versions": {"torch": "2.10", "numpy": "2", "extra": "1"}, "threads": 1, "device": "cpu", "dtype": "float32"}
    assert replay.differences(old, new) == ["torch was 2.9, is 2.10", "threads was 2, is 1"]
    assert replay.differences({}, new) == []


# --- on the toy model ---------------------------------------------------------------------------------------------


def drawn(resolved: Resolved, **more: Any) -> list[Path]:
    return [path for path, _ in runner.run(resolved, runner.Totals(), **more)]


def again(path: Path, **words: str) -> list[Path]:
    found = replay.replay(replay.read(path), words, path)
    return drawn(found.resolved, keep=found.keep, recorded=found.environment, traces=found.traces)


def pixels(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    "words",
    [
        {"seed": 7},
        {"seeds": "3..6", "batch_size": 3},
        {"seeds": "3..4", "plugin": "search", "search.candidates": "3", "batch_size": 2},
        {"sampler": "euler_a", "negative_prompt": "blue", "guidance_scale": 3},
    ],
)
def test_a_rerun_is_bit_identical(work: Path, words: dict[str, object]) -> None:
    asked = resolve({"model": "toy", "prompt": "red", "steps": 3, **words}, files=False)
    first = drawn(asked)
    for path in first:
        (copy,) = again(path)
        assert copy != path and np.array_equal(pixels(copy), pixels(path))
    whole = again(first[0].parent / "run.json")
    assert [path.name for path in whole] == [path.name for path in first]
    assert all(np.array_equal(pixels(one), pixels(two)) for one, two in zip(first, whole, strict=True))
    assert not np.array_equal(pixels(again(first[0], prompt="blue")[0]), pixels(first[0]))


SEARCHES: dict[str, dict[str, str]] = {
    "random": {"search.candidates": "5"},
    "zero-order": {"search.iterations": "2"},
    "paths": {},
    "fk": {"search.strength": "20"},
    "reno": {"search.iterations": "3"},
    "drafts": {"search.candidates": "4", "search.draft_steps": "2"},
}


def spent(path: Path) -> int:
    return int(replay.read(path)["picture"]["nfe"])


@pytest.mark.parametrize("algorithm", list(SEARCHES))
def test_a_searched_picture_is_remade_alone_from_its_own_record(work: Path, algorithm: str) -> None:
    words = {"search.algorithm": "random" if algorithm == "drafts" else algorithm, **SEARCHES[algorithm]}
    asked = resolve({"model": "toy", "prompt": "red blue", "steps": 6, "plugin": "search", **words}, files=False)
    (first,) = drawn(asked)
    (first.parent / "run.json").unlink()
    (copy,) = again(first, out="elsewhere")
    assert np.array_equal(pixels(copy), pixels(first)) and copy.is_relative_to("elsewhere")
    walk = 6 * 2
    assert spent(copy) < spent(first) and (algorithm in ("paths", "fk") or spent(copy) == walk)
    assert replay.read(copy)["trace"] == replay.read(first)["trace"]
    (copied,) = again(copy)
    assert np.array_equal(pixels(copied), pixels(first)), "a copy can be copied"


def test_a_changed_word_searches_again(work: Path) -> None:
    asked = {"model": "toy", "prompt": "red", "steps": 4, "plugin": "search"}
    (first,) = drawn(resolve(asked, files=False))
    assert spent(first) == 4 * 8 and spent(again(first)[0]) == 8
    (more,) = again(first, **{"search.candidates": "5"})
    assert spent(more) == 5 * 8 and len(replay.read(more)["trace"]) == 5
    (other,) = again(first, **{"search.algorithm": "zero-order"})
    assert spent(other) == 9 * 8, "what nobody set takes the defaults of the new algorithm"


def test_a_run_of_searches_is_remade_winner_by_winner(work: Path) -> None:
    asked = {"model": "toy", "prompt": "red", "steps": 4, "seeds": "3..5", "plugin": "search", "holdout": "toy"}
    first = drawn(resolve(asked, files=False))
    whole = again(first[0].parent / "run.json")
    assert all(np.array_equal(pixels(one), pixels(two)) for one, two in zip(first, whole, strict=True))
    assert [spent(path) for path in whole] == [8] * 3 and [spent(path) for path in first] == [32] * 3


def test_show_says_how_a_search_judged(work: Path) -> None:
    asked = {"model": "toy", "prompt": "red", "steps": 3, "plugin": "search", "holdout": "toy"}
    (path,) = drawn(resolve(asked, files=False))
    shown = "\n".join(replay.show(replay.read(path), path))
    assert re.search(r"^  judged         toy -0\.\d+, holdout toy -0\.\d+$", shown, re.MULTILINE)
    assert "best of 4" in shown and "  holdout        toy\n" in shown


def test_a_run_over_a_file_is_repeated_without_the_file(work: Path) -> None:
    (work / "p.jsonl").write_text('{"prompt": "red", "steps": 2}\n{"prompt": "blue", "seed": 4}\n')
    first = drawn(resolve({"model": "toy", "prompts": "p.jsonl", "num_images": 2}, files=False))
    (work / "p.jsonl").unlink()
    whole = again(first[0].parent / "run.json")
    assert [path.name for path in whole] == ["0000-seed0.png", "0001-seed1.png", "0002-seed4.png", "0003-seed5.png"]
    assert all(np.array_equal(pixels(one), pixels(two)) for one, two in zip(first, whole, strict=True))


def test_a_run_that_makes_nothing_leaves_nothing(work: Path) -> None:
    with pytest.raises(Exception, match="neither installed nor"):
        drawn(resolve({"model": "nothing-like-this", "prompt": "a"}, files=False))
    assert list(work.rglob("run.json")) == []


def test_only_changed_code_of_the_same_words_is_warned_about() -> None:
    recorded = {"plugins": [{"word": "a", "content": "1"}, {"word": "b", "content": "1"}]}
    now = {
        "plugins": [{"word": "a", "content": "2"}, {"word": "c", "content": "1"}],
        "verifier": {"word": "v", "content": "1"},
    }
    assert replay.differences(recorded, now) == ["the code or weights of a changed"]
    assert replay.differences({}, now) == []
