"""A headless Chromium, driven over its debugging pipe (no socket, no driver package)."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
LAUNCH = "import os, sys; _, a, b, *run = sys.argv; os.dup2(int(a), 3); os.dup2(int(b), 4); os.execvp(run[0], run)"
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")


def program() -> str | None:
    """Return the path of a Chromium; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab. Every message that the page's console or the network says is kept in `events`."""

    def __init__(self, write: int, read: int) -> None:
        self.events: list[dict[str, Any]] = []
        self._write, self._read, self._rest, self._count, self._session = write, read, b"", 0, ""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self._count += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._count, "method": method, "params": params, **session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._read, 1 << 20)
            assert data, "the browser ended"
            self._rest += data
        whole, _, self._rest = self._rest.partition(b"\0")
        return json.loads(whole)

    def size(self, width: int, height: int, dark: bool = False) -> None:
        """Set the window's size in CSS pixels, a phone's below 600, and light or dark."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, file: Path, ready: str = "document.readyState === 'complete'") -> float:
        """Open a file and wait until the expression `ready` is true; returns the seconds that took."""
        began = time.monotonic()
        self.command("Page.navigate", url=file.resolve().as_uri())
        self.wait(ready)
        return time.monotonic() - began

    def wait(self, expression: str, seconds: float = 60) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """Evaluate an expression in the page."""
        told = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def key(self, name: str) -> None:
        """Press a key as a person does."""
        for kind in ("keyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=KEYS[name])

    def screenshot(self, file: Path) -> None:
        """Save what the window shows as PNG."""
        file.write_bytes(base64.b64decode(self.command("Page.captureScreenshot")["data"]))


KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27}


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """Start a Chromium with a profile of its own, offline; it ends with the block."""
    found = program()
    assert found is not None
    down, up = os.pipe(), os.pipe()
    theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (down[0], up[1])]
    command = [sys.executable, "-c", LAUNCH, *map(str, theirs), found, *FLAGS, f"--user-data-dir={profile}"]
    nothing = subprocess.DEVNULL
    process = subprocess.Popen([*command, "--remote-debugging-pipe"], pass_fds=theirs, stdout=nothing, stderr=nothing)
    for fd in (*theirs, down[0], up[1]):
        os.close(fd)
    try:
        yield Page(down[1], up[0])
    finally:
        process.terminate()
        process.wait(30)
        os.close(down[1])
        os.close(up[0])
