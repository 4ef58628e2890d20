"""Importing plugins in other processes: what crashes, prints or hangs there harms nothing here.

`check` gives each plugin a process of its own (`genbench plugins --check`); `readiness` asks for all in one, which is
faster and enough to say which could run (`genbench doctor`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any, cast

from genbench import discovery, listing
from genbench.errors import GenbenchError
from genbench.kinds import Source
from genbench.listing import Row

SECONDS = 180.0
ALL_SECONDS = 600.0
LOST = "the process that imported it ended; `genbench plugins --check` says why"
_MARK = "genbench-check:"


def check(rows: Sequence[Row], seconds: float = SECONDS) -> tuple[dict[str, Any], ...]:
    """Return each plugin's description, or its metadata and `error`, one line. Two processes at a time."""
    with ThreadPoolExecutor(2) as pool:
        return tuple(pool.map(_checked, rows, repeat(seconds)))


def _checked(row: Row, seconds: float) -> dict[str, Any]:
    known = {"name": row.name, "kinds": list(row.kinds), "version": row.version, "distribution": row.distribution}
    try:
        done = _run(["check", row.key], seconds)
    except subprocess.TimeoutExpired:
        return {**known, "error": f"its import did not end within {seconds:g} s"}
    answers = _answers(done.stdout)
    return {**known, **answers[-1]} if answers else {**known, "error": _died(done)}


def readiness(rows: Sequence[Row], seconds: float = ALL_SECONDS) -> dict[str, str]:
    """Return {row key: `ready` or `lacks: one line`}, and the same under `open KEY` for what a source opens.

    The process is offline. Rows after one that ended the process are asked again, without it.
    """
    found: dict[str, str] = {}
    left = list(rows)
    while left:
        try:
            said = _run(["ready", *(row.key for row in left)], seconds).stdout
        except subprocess.TimeoutExpired as error:
            said = error.stdout.decode() if isinstance(error.stdout, bytes) else ""
        found |= {key: verdict for answer in _answers(said) for key, verdict in answer.items()}
        unasked = [row for row in left if row.key not in found]
        found |= {row.key: f"lacks: {LOST}" for row in unasked[:1]}
        left = unasked[1:]
    return found


def _run(words: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "genbench.plugincheck", *words]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, env=env)


def _answers(said: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix(_MARK)) for line in said.splitlines() if line.startswith(_MARK)]


def _died(done: subprocess.CompletedProcess[str]) -> str:
    last = (done.stderr.strip().splitlines() or [""])[-1]
    how = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with exit code {done.returncode}"
    return f"the process that imported it was {how}{': ' if last else ''}{last}"


# --- in the other process -----------------------------------------------------------------------------------------


def _child(what: str, *keys: str) -> None:
    rows = {row.key: row for row in listing.rows()}
    for key in keys:
        _tell(_description(rows[key]) if what == "check" else _ready(rows[key]))


def _tell(answer: dict[str, Any]) -> None:
    sys.stdout.write(f"\n{_MARK}{json.dumps(answer, default=listing.shown)}\n")
    sys.stdout.flush()


def _description(row: Row) -> dict[str, Any]:
    try:
        return listing.describe_row(row)
    except GenbenchError as error:
        return {"error": str(error)}


def _ready(row: Row) -> dict[str, str]:
    answer = {row.key: _verdict(lambda: listing.describe_row(row))}
    if "source" in row.kinds and answer[row.key] == "ready":
        answer[f"open {row.key}"] = _verdict(lambda: _open(row))
    return answer


def _verdict(ask: Callable[[], object]) -> str:
    try:
        ask()
        return "ready"
    except Exception as error:  # a broken plugin is a finding, not a failure
        return f"lacks: {error if isinstance(error, GenbenchError) else discovery.one_line(error)}"


def _open(row: Row) -> None:
    source = cast(Source, discovery.build(f"{row.distribution}:{row.name}", {}, ("source",)).object)
    opened = source.open()
    if isinstance(opened, Path) and not (opened / "model_index.json").is_file():
        raise FileNotFoundError(f"{opened.name}/model_index.json is not there")


if __name__ == "__main__":
    _child(*sys.argv[1:])
