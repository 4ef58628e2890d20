"""The numbers of the page: summary, comparisons with the first chain, kinds of prompts, failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from genbench.evaluation import svg, table as text_table
from genbench.evaluation.figures import figures
from genbench.evaluation.lines import Cost, Equal, Line, Report
from genbench.evaluation.markup import Html, folded, join, note, section, table, tag
from genbench.evaluation.signs import Signs
from genbench.evaluation.statistics import Estimate
from genbench.evaluation.table import p_value

SHOWN_FAILURES = 200


def sections(report: Report) -> list[Html]:
    """Return the sections of numbers, empty ones left out."""
    found = [_summary(report), _comparisons(report), _figures(report), _kinds(report), _failures(report)]
    return [each for each in found if each]


def _summary(report: Report) -> Html:
    metrics = report.metrics
    found = {(line.metric, line.chain): line for line in report.lines if line.group == "all"}
    head = ["chain", *metrics, "pictures", "failed", "evaluations each", "seconds each"]
    rows = [_summary_row(cost, [found.get((metric, cost.chain)) for metric in metrics]) for cost in report.costs]
    some = "Values on all prompts with 95 % intervals, clustered by prompt."
    told = note(some if metrics else "No scores yet: genbench score FOLDER metrics=NAME")
    return section("summary", "Summary", table(head, rows), told, *map(note, report.notes))


def _summary_row(cost: Cost, lines: Sequence[Line | None]) -> list[object]:
    values = [_value(line.estimate, line.rate) if line else "" for line in lines]
    return [cost.chain, *values, cost.pictures, cost.failures or "", f"{cost.nfe:.1f}", f"{cost.seconds:.3g}"]


def _value(found: Estimate, rate: bool) -> Html:
    mean, interval = text_table.estimate(found, rate)
    return tag("td", mean, tag("small", interval))


# --- against the first chain --------------------------------------------------------------------------------------


def _comparisons(report: Report) -> Html:
    compared = [line for line in report.lines if line.difference is not None and line.group == "all"]
    if not compared:
        return Html("")
    of_each = [[line for line in compared if line.metric == metric] for metric in report.metrics]
    parts = [_comparison(lines, report) for lines in of_each if lines]
    told = note(
        "Paired: the same prompt and the same seed, drawn by both chains; bold where the 95 % interval leaves out 0; "
        "of rates in percentage points. Wins, ties and losses count pairs; a tie is half a win. p is the exact sign "
        "test over prompts (seeds of one prompt are one trial), corrected by Holm's method over the chains of a table."
    )
    return section("comparisons", "Against the first chain", *parts, told)


def _first(metric: str, report: Report) -> str:
    return next(line.chain for line in report.lines if line.metric == metric)


def _comparison(lines: Sequence[Line], report: Report) -> Html:
    columns = [column for column in _columns(lines, report) if any(column.cell(line) for line in lines)]
    rows = [[column.cell(line) for column in columns] for line in lines]
    caption = f"{lines[0].metric}, against {_first(lines[0].metric, report)}"
    return table([column.name for column in columns], rows, caption=caption)


@dataclass(frozen=True)
class Column:
    """One column of a comparison; left out where no line has a cell."""

    name: str
    cell: Callable[[Line], object]


def _columns(lines: Sequence[Line], report: Report) -> list[Column]:
    bounds = [bound for x in lines if x.difference for bound in (x.difference.low, x.difference.high)]
    reach = max((abs(bound) for bound in bounds if isfinite(bound)), default=0.0)
    return [
        Column("chain", lambda line: line.chain),
        Column("difference", lambda line: _difference(line.difference, line.rate)),
        Column("95 %", lambda line: svg.interval(line.difference, reach) if line.difference and reach else ""),
        Column("wins–ties–losses", lambda line: _wins(line.signs)),
        Column("win rate", lambda line: _value(line.signs.rate, rate=True) if line.signs else ""),
        Column("p", lambda line: p_value(line.signs.holm) if line.signs else ""),
        Column("ratio", lambda line: _value(line.ratio, rate=False) if line.ratio else ""),
        Column("n", lambda line: line.difference.n if line.difference else ""),
        Column("cost", lambda line: _times(line, report)),
        Column("at equal cost", lambda line: _equal(line.equal, line.rate)),
    ]


def _difference(found: Estimate | None, rate: bool, against: str = "") -> Html:
    """A difference with its interval; bold where that leaves out zero."""
    if found is None:
        return Html("")
    mean, interval = text_table.estimate(found, rate, sign=True)
    small = [tag("small", told) for told in (interval, against) if told]
    return tag("td", mean, *small, class_="clear" if found.low > 0 or found.high < 0 else None)


def _wins(signs: Signs | None) -> str:
    return f"{signs.wins}–{signs.ties}–{signs.losses}" if signs else ""


def _equal(equal: Equal | None, rate: bool) -> Html:
    """The difference to a setting of the first chain that spends as much."""
    return _difference(equal.difference, rate, f"against {equal.chain}") if equal else Html("")


def _times(line: Line, report: Report) -> str:
    """How many times the first chain's evaluations: a gain at twice the cost is another gain."""
    first = _first(line.metric, report)
    nfe = {cost.chain: cost.nfe for cost in report.costs if cost.pictures}
    return f"{nfe[line.chain] / nfe[first]:.3g} ×" if nfe.get(first) and line.chain in nfe else ""


