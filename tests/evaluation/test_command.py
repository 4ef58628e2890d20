"""eval, score and report from words to tables, on the toy model."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genbench.errors import OutputError, PluginError, UsageError
from genbench.evaluation import cli_main, command
from genbench.evaluation.keeping import image_hash
from genbench.evaluation.lock import locked
from genbench.evaluation.planning import plan
from genbench.evaluation.store import Store
from genbench.evaluation.words import sort_words

ROWS = [
    {"prompt": "red", "kind": "one", "unseen": False},
    {"prompt": "blue", "kind": "one", "unseen": True},
    {"prompt": "red blue", "kind": "two", "unseen": False},
    {"prompt": "green white", "kind": "two", "unseen": True},
]
PLUGINS = '''
from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from genbench.kinds import About


@dataclass(frozen=True)
class Mean:
    """Mean colour of each quarter: an encoder of 12 features."""

    about: ClassVar[About] = About("Mean colours.")

    def embed_images(self, images):
        import torch

        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)

    def embed_texts(self, texts):
        raise NotImplementedError


@dataclass(frozen=True)
class Choosy:
    """Scores everything but one prompt."""

    about: ClassVar[About] = About("Raises for blue.")

    def score(self, *, images, prompts, rows=None):
        if "blue" in prompts:
            raise ValueError("blue has no score")
        return images.mean((1, 2, 3))


@dataclass(frozen=True)
class Never:
    """A set metric that always raises."""

    about: ClassVar[About] = About("Raises.")

    def value(self, features, reference=None, groups=None):
        raise ValueError("never")


@dataclass(frozen=True)
class Fragile:
    """Raises for one prompt."""

    about: ClassVar[About] = About("Raises for blue.")

    def transform_noise(self, start, ctx):
        if "blue" in ctx.prompts:
            raise ValueError("blue is not liked here")
        return start


@dataclass(frozen=True)
class Closed:
    """Cannot be used with any model."""

    about: ClassVar[About] = About("Refuses every model.")

    def transform_model(self, model, ctx):
        raise ValueError("no model is good enough")


@dataclass(frozen=True)
class Deadly:
    """Ends its process for one prompt."""

    about: ClassVar[About] = About("Ends its process for blue.")

    def transform_noise(self, start, ctx):
        if "blue" in ctx.prompts:
            os._exit(9)
        return start


@dataclass(frozen=True)
class Slow:
    """Takes its time, so that a run can be killed in the middle."""

    about: ClassVar[About] = About("Sleeps.")

    def transform_noise(self, start, ctx):
        import time

        time.sleep(0.05)
        return start
'''


BRIGHT = '''

@dataclass(frozen=True)
class Bright:
    """Mean of all pixels."""

    about: ClassVar[About] = About("Mean of all pixels.")

    def score(self, *, images, prompts, rows=None):
        return images.mean((1, 2, 3))
'''


@pytest.fixture
def here(work: Path) -> Path:
    (work / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (work / "extra.py").write_text(PLUGINS)
    return work


def evaluate(*words: str, out: str = "cmp") -> int:
    given = {word.partition("=")[0] for word in words}
    base = ["model=toy", "steps=3", "prompts=p.jsonl", "seeds=0..1", f"out={out}"]
    return cli_main("eval", [*(word for word in base if word.partition("=")[0] not in given), *words])


def made(out: str = "cmp") -> dict[str, str]:
    """Return {key: image hash} of a store, checking that every picture is there and whole."""
    with Store(out, create=False) as store:
        pictures = store.pictures()
    for picture in pictures:
        with Image.open(Path(out) / picture.path) as opened:
            assert image_hash(np.asarray(opened.convert("RGB"))) == picture.image
    assert len(list(Path(out).rglob("*.png"))) == len(pictures)
    return {picture.key: picture.image for picture in pictures}


def test_two_chains_scored_and_compared(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("chains=none; search", "search.candidates=4", "metrics=toy") == 0
    printed = capsys.readouterr()
    assert "16 cells, 0 done, 16 to draw" in printed.err
    assert len(made()) == 16
    report = json.loads(Path("cmp/report.json").read_text())
    assert Path("cmp/report.md").read_text() == printed.out
    whole = {line["chain"]: line for line in report["lines"] if line["group"] == "all"}
    assert whole["none"]["difference"] is None and whole["search"]["difference"]["n"] == 8
    assert whole["search"]["difference"]["mean"] > 0 and whole["search"]["estimate"]["clusters"] == 4
    assert {line["group"] for line in report["lines"]} >= {"all", "one", "two", "unseen", "not unseen", "one, unseen"}
    assert {cost["chain"]: cost["nfe"] for cost in report["costs"]} == {"none": 6.0, "search": 24.0}


def test_a_finished_run_draws_nothing_and_a_grown_one_only_what_is_new(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate()
    before = made()
    evaluate()
    assert "8 cells, 8 done, 0 to draw" in capsys.readouterr().err and made() == before
    evaluate("chains=none; search", "metrics=toy")
    assert "16 cells, 8 done, 8 to draw" in capsys.readouterr().err
    assert before.items() < made().items()


def test_a_prompt_that_was_fixed_and_one_that_was_added_cost_their_own_cells(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate()
    before = made()
    rows = [{**ROWS[0], "prompt": "dark red"}, *ROWS[1:], {"prompt": "new"}]
    (here / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    capsys.readouterr()
    assert evaluate() == 0
    assert "10 cells, 6 done, 4 to draw" in capsys.readouterr().err and before.items() < made().items()


def test_pictures_do_not_depend_on_batches(here: Path) -> None:
    evaluate("batch_size=1", out="one")
    evaluate("batch_size=8", out="eight")
    one, eight = made("one"), made("eight")
    assert one.keys() == eight.keys()
    folders = [{p.name: p for p in Path(out).rglob("*.png")} for out in ("one", "eight")]
    for name in folders[0]:
        a, b = (np.asarray(Image.open(folder[name])).astype(int) for folder in folders)
        assert abs(a - b).max() <= 1


def test_a_picture_says_how_to_make_it_again(here: Path) -> None:
    evaluate("chains=search", "search.candidates=2")
    path = next(Path("cmp").rglob("*.png"))
    told = json.loads(Image.open(path).text["genbench"])  # type: ignore[attr-defined]
    assert told["options"]["search"]["candidates"] == 2 and told["request"]["steps"] == 3
    assert told["picture"]["prompt"] in {row["prompt"] for row in ROWS} and told["environment"]["model_hash"]


def test_one_failing_prompt_costs_its_own_cells(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("chains=none; ./extra.py:Fragile", "metrics=toy") == 1
    assert len(made()) == 8 + 6
    assert "seed 1, 'blue': ValueError: blue is not liked here" in capsys.readouterr().out
    costs = json.loads(Path("cmp/report.json").read_text())["costs"]
    assert [(cost["pictures"], cost["failures"]) for cost in costs] == [(8, 0), (6, 2)]
    (here / "extra.py").write_text(PLUGINS.replace('"blue" in ctx.prompts', "False", 1))
    assert evaluate("chains=none; ./extra.py:Fragile") == 0  # the file is another plugin now: all is drawn again


def test_a_chain_that_cannot_open_costs_its_own_cells(here: Path) -> None:
    assert evaluate("chains=./extra.py:Closed; none") == 1
    assert len(made()) == 8
    with Store("cmp") as store:
        assert [error for _, _, _, error in store.failures()] == ["ValueError: no model is good enough"] * 8


def test_a_full_disk_stops_the_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr("genbench.files.write_whole", full)
    with pytest.raises(OutputError, match="full"):
        evaluate()
    with Store("cmp") as store:
        assert store.done() == set() and store.failures() == []


def test_scores_are_added_later_without_drawing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate()
    before = made()
    assert "no scores yet" in capsys.readouterr().out
    assert cli_main("score", ["cmp", "metrics=toy"]) == 0
    told = capsys.readouterr().out
    assert "| toy " in told and made() == before
    assert cli_main("report", ["cmp"]) == 0 and capsys.readouterr().out == told
    evaluate("metrics=toy", out="direct")
    lines = [json.loads(Path(out, "report.json").read_text())["lines"] for out in ("cmp", "direct")]
    assert lines[0] == lines[1]


def test_set_metrics_on_any_encoder_against_a_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate("guidance_scale=5", "seeds=10..17", out="truth")
    shutil.copytree("truth", "reference", ignore=shutil.ignore_patterns("*.sqlite*", "*.md", "*.json"))
    words = ["metrics=kid,vendi", "encoder=./extra.py:Mean", "reference=reference"]
    assert evaluate("chains=none; search", *words) == 0
    lines = json.loads(Path("cmp/report.json").read_text())["lines"]
    kid = [line for line in lines if line["metric"] == "kid@./extra.py:Mean"]
    assert [line["chain"] for line in kid] == ["none", "search"]
    for line in kid:
        assert (
            line["estimate"]["n"] == 8 and line["estimate"]["low"] < line["estimate"]["mean"] < line["estimate"]["high"]
        )
    assert kid[1]["difference"]["mean"] == pytest.approx(kid[1]["estimate"]["mean"] - kid[0]["estimate"]["mean"])
    assert [1.0 < line["estimate"]["mean"] <= 2.0 for line in lines if line["metric"].startswith("vendi")] == [True] * 2
    with Store("cmp") as store:
        assert {(value.n, value.m) for value in store.sets() if value.metric == "kid"} == {(8, 32)}
    capsys.readouterr()
    assert cli_main("score", ["cmp", *words]) == 0
    assert json.loads(Path("cmp/report.json").read_text())["lines"] == lines


def test_a_file_that_is_gone_is_drawn_again(here: Path) -> None:
    evaluate()
    before = made()
    next(Path("cmp").rglob("*.png")).unlink()
    assert evaluate() == 0 and made() == before


def test_what_a_killed_process_left_half_written_is_removed(here: Path) -> None:
    evaluate()
    left = next(Path("cmp").rglob("*.png")).parent / ".x-seed1.png.12-0123abcd.part"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    evaluate()
    assert not left.exists()


def test_a_scorer_that_raises_costs_its_own_values(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("metrics=toy,./extra.py:Choosy") == 1
    said = capsys.readouterr()
    assert "./extra.py:Choosy: no value for 2 pictures: ValueError: blue has no score" in said.err
    lines = json.loads(Path("cmp/report.json").read_text())["lines"]
    whole = {line["metric"]: line["estimate"]["n"] for line in lines if line["group"] == "all"}
    assert (whole["toy"], whole["./extra.py:Choosy"]) == (8, 6)
    (here / "extra.py").write_text(PLUGINS.replace('"blue"', '"green"'))
    assert cli_main("score", ["cmp", "metrics=./extra.py:Choosy"]) == 0
    assert "no value" not in capsys.readouterr().err


def test_a_set_metric_that_raises_costs_its_own_value(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("metrics=./extra.py:Never,vendi,toy", "encoder=./extra.py:Mean") == 1
    said = capsys.readouterr()
    assert "./extra.py:Never@./extra.py:Mean: ValueError: never" in said.err
    assert {line["metric"] for line in json.loads(Path("cmp/report.json").read_text())["lines"]} == {
        "toy",
        "vendi@./extra.py:Mean",
    }


def test_resume_false_wants_a_new_folder(here: Path) -> None:
    assert evaluate("resume=false") == 0
    with pytest.raises(UsageError, match="resume=false, but 'cmp' holds a comparison already"):
        evaluate("resume=false")
    assert evaluate("resume=true") == 0


def test_rows_are_told_apart_by_chain_and_swept_values(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["chains=none; search", "sweep.steps=2,3", "sweep.search.candidates=2,4"]
    base = ["model=toy", "prompts=p.jsonl", "seeds=0", "out=cmp", "metrics=toy"]
    assert cli_main("eval", [*base, *words]) == 0
    lines = json.loads(Path("cmp/report.json").read_text())["lines"]
    assert [line["chain"] for line in lines if line["group"] == "all" and line["metric"] == "toy"] == [
        "none steps=2",
        "none steps=3",
        "search steps=2 candidates=2",
        "search steps=2 candidates=4",
        "search steps=3 candidates=2",
        "search steps=3 candidates=4",
    ]


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["plugin=search"], UsageError, "chains="),
        (["chains=;"], UsageError, "empty"),
        (["chains=serch"], PluginError, "did you mean 'search'"),
        (["metrics=toi"], PluginError, "toy"),
        (["metric=toy"], UsageError, "did you mean 'metrics'"),
        (["metrics=kid", "model=toy"], UsageError, "kid@ENCODER"),
        (["metrics=toy@solids-clip"], UsageError, "takes no encoder"),
        (["search.candidates=4"], UsageError, "in no chain"),
        (["workers=0"], UsageError, "workers"),
        (["metrics=kid@./extra.py:Mean", "reference=nowhere"], UsageError, "no folder of pictures"),
        (["metrics=kid@./extra.py:Mean", "reference=toy"], UsageError, "renders no reference"),
    ],
)
def test_mistakes_stop_before_anything_is_drawn(
    here: Path, words: list[str], error: type[Exception], says: str
) -> None:
    base = [word for word in ["model=toy", "prompts=p.jsonl", "out=cmp"] if word not in words]
    with pytest.raises(error, match=says):
        cli_main("eval", [*base, *words])
    assert not list(Path("cmp").rglob("*.png"))


@pytest.mark.parametrize(
    ("verb", "words", "says"),
    [
        ("report", [], "one folder"),
        ("report", ["nowhere"], "genbench eval"),
        ("report", ["nowhere", "steps=3"], "draws nothing, so steps= has no place"),
        ("report", ["nowhere", "sweep.steps=3"], "draws nothing, so sweep.steps= has no place"),
        ("export", ["nowhere", "out=x.csv"], "genbench eval"),
        ("score", ["nowhere"], "metrics="),
    ],
)
def test_score_and_report_say_what_they_need(here: Path, verb: str, words: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        cli_main(verb, words)


@pytest.mark.parametrize(
    ("verb", "says"), [("eval", "sweep"), ("score", "metrics="), ("report", "by="), ("export", "layout=")]
)
def test_every_verb_lists_its_words(verb: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_main(verb, ["--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"genbench {verb} ") and says in told


@pytest.mark.parametrize("verb", ["eval", "score"])
def test_a_folder_has_one_command_at_a_time(here: Path, verb: str) -> None:
    evaluate()
    with locked(Path("cmp"), "eval"), pytest.raises(UsageError, match=rf"genbench eval is at work.*{os.getpid()}"):
        evaluate() if verb == "eval" else cli_main("score", ["cmp", "metrics=toy"])
    assert cli_main("score", ["cmp", "metrics=toy"]) == 0 and not Path("cmp/.lock").exists()


def test_scores_are_made_on_the_device_that_is_named(here: Path) -> None:
    evaluate()
    with pytest.raises(UsageError, match="device='cuda:99' is not here"):
        cli_main("score", ["cmp", "metrics=toy", "device=cuda:99"])
    assert cli_main("score", ["cmp", "metrics=toy", "device=cpu", "offline=true"]) == 0


@pytest.mark.parametrize("verb", ["score", "report"])
def test_a_column_that_no_prompt_has(here: Path, verb: str) -> None:
    evaluate()
    with pytest.raises(UsageError, match="by=kynd: no prompt has a column 'kynd'; did you mean 'kind'"):
        cli_main(verb, ["cmp", "by=kynd", *(["metrics=toy"] if verb == "score" else [])])


def test_words_for_set_metrics_that_none_uses_are_said(here: Path) -> None:
    evaluate()
    with pytest.warns(UserWarning, match="reference= is for set metrics, and metrics= names none"):
        cli_main("score", ["cmp", "metrics=toy", "reference=cmp"])


def test_a_dry_run_of_what_cannot_be_drawn_is_refused(here: Path) -> None:
    with pytest.raises(UsageError, match="1 of 2 chains cannot be drawn.*nope"):
        evaluate("--dry-run", "sweep.sampler=euler,nope")
    assert not Path("cmp").exists()


def test_places_that_hold_no_comparison(here: Path) -> None:
    Path("file").touch()
    with pytest.raises(UsageError, match="'file' is a file; give a folder"):
        evaluate(out="file")
    Path("broken").mkdir()
    Path("broken/results.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(UsageError, match="cannot be opened.*give another folder"):
        evaluate(out="broken")


def test_a_file_that_was_cut_short_is_drawn_again(here: Path) -> None:
    evaluate()
    before, path = made(), next(Path("cmp").rglob("*.png"))
    path.write_bytes(path.read_bytes()[:50])
    assert evaluate() == 0 and made() == before


def test_pictures_of_unlike_versions_are_told(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate("seeds=0")
    assert "unlike versions" not in capsys.readouterr().err
    monkeypatch.setattr("genbench.record.version", lambda name: "0.0.1")
    evaluate("seeds=0..1")
    told = capsys.readouterr().err
    assert "pictures of unlike versions or devices are compared: 4 with " in told and "torch 0.0.1" in told


def test_a_verifier_of_a_row_judges_its_search(here: Path) -> None:
    rows = [{"prompt": "red"}, {"prompt": "blue", "verifier": "./extra.py:Bright"}]
    (here / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (here / "extra.py").write_text(PLUGINS + BRIGHT)
    assert evaluate("chains=search", "search.candidates=3", "seeds=0") == 0
    found: dict[str, tuple[float, float]] = {}
    for path in Path("cmp").rglob("*.png"):
        opened = Image.open(path)
        told = json.loads(opened.text["genbench"])["picture"]  # type: ignore[attr-defined]
        found[told["prompt"]] = (told["score"], float(np.asarray(opened).mean()) / 255)
    score, mean = found["blue"]
    assert score == pytest.approx(mean, abs=0.01) and abs(found["red"][0] - found["red"][1]) > 0.01


@pytest.mark.parametrize(
    ("words", "beside"),
    [
        (["workers=1"], False),
        (["workers=2"], True),
        (["ray=auto"], True),
        (["workers=2", "overlap=false"], False),
        (["overlap=true"], True),
    ],
)
def test_scoring_runs_beside_drawing_where_it_takes_nothing_from_it(here: Path, words: list[str], beside: bool) -> None:
    asked = sort_words({"model": "toy", "prompts": "p.jsonl", **dict(word.split("=", 1) for word in words)})
    assert command._overlaps(asked.own, plan(asked).settings) is beside


# --- processes ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_workers_make_the_same_pictures(here: Path) -> None:
    assert evaluate("workers=2", "batch_size=2", out="two") == 0
    assert evaluate("batch_size=2", out="one") == 0
    assert made("two") == made("one")


@pytest.mark.slow
def test_a_worker_that_dies_costs_the_cells_that_kill_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("chains=./extra.py:Deadly", "workers=2", "batch_size=4") == 1
    assert len(made()) == 6
    assert "ended with exit code 9" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_run_loses_nothing_and_goes_on_with_other_workers(here: Path) -> None:
    words = [
        "model=toy",
        "steps=3",
        "prompts=p.jsonl",
        "seeds=0..9",
        "out=cmp",
        "chains=./extra.py:Slow",
        "batch_size=1",
    ]
    command = [sys.executable, "-m", "genbench", "eval", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [*command, "workers=2"], env=environment, start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 250
    while time.monotonic() < deadline and len(list(Path("cmp").rglob("*.png"))) < 5:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with Store("cmp") as store:
        before = {picture.key: picture.image for picture in store.pictures()}
    assert 4 <= len(before) < 40
    assert cli_main("eval", words) == 0
    assert len(made()) == 40 and before.items() <= made().items()


def test_settings_are_those_a_picture_was_drawn_with(here: Path) -> None:
    """A column that overrides a setting stands in the export, and beside the chain's own in the page."""
    Path("own.csv").write_text("prompt,guidance_scale\nred,1\nblue,\n")
    assert cli_main("eval", ["model=toy", "steps=2", "prompts=own.csv", "seeds=0", "guidance_scale=2", "out=own"]) == 0
    cli_main("export", ["own", "out=own.csv.csv"])
    with Path("own.csv.csv").open() as file:
        told = {row["prompt"]: float(row["settings.guidance_scale"]) for row in csv.DictReader(file)}
    assert told == {"red": 1.0, "blue": 2.0}
    assert "(rows of their own: 1)" in Path("own/report.html").read_text()


def test_metrics_come_in_the_order_asked_for_and_say_what_is_better(here: Path) -> None:
    assert evaluate("chains=none", "metrics=toy", "seeds=0..1") == 0
    cli_main("score", ["cmp", "metrics=compressibility"])
    told = json.loads(Path("cmp/report.json").read_text())
    assert list(dict.fromkeys(line["metric"] for line in told["lines"]))[:2] == ["toy", "compressibility"]
    taken = {each["metric"]: each for each in told["measured"]}
    assert taken["toy"]["how"].startswith("larger is better") and taken["toy"]["n"] == len(made())


@pytest.mark.parametrize(("verb", "has", "lacks"), [("score", "device=", "workers="), ("report", "by=", "metrics=  ")])
def test_a_verb_lists_its_own_words_alone(verb: str, has: str, lacks: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_main(verb, ["--help"]) == 0
    told = capsys.readouterr().out
    assert has in told and lacks not in told
