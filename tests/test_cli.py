"""The command line: verbs, what is printed where, exit codes, and what is not imported."""

import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from genbench import cli, runner
from genbench.cli import main
from genbench.errors import PluginError

TOY = ["model=toy", "steps=3", "prompt=red"]


@pytest.fixture(autouse=True)
def _folder_and_environment(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")


# --- what is not imported -----------------------------------------------------------------------------------------

PROBE = """
import sys
from genbench.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "torchvision", "diffusers", "transformers", "numpy", "PIL", "platformdirs_"}
found = sorted({name for name in sys.modules if name.partition(".")[0] in heavy or name.startswith("genbench_")})
print("imported:", found, "code:", code)
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["plugins"], 0),
        (["run", "--help"], 0),
        (["run", "stpes=3"], 2),
        (["run", "steps=0"], 2),
        (["run", "seed=abc"], 2),
        (["run", "prompt=a", "plugin=serach"], 3),
        (["run", "prompt=a", "search.candidates=3"], 2),
        (["run", "prompt=a", "sampler=eulr"], 2),
        (["run", "prompts=none.txt"], 2),
    ],
)
def test_neither_torch_nor_a_plugin_is_imported(words: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"imported: [] code: {code}", done.stderr
    assert len(done.stderr.splitlines()) == (code != 0)


# --- run ----------------------------------------------------------------------------------------------------------


def test_one_picture_is_one_line_that_can_be_typed_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *TOY, "seed=7"]) == 0
    out, err = capsys.readouterr()
    found = re.fullmatch(r"(\S+/0000-seed7\.png), 6 network evaluations, [\d.]+ s; again: genbench (.+)\n", out)
    assert found and Path(found[1]).is_file() and err == "" and "\x1b" not in out
    assert main(shlex.split(found[2])) == 0
    again = re.match(r"\S+\.png", capsys.readouterr().out)
    assert again and again[0] != found[1]
    assert main(["show", again[0]]) == 0
    shown = capsys.readouterr().out
    assert "  prompt         red\n" in shown and "  steps          3\n" in shown and "rerun" in shown


def test_a_search_says_best_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *TOY, "plugin=search", "search.candidates=3"]) == 0
    assert re.search(r"\.png, best of 3, toy -\d\S*, 18 network evaluations, ", capsys.readouterr().out)


def test_several_pictures_have_a_line_each_and_a_sum(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *TOY, "seeds=3..4"]) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.endswith("0000-seed3.png: seed 3") and second.endswith("0001-seed4.png: seed 4")
    assert ": 2 pictures, 12 network evaluations, " in last and last.endswith("run.json")


def test_json_is_one_object_per_picture_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "model=toy", "steps=2", "prompt=red 红", "seeds=0,5", "plugin=search", "format=json"]) == 0
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [set(each) for each in found] == [{"path", "seed", "prompt", "plugins", "nfe", "seconds", "score"}] * 2
    assert [each["seed"] for each in found] == [0, 5] and found[0]["prompt"] == "red 红"
    assert found[0]["plugins"] == ["search"] and found[0]["nfe"] == 16 and "again: genbench rerun" in err


def test_lines_of_standard_input_become_pictures_as_they_arrive(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    def lines() -> Iterator[bytes]:
        for line in (b"red\n", b"\n", "blue = 蓝\n".encode()):
            seen.append(len(list(work.rglob("*.png"))))
            yield line

    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=lines()))
    assert main(["run", "model=toy", "steps=2", "prompts=-", "format=json"]) == 0
    prompts = [json.loads(line)["prompt"] for line in capsys.readouterr().out.splitlines()]
    assert prompts == ["red", "blue = 蓝"] and seen == [0, 1, 1]


def test_show_config_says_where_values_come_from(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "genbench.toml").write_text("[search]\ncandidates = 9\n")
    monkeypatch.setenv("GENBENCH_SEED", "4")
    assert main(["run", "--show-config", "prompt=a", "model=toy", "plugin=search"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["prompt"] == ["a", "command", "line"] and rows["seed"] == ["4", "environment"]
    assert rows["steps"] == ["10", "model", "toy"] and rows["search.candidates"] == ["9", "project", "file"]
    assert rows["dtype"] == ["auto", "default"] and not (work / "outputs").exists()


def test_dry_run_counts_without_drawing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--dry-run", *TOY, "seeds=0..3"]) == 0
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["pictures"] == "4" and rows["evaluations per picture"] == "6" and not (work / "outputs").exists()


def test_an_empty_prompt_is_allowed_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "model=toy", "steps=2", "prompt="]) == 0
    out, err = capsys.readouterr()
    assert "0000-seed0.png" in out
    assert err == "genbench: warning: the prompt is empty: the picture is drawn without a text to follow\n"


def test_rerun_takes_words_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *TOY, "format=json"]) == 0
    path = json.loads(capsys.readouterr().out)["path"]
    assert main(["rerun", "seed=9", path, "steps=2"]) == 0
    assert json.loads(capsys.readouterr().out)["nfe"] == 4
    assert main(["rerun", path, "stpes=2"]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err


def test_metadata_none_cannot_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *TOY, "metadata=none", "format=json"]) == 0
    assert main(["show", json.loads(capsys.readouterr().out)["path"]]) == 2
    assert "does not say how it was made (metadata=none" in capsys.readouterr().err


def test_show_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *TOY, "format=json"]) == 0
    path = Path(json.loads(capsys.readouterr().out)["path"])
    for file in (path, path.parent / "run.json"):
        assert main(["show", str(file), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["request"]["steps"] == 3
        assert main(["show", str(file)]) == 0
        assert "6 network evaluations" in capsys.readouterr().out


# --- progress -----------------------------------------------------------------------------------------------------


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *TOY]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["run", *TOY]) == 0
    assert "/3 [" in capsys.readouterr().err


# --- other verbs --------------------------------------------------------------------------------------------------


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"], ["help"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert all(f"\n  {verb} " in out for verb in cli.VERBS)
    assert main(["--version"]) == 0 and capsys.readouterr().out.startswith("genbench ")


def test_verbs_of_other_modules_get_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def note(*arguments: object) -> int:
        seen.append(arguments)
        return 4

    for module in ("listing", "newplugin", "doctor"):
        monkeypatch.setitem(sys.modules, f"genbench.{module}", SimpleNamespace(main=note))
    monkeypatch.setitem(sys.modules, "genbench.evaluation", SimpleNamespace(cli_main=note))
    monkeypatch.setattr("genbench.evaluation", sys.modules["genbench.evaluation"], raising=False)
    codes = [main([verb, "a=1"]) for verb in ("plugins", "new-plugin", "doctor", "eval", "score", "report")]
    assert codes == [4] * 6
    assert seen == [(["a=1"],)] * 3 + [(verb, ["a=1"]) for verb in ("eval", "score", "report")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu"], "there is no verb 'rnu'; did you mean 'run'?"),
        (["prompt=a cat"], "there is no verb 'prompt=a cat'; did you mean: genbench run 'prompt=a cat' ..."),
        (["run", "a red cube"], "'a red cube' is no key=value word"),
        (["run", "--steps", "5"], "--steps is written without dashes: steps=VALUE"),
        (["run", "--dryrun"], "there is no flag --dryrun; did you mean '--dry-run'?"),
        (["show"], "show takes one file, a PNG or a run.json; got 0"),
        (["show", "a.png", "b.png"], "show takes one file, a PNG or a run.json; got 2"),
        (["rerun", "none.png"], "none.png does not exist"),
        (["train"], "train needs plugin=NAME"),
    ],
)
def test_usage_errors_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"genbench: {message}") and err.count("\n") == 1


# --- ends ---------------------------------------------------------------------------------------------------------


def test_every_end_has_its_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for error, code, text in (
        (PluginError("two\nlines"), 3, "genbench: two lines\n"),
        (KeyboardInterrupt(), 130, "genbench: stopped; what was saved before is whole\n"),
        (
            ZeroDivisionError("x\ny"),
            70,
            "genbench: ZeroDivisionError: x y (unexpected; GENBENCH_DEBUG=1 shows the trace",
        ),
    ):

        def raise_it(*words: object, error: BaseException = error, **named: object) -> None:
            raise error

        monkeypatch.setattr(runner, "preflight", raise_it)
        assert main(["run", "prompt=a"]) == code
        err = capsys.readouterr().err
        assert err.startswith(text) and err.count("\n") == 1
    monkeypatch.setenv("GENBENCH_DEBUG", "1")
    assert main(["run", "prompt=a"]) == 70
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_saved(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines() -> Iterator[bytes]:
        yield b"red\n"
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=lines()))
    assert main(["run", "model=toy", "steps=2", "prompts=-"]) == 130
    out, err = capsys.readouterr()
    assert len(list(work.rglob("*.png"))) == 1 and ".png, 4 network evaluations" in out and "stopped" in err
    assert json.loads(next(work.rglob("run.json")).read_text())["status"].startswith("stopped: KeyboardInterrupt")


def test_a_reader_that_went_away_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "genbench", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert process.communicate(timeout=60)[1] == b"" and process.returncode == 141


def test_words_that_are_no_utf8_are_named() -> None:
    words = [b"run", b"prompt=caf\xe9"]
    done = subprocess.run([sys.executable.encode(), b"-m", b"genbench", *words], capture_output=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr == b"genbench: 'prompt=caf\\udce9' is not UTF-8 at character 10; type or paste it as UTF-8 text\n"
    )


def test_characters_that_the_terminal_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["run", "步=3"]) == 2
    assert stream.buffer.getvalue().startswith(b"genbench: there is no word '\\u6b65'")  # type: ignore[attr-defined]
