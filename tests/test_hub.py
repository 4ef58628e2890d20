"""Files of the Hub by one word."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from genbench import hub
from genbench.errors import ModelError


def test_word_becomes_repository_file_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def download(repository: str, file: str, **rest: object) -> str:
        asked.append((repository, file, rest))
        return "/cache/file"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert hub.fetch("hf:org/name/folder/file.txt@v1.0") == Path("/cache/file")
    hub.fetch("hf:org/name/file.txt")
    assert asked == [
        ("org/name", "folder/file.txt", {"revision": "v1.0"}),
        ("org/name", "file.txt", {"revision": None}),
    ]


@pytest.mark.parametrize("word", ["hf:", "hf:name/file", "org/name/file", "hf:org/name/"])
def test_malformed_words(word: str) -> None:
    with pytest.raises(ModelError, match="names no file of the Hub; write hf:org/name/file"):
        hub.fetch(word)


def test_what_is_in_the_cache_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: "/cache/w.safetensors")
    assert hub.fetch("hf:org/name/w.safetensors", local_only=True) == Path("/cache/w.safetensors")


def test_file_that_is_not_in_the_cache() -> None:
    with pytest.raises(ModelError, match="fetch w.safetensors of org/name on another machine and give its path"):
        hub.fetch("hf:org/name/w.safetensors", local_only=True)
    assert hub.is_hub_file("hf:org/name/w") and not hub.is_hub_file("w.safetensors")


def test_a_folder_of_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *given, **named: (asked.append((*given, named)), "/cache")[1]
    )
    assert hub.fetch("hf:org/name/prompts/", kind="dataset") == Path("/cache/prompts")
    patterns = {"allow_patterns": ["prompts/*"], "revision": None, "repo_type": "dataset"}
    assert asked == [("org/name", patterns)]


def test_a_data_set_in_the_cache_is_read_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached, commit = tmp_path / "datasets--org--name", "0123456789abcdef0123456789abcdef01234567"
    folder = cached / "snapshots" / commit / "prompts"
    folder.mkdir(parents=True)
    (folder / "1.txt").write_text("a cup")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for word in ("hf:org/name/prompts/1.txt", "hf:org/name/prompts/"):
        assert hub.fetch(word, local_only=True, kind="dataset").exists(), word
    for word in ("hf:org/name/prompts/2.txt", "hf:org/name/others/", "hf:org/other/prompts/"):
        with pytest.raises(ModelError, match="is not in the local cache"):
            hub.fetch(word, local_only=True, kind="dataset")


def test_while_the_hub_is_closed_nothing_is_asked_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with hub.closed():
        with hub.closed(False):
            assert hub.is_closed(), "an inner block opens nothing"
        with pytest.raises(
            ModelError, match="the Hub is out of bounds .offline=true or HF_HUB_OFFLINE.; fetch w of org"
        ):
            hub.fetch("hf:org/name/w")
    assert not hub.is_closed()
    with hub.closed(False):
        assert not hub.is_closed()
