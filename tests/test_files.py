"""Files are whole or absent: full disks, read-only folders, processes that race or are killed."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from genbench import files
from genbench.errors import OutputError


def fail(number: int) -> Callable[..., None]:
    def failing(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    return failing


def test_a_file_is_written_and_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    files.write_whole(target, b"one")
    files.write_whole(target, b"two")
    assert target.read_bytes() == b"two" and [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("os.fsync", errno.ENOSPC, "the disk is full"),
        ("os.fsync", errno.EDQUOT, "the disk quota is used up"),
        ("Path.open", errno.EROFS, "it is read-only"),
        ("Path.open", errno.EACCES, "Permission denied"),
        ("Path.replace", errno.EIO, "Input/output error"),
    ],
)
def test_a_write_that_fails_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, message: str
) -> None:
    old, new = tmp_path / "old.png", tmp_path / "new.png"
    files.write_whole(old, b"kept")
    owner, _, attribute = name.rpartition(".")
    monkeypatch.setattr(getattr(files, owner), attribute, fail(number))
    for target in (old, new):
        with pytest.raises(OutputError, match=message) as error:
            files.write_whole(target, b"x" * 10_000)
        assert "\n" not in str(error.value) and str(target) in str(error.value)
    monkeypatch.undo()
    assert old.read_bytes() == b"kept" and [path.name for path in tmp_path.iterdir()] == ["old.png"]


def test_a_write_cut_off_by_the_system_leaves_nothing(tmp_path: Path) -> None:
    """The limit on a file's size stops a real write in the middle, as a full disk does."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from genbench import files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "folder = Path(sys.argv[1])\n"
        "files.write_whole(folder / 'small.png', b'x' * 4000)\n"
        "try: files.write_whole(folder / 'large.png', b'x' * 9000)\n"
        "except files.OutputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "large.png could not be written: File too large" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["small.png"]


def test_an_interrupt_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_whole(tmp_path / "a.png", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_never_given_twice(tmp_path: Path) -> None:
    names = [files.new_folder(tmp_path / "deep", "run").name for _ in range(3)]
    assert names == ["run", "run-2", "run-3"]


def test_folders_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        files.new_folder(tmp_path / "file", "run")
    monkeypatch.setattr(Path, "mkdir", fail(errno.EROFS))
    with pytest.raises(OutputError, match="it is read-only; .*out="):
        files.new_folder(tmp_path / "else", "run")


def claim(parent: str, count: int) -> list[str]:
    return [str(files.new_folder(Path(parent), "run")) for _ in range(count)]


def test_two_processes_never_share_a_folder(tmp_path: Path) -> None:
    with get_context("spawn").Pool(2) as pool:
        taken = pool.starmap(claim, [(str(tmp_path), 40)] * 2)
    assert len({*taken[0], *taken[1]}) == 80
