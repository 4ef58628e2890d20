"""A report as text (Markdown that reads well in a terminal) and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import isfinite, isnan
from pathlib import Path
from typing import Any, cast

from genbench import files
from genbench.evaluation.report import Cost, Failure, Line, Report
from genbench.evaluation.statistics import Estimate

SHOWN_FAILURES = 10
NOTE = "95 % intervals, clustered by prompt; differences are paired by prompt and seed, against the first chain."


def markdown(report: Report) -> str:
    """Return the report as text."""
    parts = [_scores(report.lines), NOTE if report.lines else "", _costs(report.costs), _failures(report.failures)]
    return "\n\n".join(part for part in parts if part) + "\n"


def save(report: Report, folder: Path) -> None:
    """Write report.md and report.json into the folder, each in one piece. Raises OutputError."""
    files.write_whole(folder / "report.md", markdown(report).encode())
    text = json.dumps(_finite(asdict(report)), ensure_ascii=False, indent=1)
    files.write_whole(folder / "report.json", text.encode())


def _scores(lines: Sequence[Line]) -> str:
    compared = any(line.difference is not None for line in lines)
    head = ["metric", "prompts", "chain", "n", "value", "95 %", *(["difference", "95 %"] if compared else [])]
    rows = [_line(line, compared) for line in lines]
    return _table(head, rows) if rows else "no scores yet: genbench score OUT metrics=NAME"


def _line(line: Line, compared: bool) -> list[str]:
    cells = [line.metric, line.group, line.chain, str(line.estimate.n), *_estimate(line.estimate, line.rate, False)]
    if compared:
        cells += ["", ""] if line.difference is None else _estimate(line.difference, line.rate, True)
    return cells


def _estimate(estimate: Estimate, rate: bool, sign: bool) -> list[str]:
    low, high = (_number(bound, rate, sign) for bound in (estimate.low, estimate.high))
    interval = "" if isnan(estimate.low) else f"[{low}, {high}]"
    return [_number(estimate.mean, rate, sign) + (" %" if rate else ""), interval]


def _number(value: float, rate: bool, sign: bool) -> str:
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.1f}" if rate else f"{value:{plus}.4g}"


def _costs(costs: Iterable[Cost]) -> str:
    rows = [[c.chain, str(c.pictures), str(c.failures), f"{c.nfe:.1f}", f"{c.seconds:.3g}"] for c in costs]
    return _table(["chain", "pictures", "failed", "evaluations each", "seconds each"], rows)


def _failures(failures: Sequence[Failure]) -> str:
    shown = [f"- {f.chain}, seed {f.seed}, '{f.prompt[:60]}': {f.error}" for f in failures[:SHOWN_FAILURES]]
    more = len(failures) - len(shown)
    return "\n".join(["failed:", *shown, *([f"- and {more} more"] if more else [])]) if failures else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[_cell(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _finite(value: Any) -> Any:
    """JSON has no nan: None instead."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in cast(dict[str, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in cast(Sequence[Any], value)]
    return None if isinstance(value, float) and not isfinite(value) else value