# --- figures, kinds, failures -------------------------------------------------------------------------------------


def _figures(report: Report) -> Html:
    told = note("Means on all prompts with 95 % intervals. Chains that differ only in what they may spend are joined.")
    drawn = svg.all_figures(figures(report))
    return section("cost", "Score against cost", drawn, told) if drawn else Html("")


def _kinds(report: Report) -> Html:
    metrics = dict.fromkeys(line.metric for line in report.lines if line.group != "all")
    details = [line.metric for line in report.lines if line.metric not in report.metrics]
    parts = [folded(metric, _by_kind([line for line in report.lines if line.metric == metric])) for metric in metrics]
    parts += [_details(report, dict.fromkeys(details))] if details else []
    return section("kinds", "Kinds of prompts and parts of scores", *parts)


def _by_kind(lines: Sequence[Line]) -> Html:
    chains, groups = dict.fromkeys(line.chain for line in lines), dict.fromkeys(line.group for line in lines)
    found = {(line.group, line.chain): line for line in lines}
    rows = [[group, *(_both(found.get((group, chain))) for chain in chains)] for group in groups]
    return table(["prompts", *chains], rows, caption=f"{lines[0].metric}; below it the difference to the first chain")


def _both(line: Line | None) -> Html | str:
    if line is None:
        return ""
    smaller = [tag("small", text_table.estimate(line.estimate, line.rate)[1], f" n {line.estimate.n}")]
    if line.difference:
        smaller.append(tag("small", " ".join(text_table.estimate(line.difference, line.rate, sign=True))))
    return tag("td", text_table.estimate(line.estimate, line.rate)[0], *smaller)


def _details(report: Report, metrics: dict[str, None]) -> Html:
    chains = dict.fromkeys(line.chain for line in report.lines)
    found = {(line.metric, line.chain): line for line in report.lines if line.group == "all"}
    rows = [[metric, *(_both(found.get((metric, chain))) for chain in chains)] for metric in metrics]
    return folded(
        "parts of scores", table(["part", *chains], rows, caption="below it the difference to the first chain")
    )


def _failures(report: Report) -> Html:
    rows = [[f.chain, f.prompt, f.seed, f.error] for f in report.failures[:SHOWN_FAILURES]]
    more = len(report.failures) - len(rows)
    parts = [table(["chain", "prompt", "seed", "why"], rows, left=4)] if rows else []
    return section(
        "failures", f"Failed: {len(report.failures)}", *parts, *([note(f"And {more} more.")] if more else [])
    )


def headings(parts: Sequence[Html], names: Sequence[tuple[str, str]]) -> Html:
    """Return links to the sections that are there; `names` are (id, title)."""
    whole = join(parts)
    return join(tag("a", title, href=f"#{name}") for name, title in names if f'id="{name}"' in whole)
