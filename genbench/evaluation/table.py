"""A report as text (Markdown that reads well in a terminal) and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any, cast

from genbench import files
from genbench.evaluation.lines import Cost, Failure, Line, Measured, Report, Unscored
from genbench.evaluation.numbers import Style, fitted, p_value, significant, styles

SHOWN_FAILURES = 10
NOTE = "95 % intervals, clustered by prompt."
PAIRED = "Differences are paired by prompt and seed, against {}."
AT_THE_SAME = "the first chain at the same settings, else the first row"
POINTS = "Points are percentage points."
TESTED = (
    "wins-ties-losses counts pairs; p is the exact sign test over prompts, "
    "after Holm where several chains are compared."
)
TIMES = "Behind a metric's name, ×10³ or ×10⁶ says that its values are shown multiplied."

Styles = Mapping[str, Style]


def markdown(report: Report) -> str:
    """Return the report as text."""
    found = styles(report.lines)
    parts = [
        _scores(report, found),
        _ratios(report.lines),
        _equals(report.lines, found),
        " ".join(notes(report, found)),
        *report.notes,
        _costs(report.costs),
        _measured(report.measured),
        _unscored(report.unscored),
        _failures(report.failures),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def notes(report: Report, found: Styles) -> list[str]:
    """Return what a reader has to know of the numbers, sentence by sentence."""
    differences = [line for line in report.lines if line.difference]
    told = [NOTE] if report.lines else []
    told += [PAIRED.format(against(report))] if differences else []
    told += [POINTS] if any(line.rate for line in differences) else []
    told += [TESTED] if any(line.signs for line in differences) else []
    return [*told, TIMES] if any(style.power for style in found.values()) else told


def against(report: Report) -> str:
    """Say what differences are to: one row by its name, several by the rule that chooses them."""
    rivals = report.rivals
    return f"'{rivals[0]}'" if len(rivals) == 1 else AT_THE_SAME


def save(report: Report, folder: Path) -> None:
    """Write report.md and report.json into the folder, each in one piece. Raises OutputError."""
    files.write_whole(folder / "report.md", markdown(report).encode())
    text = json.dumps(_finite(asdict(report)), ensure_ascii=False, indent=1)
    files.write_whole(folder / "report.json", text.encode())


def _scores(report: Report, found: Styles) -> str:
    lines = report.lines
    if not lines:
        return "no scores yet: genbench score OUT metrics=NAME"
    compared = any(line.difference for line in lines)
    tested = any(line.signs for line in lines)
    several = len(report.rivals) > 1
    head = ["metric", "prompts", "chain", "n", "value", "95 %", *(["difference", "95 %"] if compared else [])]
    head += [*(["against"] if several else []), *(["wins-ties-losses", "p"] if tested else [])]
    rows: list[list[str]] = []
    for line in lines:
        style = found[line.metric]
        cells = [style.label(line.metric), line.group, line.chain, str(line.estimate.n), *style.value(line.estimate)]
        cells += (style.difference(line.difference) if line.difference else ["", ""]) if compared else []
        cells += [line.against] if several else []
        cells += _signs(line) if tested else []
        rows.append(cells)
    return _table(head, rows)


def _signs(line: Line) -> list[str]:
    signs = line.signs
    return ["", ""] if signs is None else [f"{signs.wins}-{signs.ties}-{signs.losses}", p_value(signs.holm)]


def _ratios(lines: Sequence[Line]) -> str:
    found = [(line, line.ratio) for line in lines if line.ratio]
    style = fitted([ratio for _, ratio in found])
    rows = [[line.metric, line.chain, line.against, *style.value(ratio)] for line, ratio in found]
    return _table(["metric", "chain", "against", "ratio", "95 %"], rows) if rows else ""


def _equals(lines: Sequence[Line], found: Styles) -> str:
    equals = [(line, line.equal, found[line.metric]) for line in lines if line.equal and line.group == "all"]
    rows = [[s.label(x.metric), x.chain, other.chain, *s.difference(other.difference)] for x, other, s in equals]
    return _table(["metric", "chain", "against, at equal cost", "difference", "95 %"], rows) if rows else ""


def _costs(costs: Iterable[Cost]) -> str:
    rows = [[c.chain, c.progress, str(c.failures), *spent(c)] for c in costs]
    return _table(["chain", "pictures", "failed", "evaluations each", "seconds each"], rows)


def spent(cost: Cost) -> tuple[str, str]:
    """Return evaluations and seconds per picture; empty without pictures."""
    return (f"{cost.nfe:.1f}", significant(cost.seconds)) if cost.pictures else ("", "")


def _measured(found: Sequence[Measured]) -> str:
    rows = [[each.metric, str(each.n), reference(each), each.resize, each.version] for each in found]
    return _table(["metric", "n", "reference", "pictures resized", "version"], rows) if rows else ""


def reference(found: Measured) -> str:
    """Return what a set metric was compared with and how many pictures that is; empty where there is none."""
    return f"{found.reference}, {found.m} pictures" if found.reference else ""


def _unscored(found: Sequence[Unscored]) -> str:
    rows = [[each.scorer, str(each.n), which(each), each.error] for each in found]
    return _table(["no value of", "pictures", "which", "why"], rows) if rows else ""


def which(found: Unscored) -> str:
    """Return the first of the pictures that a scorer could not judge, and how many more there are."""
    if not found.pictures:
        return ""
    chain, seed, prompt = found.pictures[0]
    more = len(found.pictures) - 1
    return f"{chain}, seed {seed}, '{prompt[:60]}'" + (f" and {more} more" if more else "")


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
