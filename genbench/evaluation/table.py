"""A report as text (Markdown that reads well in a terminal) and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import isfinite, isnan
from pathlib import Path
from typing import Any, cast

from genbench import files
from genbench.evaluation.lines import Cost, Failure, Line, Report
from genbench.evaluation.statistics import Estimate

SHOWN_FAILURES = 10
NOTE = "95 % intervals, clustered by prompt."
COMPARED = (
    "Differences are paired by prompt and seed, against the first chain. wins-ties-losses counts pairs; p is the exact "
    "sign test over prompts, after Holm where several chains are compared."
)


def markdown(report: Report) -> str:
    """Return the report as text."""
    note = " ".join([NOTE, COMPARED]) if any(line.difference for line in report.lines) else NOTE
    parts = [
        _scores(report.lines),
        _ratios(report.lines),
        _equals(report.lines),
        note if report.lines else "",
        *report.notes,
    ]
    parts += [_costs(report.costs), _failures(report.failures)]
    return "\n\n".join(part for part in parts if part) + "\n"


def save(report: Report, folder: Path) -> None:
    """Write report.md and report.json into the folder, each in one piece. Raises OutputError."""
    files.write_whole(folder / "report.md", markdown(report).encode())
    text = json.dumps(_finite(asdict(report)), ensure_ascii=False, indent=1)
    files.write_whole(folder / "report.json", text.encode())


def _scores(lines: Sequence[Line]) -> str:
    compared = any(line.difference is not None for line in lines)
    tested = any(line.signs is not None for line in lines)
    head = ["metric", "prompts", "chain", "n", "value", "95 %", *(["difference", "95 %"] if compared else [])]
    rows = [_line(line, compared, tested) for line in lines]
    head += ["wins-ties-losses", "p"] if tested else []
    return _table(head, rows) if rows else "no scores yet: genbench score OUT metrics=NAME"


def _line(line: Line, compared: bool, tested: bool) -> list[str]:
    cells = [line.metric, line.group, line.chain, str(line.estimate.n), *estimate(line.estimate, line.rate)]
    if compared:
        cells += ["", ""] if line.difference is None else estimate(line.difference, line.rate, sign=True)
    if tested:
        signs = line.signs
        cells += ["", ""] if signs is None else [f"{signs.wins}-{signs.ties}-{signs.losses}", p_value(signs.holm)]
    return cells


def _ratios(lines: Sequence[Line]) -> str:
    rows = [[line.metric, line.chain, *estimate(line.ratio)] for line in lines if line.ratio]
    return _table(["metric", "chain", "ratio to the first", "95 %"], rows) if rows else ""


def _equals(lines: Sequence[Line]) -> str:
    found = [(line, line.equal) for line in lines if line.equal and line.group == "all"]
    rows = [[x.metric, x.chain, other.chain, *estimate(other.difference, x.rate, sign=True)] for x, other in found]
    return _table(["metric", "chain", "against, at equal cost", "difference", "95 %"], rows) if rows else ""


def estimate(found: Estimate, rate: bool = False, sign: bool = False) -> list[str]:
    """Return the mean and its interval as text, rates in per cent; the interval is empty where there is none."""
    low, high = (number(bound, rate, sign) for bound in (found.low, found.high))
    return [number(found.mean, rate, sign) + (" %" if rate else ""), "" if isnan(found.low) else f"[{low}, {high}]"]


def number(value: float, rate: bool = False, sign: bool = False) -> str:
    """Return four digits, of a rate per cent with one decimal; `sign` shows a plus."""
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.1f}" if rate else f"{value:{plus}.4g}"


def p_value(p: float) -> str:
    """Return two digits of a p value."""
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


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
