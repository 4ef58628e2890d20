"""`genbench plugins --check`: import each plugin in a process of its own.

A plugin that crashes the interpreter, prints, or hangs is shown as broken with its reason and harms no other.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from genbench import listing
from genbench.errors import GenbenchError
from genbench.listing import Row

SECONDS = 180.0
_MARK = "genbench-check:"


def check(rows: Sequence[Row], seconds: float = SECONDS) -> tuple[dict[str, Any], ...]:
    """Return each plugin's description, or its metadata and `error`, one line. Two processes at a time."""
    with ThreadPoolExecutor(2) as pool:
        return tuple(pool.map(lambda row: _checked(row, seconds), rows))


def _checked(row: Row, seconds: float) -> dict[str, Any]:
    known = {"name": row.name, "kinds": list(row.kinds), "version": row.version, "distribution": row.distribution}
    command = [sys.executable, "-m", "genbench.plugincheck", f"{row.distribution}:{row.name}", row.value]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return {**known, "error": f"its import did not end within {seconds:g} s"}
    answers = [line.removeprefix(_MARK) for line in done.stdout.splitlines() if line.startswith(_MARK)]
    return {**known, **json.loads(answers[-1])} if answers else {**known, "error": _died(done)}


def _died(done: subprocess.CompletedProcess[str]) -> str:
    last = (done.stderr.strip().splitlines() or [""])[-1]
    how = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with exit code {done.returncode}"
    return f"the process that imported it was {how}{': ' if last else ''}{last}"


def _child(word: str, value: str) -> None:
    """Print the description of one plugin, or its error, on a line that starts with the mark."""
    try:
        found = next(listing.describe_row(row) for row in listing.rows(word) if row.value == value)
    except GenbenchError as error:
        found = {"error": str(error)}
    sys.stdout.write(f"\n{_MARK}{json.dumps(found, default=listing.shown)}\n")


if __name__ == "__main__":
    _child(*sys.argv[1:])
