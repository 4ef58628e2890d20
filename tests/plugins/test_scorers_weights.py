"""Where weights come from, what they are called, and what is refused before anything opens."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

import genbench
from genbench import cli, discovery
from genbench.errors import MissingDependency, ModelError
from genbench_scorers import weights
from genbench_scorers.batches import in_batches, of_distinct
from tests.plugins import scorers_published as published

PUBLISHED = {
    "aesthetic": "aesthetic.weights=FILE",
    "clip": "hf download openai/clip-vit-large-patch14` where there is a network and give clip.model=FOLDER",
    "hpsv2": "fetch HPS_v2.1_compressed.pt of xswu/HPSv2 on another machine and give its path, with hpsv2.weights=FILE",
    "imagereward": "fetch ImageReward.pt of zai-org/ImageReward on another machine",
    "pickscore": "hf download yuvalkirstain/PickScore_v1",
    "vqascore": "hf download Qwen/Qwen2.5-VL-7B-Instruct",
}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache and no network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_offline_it_says_what_to_download_and_what_to_give(name: str, offline: None) -> None:
    """When the metrics of a command are read, before a picture is drawn."""
    with pytest.raises(ModelError) as raised:
        _ = discovery.build(name, {}, ("scorer",)).fingerprint
    assert PUBLISHED[name] in str(raised.value) and "\n" not in str(raised.value)


DRAWN = ["eval", "model=toy", "steps=2", "prompts=p.jsonl", "out=cmp"]
OFFLINE = {
    "a scorer": ([*DRAWN, "metrics=clip"], "clip.model=FOLDER"),
    "an encoder": ([*DRAWN, "metrics=kid@inception", "inception.weights=hf:org/name/w.pth"], "inception.weights=FILE"),
    "a verifier": (["run", "model=toy", "prompt=red", "plugin=search", "verifier=hpsv2"], "hpsv2.weights=FILE"),
}


@pytest.mark.parametrize("case", list(OFFLINE))
def test_offline_true_keeps_judges_from_the_hub(
    case: str, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sockets are refused in every test: one that reached for the Hub would fail here."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(work / "empty"))
    (work / "p.jsonl").write_text('{"prompt": "red"}\n')
    words, says = OFFLINE[case]
    assert cli.main([*words, "offline=true"]) == ModelError.exit_code
    told = capsys.readouterr().err
    assert says in told and "offline=true" in told and told.count("\n") == 1
    assert not constants.HF_HUB_OFFLINE and not list(work.glob("**/*.png"))


def test_offline_holds_from_python_as_well(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(work / "empty"))
    words: dict[str, Any] = {"model": "toy", "prompt": "red", "plugin": "search", "verifier": "clip"}
    with pytest.raises(ModelError, match="out of bounds .offline=true"):
        genbench.generate(offline=True, **words)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("nowhere", "clip.model=nowhere is neither a folder nor a Hub id"),
        ("./nowhere", "neither a folder"),
        (".", "holds no config.json; give a folder as transformers saves it"),
    ],
)
def test_a_word_that_is_no_folder(word: str, says: str, work: Path) -> None:
    with pytest.raises(ModelError, match=says):
        weights.found_folder(word, "clip.model")


@pytest.mark.parametrize(("word", "says"), [("", "x= has to name the weights; get it"), ("no.pt", "x=no.pt does not")])
def test_a_word_that_is_no_file(word: str, says: str, work: Path) -> None:
    with pytest.raises(ModelError, match=says):
        weights.found_file(word, "x", "get it")


def test_of_the_hub_safetensors_are_taken_and_pickles_only_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[list[str]] = []

    def download(word: str, allow_patterns: Sequence[str]) -> str:
        asked.append(list(allow_patterns))
        if any("bin" in pattern for pattern in allow_patterns):
            (tmp_path / "pytorch_model.bin").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert weights.found_folder("org/old", "clip.model") == tmp_path
    assert ["model*.safetensors" in each for each in asked] == [True, False]
    weights.found_folder("org/old", "clip.model")
    assert len(asked) == 2, "the Hub is asked once per process"
    asked.clear()
    (tmp_path / "model.safetensors").touch()
    weights.found_folder("org/new", "clip.model")
    assert len(asked) == 1 and not any("bin" in pattern or pattern == "*" for pattern in asked[0])


def test_version_follows_content_and_not_place(tmp_path: Path) -> None:
    one, _ = published.clip_folder(tmp_path / "one")
    other, _ = published.clip_folder(tmp_path / "other")
    assert weights.version(one) == weights.version(other)
    assert weights.version(one).startswith("weights ") and len(weights.version(one)) == 20
    (other / "README.md").write_text("not part of it")
    assert weights.version(one) == weights.version(other)
    published.clip_folder(tmp_path / "other", seed=1)
    assert weights.version(one) != weights.version(other)
    published.clip_folder(tmp_path / "other", projection_dim=25)
    assert weights.version(one) != weights.version(other)


def test_version_of_a_cached_file_is_that_of_the_same_file_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The Hub's cache names a large file by its SHA-256; it is not read again."""
    content = b"weights"
    blob = tmp_path / "blobs" / hashlib.sha256(content).hexdigest()
    blob.parent.mkdir()
    blob.write_bytes(content)
    (tmp_path / "cached.pt").symlink_to(blob)
    plain = tmp_path / "copy" / "cached.pt"
    plain.parent.mkdir()
    plain.write_bytes(content)
    expected = weights.version(plain)
    monkeypatch.setattr(weights, "file_hash", lambda file: pytest.fail(f"{file} was read"))
    assert weights.version(tmp_path / "cached.pt") == expected


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def test_a_pickle_with_code_does_not_run(work: Path) -> None:
    (work / "hostile.pt").write_bytes(pickle.dumps({"weight": Hostile()}))
    with pytest.raises(ModelError, match="hostile.pt cannot be read as tensors"):
        weights.state_dict(work / "hostile.pt")
    assert not (work / "ran").exists()


