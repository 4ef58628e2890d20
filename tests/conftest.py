"""What every test runs under: one thread, no network, no settings of the person who runs it."""

import os

# One torch thread per process: two processes beat two threads. Read when torch is imported, hence before it.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_allowed = False


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for the whole suite or a folder; none where test files are named, so that they start at once."""
    return 2 if all(Path(word.partition("::")[0]).is_dir() for word in config.args) else 0


def _refuse_network() -> None:
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(what: object, family: int | None = None) -> None:
        if not _allowed and family != socket.AF_UNIX:
            pytest.fail(f"a test reached for the network: {what}; mark it `sockets` if it must", pytrace=True)

    def checked_connect(self: socket.socket, address: object) -> None:
        check(address, self.family)
        return connect(self, address)  # type: ignore[arg-type]

    def checked_connect_ex(self: socket.socket, address: object) -> int:
        check(address, self.family)
        return connect_ex(self, address)  # type: ignore[arg-type]

    def checked_look_up(host: object, *rest: object, **named: object) -> object:
        check(host)
        return look_up(host, *rest, **named)  # type: ignore[arg-type]

    socket.socket.connect = checked_connect  # type: ignore[method-assign]
    socket.socket.connect_ex = checked_connect_ex  # type: ignore[method-assign]
    socket.getaddrinfo = checked_look_up  # type: ignore[assignment]


_refuse_network()


@pytest.fixture(autouse=True)
def _network(request: pytest.FixtureRequest) -> Iterator[None]:
    global _allowed
    _allowed = request.node.get_closest_marker("sockets") is not None
    yield
    _allowed = False


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hide GENBENCH_* variables and the user's settings file and caches."""
    for name in [name for name in os.environ if name.startswith("GENBENCH_")]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.getbasetemp() / "home"
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(home / name.lower()))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture
def root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is also the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
