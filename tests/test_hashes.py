"""Hashes of weight files: read once, remembered on the disk, read again where the file is another."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from genbench import hashes


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file worth remembering that has not changed for a while; no process knows it yet."""
    monkeypatch.setenv("GENBENCH_CACHE_DIR", str(tmp_path / "cache"))
    return written(tmp_path / "w.safetensors", b"a" * hashes.WORTH)


def written(path: Path, data: bytes, changed: int = 1_000_000_000) -> Path:
    path.write_bytes(data)
    os.utime(path, (changed, changed))
    return path


def in_a_new_process(file: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, bool]:
    """Return the hash as a new process gets it, and whether the file was read for it."""
    read, digest = list[bool](), hashlib.file_digest
    monkeypatch.setattr(hashes, "_hashes", {})
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: (read.append(True), digest(*given))[1])
    found = hashes.file_hash(file)
    monkeypatch.setattr(hashlib, "file_digest", digest)
    return found, bool(read)


def test_a_file_is_read_once_for_all_processes(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert in_a_new_process(weights, monkeypatch) == (told, True)
    assert in_a_new_process(weights, monkeypatch) == (told, False)
    link = weights.with_name("link.safetensors")
    link.symlink_to(weights)
    assert in_a_new_process(link, monkeypatch) == (told, False)


def test_another_time_size_or_inode_is_another_file(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = in_a_new_process(weights, monkeypatch)
    changes = [(b"b" * hashes.WORTH, 1_000_000_001), (b"c" * (hashes.WORTH + 1), 1_000_000_000)]
    for data, changed in changes:
        written(weights, data, changed)
        found, read = in_a_new_process(weights, monkeypatch)
        assert read and found == hashlib.sha256(data).hexdigest() != before
    other = written(weights.with_name("other"), b"d" * (hashes.WORTH + 1))
    other.replace(weights)  # the same path, size and time
    assert in_a_new_process(weights, monkeypatch) == (hashlib.sha256(b"d" * (hashes.WORTH + 1)).hexdigest(), True)


@pytest.mark.parametrize("size", [hashes.WORTH, hashes.WORTH - 1])
def test_a_file_that_changed_just_now_and_a_small_one_leave_nothing(
    weights: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    file = weights.with_name("new")
    if size < hashes.WORTH:
        written(file, b"a" * size)
    else:
        file.write_bytes(b"a" * size)
    in_a_new_process(file, monkeypatch)
    assert in_a_new_process(file, monkeypatch)[1] and not hashes.folder().exists()


@pytest.mark.parametrize("left", [b"", b"abc", b"\xff" * 64])
def test_a_broken_memory_costs_a_reading(weights: Path, monkeypatch: pytest.MonkeyPatch, left: bytes) -> None:
    told, _ = in_a_new_process(weights, monkeypatch)
    (kept,) = hashes.folder().iterdir()
    kept.write_bytes(left)
    assert in_a_new_process(weights, monkeypatch) == (told, True)
    assert in_a_new_process(weights, monkeypatch) == (told, False)


def test_a_cache_folder_that_cannot_be_made_stops_nothing(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_CACHE_DIR", str(weights))  # a file
    assert in_a_new_process(weights, monkeypatch)[1] and in_a_new_process(weights, monkeypatch)[1]