def test_a_file_that_is_cut_short(work: Path) -> None:
    torch.save({"weight": torch.zeros(1000)}, work / "whole.pt")
    (work / "cut.pt").write_bytes((work / "whole.pt").read_bytes()[:900])
    with pytest.raises(ModelError, match="cut.pt cannot be read"):
        weights.state_dict(work / "cut.pt")


def test_safetensors_and_wrapped_pickles_read_alike(work: Path) -> None:
    from safetensors.torch import save_file

    tensors = {"weight": torch.arange(3.0)}
    save_file(tensors, work / "a.safetensors")
    torch.save({"state_dict": tensors, "epoch": 3}, work / "b.pt")
    for name in ("a.safetensors", "b.pt"):
        assert torch.equal(weights.state_dict(work / name)["weight"], tensors["weight"])


def test_a_missing_package_is_named_with_its_line() -> None:
    with pytest.raises(MissingDependency, match=r"hpsv2 needs the package 'no_such_package': pip install 'genbench\[e"):
        weights.package("no_such_package", "hpsv2")


# --- lists --------------------------------------------------------------------------------------------------------


def test_in_batches_keeps_rows_together() -> None:
    asked: list[tuple[int, list[str]]] = []

    def judge(images: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        asked.append((len(images), list(texts)))
        return images[:, 0]

    found = in_batches(torch.arange(5.0)[:, None], list("abcde"), 2, judge)
    assert found.tolist() == [0, 1, 2, 3, 4]
    assert asked == [(2, ["a", "b"]), (2, ["c", "d"]), (1, ["e"])]


def test_each_distinct_text_is_embedded_once() -> None:
    asked: list[list[str]] = []

    def embed(texts: Sequence[str]) -> torch.Tensor:
        asked.append(list(texts))
        return torch.tensor([[float(len(text))] for text in texts])

    assert of_distinct(["bb", "a", "bb", "ccc", "a"], embed)[:, 0].tolist() == [2, 1, 2, 3, 1]
    assert asked == [["bb", "a", "ccc"]]
