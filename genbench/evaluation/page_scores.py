"""The numbers of the page: summary, comparisons with the first chain, kinds of prompts, failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isnan

from genbench.evaluation import svg, table as text_table
from genbench.evaluation.figures import figures
from genbench.evaluation.lines import Cost, Line, Report
from genbench.evaluation.markup import Html, folded, join, note, section, table, tag
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


def _value(found: Estimate, rate: bool, sign: bool = False, clear: bool = False) -> Html:
    mean, interval = text_table.estimate(found, rate, sign)
    return tag("td", mean, tag("small", interval), class_="clear" if clear else None)


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
    metric = lines[0].metric
    reach = max((abs(b) for x in lines if x.difference for b in (x.difference.low, x.difference.high)), default=0.0)
    signs, ratio, equal = (any(getattr(line, part) for line in lines) for part in ("signs", "ratio", "equal"))
    head = ["chain", "difference", "95 %", *(["wins–ties–losses", "win rate", "p"] if signs else [])]
    head += [*(["ratio"] if ratio else []), "pairs" if signs else "pictures", "cost"]
    rows = [_comparison_row(line, reach, signs, ratio, report) for line in lines]
    rows = [[*row, *([_equal(line)] if equal else [])] for row, line in zip(rows, lines, strict=True)]
    return table(
        [*head, *(["at equal cost"] if equal else [])], rows, caption=f"{metric}, against {_first(metric, report)}"
    )


def _equal(line: Line) -> Html | str:
    """The difference to a setting of the first chain that spends as much."""
    if line.equal is None:
        return ""
    mean, interval = text_table.estimate(line.equal.difference, line.rate, sign=True)
    clear = line.equal.difference.low > 0 or line.equal.difference.high < 0
    told = tag("small", interval), tag("small", f"against {line.equal.chain}")
    return tag("td", mean, *told, class_="clear" if clear else None)


def _comparison_row(line: Line, reach: float, signs: bool, ratio: bool, report: Report) -> Iterator[object]:
    found = line.difference
    if found is None:
        return
    yield line.chain
    yield _value(found, line.rate, sign=True, clear=found.low > 0 or found.high < 0)
    yield svg.interval(found, reach) if reach > 0 and not isnan(found.low) else ""
    if signs:
        yield f"{line.signs.wins}–{line.signs.ties}–{line.signs.losses}" if line.signs else ""
        yield _value(line.signs.rate, rate=True) if line.signs else ""
        yield p_value(line.signs.holm) if line.signs else ""
    if ratio:
        yield _value(line.ratio, rate=False) if line.ratio else ""
    yield found.n
    yield _times(line, report)


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
