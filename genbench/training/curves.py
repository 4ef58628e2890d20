"""Curves: one JSON line per look, in a file that anything can plot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from genbench.training.place import Place


def curve_path(place: Place, name: str) -> Path:
    """Where the curve of a training called `name` lies."""
    return place.at("curves", f"{name}.jsonl")


def log(place: Place, name: str, line: Mapping[str, float]) -> None:
    """Append one JSON line to a curve."""
    path = curve_path(place, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({key: float(f"{value:.6g}") for key, value in line.items()}) + "\n")


def read(place: Place, name: str) -> list[dict[str, float]]:
    """Return the lines of a curve; the last of a step that was logged twice (a killed run repeats some)."""
    path = curve_path(place, name)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return list({line["step"]: line for line in lines}.values())
