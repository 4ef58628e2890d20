"""The words of `genbench train`."""

from pathlib import Path

import pytest

from genbench.cli import main
from genbench.errors import PluginError, UsageError
from genbench.training.job import own_device, parse, train

TRAINER = """from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from genbench.kinds import About, TrainJob

@dataclass(frozen=True)
class Small:
    rate: float = 0.1
    about: ClassVar[About] = About("Writes down what it was asked.")

    def train(self, job: TrainJob) -> Path:
        result = job.run / "result.txt"
        said = (self.rate, job.seed, job.resume, job.prompts, type(job.reward).__name__, job.model and job.model.family)
        result.write_text(repr(said))
        return result
"""


@pytest.fixture(autouse=True)
def _trainer(work: Path) -> None:
    (work / "small.py").write_text(TRAINER)


def test_words_become_a_job(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "p.txt").write_text("red\nblue\n")
    words = [
        "plugin=./small.py:Small",
        "small.rate=0.5",
        "seed=3",
        "prompts=p.txt",
        "reward=toy",
        "model=toy",
        "run=here",
    ]
    assert main(["train", *words]) == 0
    assert (work / "here" / "result.txt").read_text() == "(0.5, 3, False, ('red', 'blue'), 'ToyScorer', 'toy')"
    assert capsys.readouterr().out.startswith("here/result.txt: ")
    assert main(["train", *words]) == 2
    assert "run=here is not empty; add resume=true" in capsys.readouterr().err
    assert main(["train", *words, "resume=true"]) == 0
    assert "True" in (work / "here" / "result.txt").read_text()


def test_scorer_is_another_word_for_reward() -> None:
    request, _ = parse({"plugin": "./small.py:Small", "scorer": "toy"})
    assert request.reward == "toy"
    with pytest.raises(UsageError, match="scorer= and reward= are the same word; give one"):
        parse({"plugin": "./small.py:Small", "scorer": "toy", "reward": "toy"})


def test_a_scorer_has_options_of_its_own() -> None:
    _, owned = parse({"plugin": "./small.py:Small", "scorer": "ensemble", "ensemble.rule": "rank", "small.rate": "2"})
    assert owned == {"ensemble": {"rule": "rank"}, "small": {"rate": "2"}}
    with pytest.raises(UsageError, match=r"the trainer is 'small'; write small.rule= \(or of ensemble\)"):
        parse({"plugin": "./small.py:Small", "scorer": "ensemble", "pickscore.rule": "rank"})


def test_what_is_wrong_is_said_before_the_model_opens(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genbench.models.open_model", lambda *_, **__: pytest.fail("the model was opened"))
    with pytest.raises(PluginError, match="no scorer 'tyo'; did you mean 'toy'"):
        train({"plugin": "./small.py:Small", "model": "toy", "scorer": "tyo", "run": "here"})
    assert not Path("here").exists()


def test_a_trainer_is_refused_on_a_family_it_does_not_hold_for(work: Path) -> None:
    (work / "small.py").write_text(TRAINER.replace('asked.")', 'asked.", families=("sdxl",))'))
    with pytest.raises(PluginError, match="'small' does not hold for models of family 'toy', only for sdxl"):
        train({"plugin": "./small.py:Small", "model": "toy"})


def test_a_training_gets_a_folder_of_its_own(work: Path) -> None:
    paths = [train({"plugin": "./small.py:Small"}) for _ in range(2)]
    assert len({*paths}) == 2 and all("-train-small" in path.parent.name for path in paths)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "train needs plugin=NAME"),
        ({"plugin": "./small.py:Small", "sed": "1"}, "no word 'sed' for train; did you mean 'seed'"),
        ({"plugin": "./small.py:Small", "seed": "-1"}, "seed=-1 is out of range"),
        ({"plugin": "./small.py:Small", "other.rate": "1"}, "the trainer is 'small'; write small.rate="),
    ],
)
def test_words_that_are_wrong(words: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(words)


def test_resuming_needs_a_folder() -> None:
    with pytest.raises(UsageError, match="name it with run="):
        train({"plugin": "./small.py:Small", "resume": "true"})


def test_processes_share_the_folder_that_is_named(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `accelerate launch` starts them: the first may have begun to write when another comes."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        train({"plugin": "./small.py:Small", "run": "here"})
    with pytest.raises(UsageError, match="several processes need one folder; name it with run="):
        train({"plugin": "./small.py:Small"})


def test_every_process_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert own_device("auto") == "auto"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device("auto") == "cuda:1" and own_device("cpu") == "cpu"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert own_device("auto") == "auto"
