"""The numbers of the page: summary, comparisons of chains, kinds of prompts, failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from genbench.evaluation import svg, table as text_table
from genbench.evaluation.figures import figures
from genbench.evaluation.lines import Cost, Equal, Line, Report, Unscored
from genbench.evaluation.markup import Html, folded, join, note, section, table, tag
from genbench.evaluation.numbers import RATE, Style, fitted, p_value, styles
from genbench.evaluation.signs import Signs
from genbench.evaluation.statistics import Estimate
from genbench.evaluation.table import Styles

SHOWN_FAILURES = 200


def sections(report: Report) -> list[Html]:
    """Return the sections of numbers, empty ones left out."""
    found = styles(report.lines)
    parts = [_summary(report, found), _comparisons(report, found), _figures(report), _kinds(report, found)]
    return [each for each in (*parts, _failures(report)) if each]


def _summary(report: Report, found: Styles) -> Html:
    metrics = report.metrics
    lines = {(line.metric, line.chain): line for line in report.lines if line.group == "all"}
    named = [found[metric].label(metric) for metric in metrics]
    head = ["chain", *named, "pictures", "failed", "evaluations each", "seconds each"]
    rows = [_summary_row(cost, [lines.get((metric, cost.chain)) for metric in metrics], found) for cost in report.costs]
    some = ["Values on all prompts with 95 % intervals, clustered by prompt."]
    some += [text_table.TIMES] if any(found[metric].power for metric in metrics) else []
    told = note(" ".join(some) if metrics else "No scores yet: genbench score FOLDER metrics=NAME")
    return section("summary", "Summary", table(head, rows, cards=True), told, *map(note, report.notes))


def _summary_row(cost: Cost, lines: Sequence[Line | None], found: Styles) -> list[object]:
    values = [_value(line.beside, found[line.metric]) if line else "" for line in lines]
    return [cost.chain, *values, cost.progress, cost.failures or "", *text_table.spent(cost)]


def _value(found: Estimate, style: Style) -> Html:
    mean, interval = style.value(found)
    return tag("td", mean, tag("small", interval))


# --- comparisons --------------------------------------------------------------------------------------------------


def _comparisons(report: Report, found: Styles) -> Html:
    compared = [line for line in report.lines if line.difference is not None and line.group == "all"]
    if not compared:
        return Html("")
    of_each = [[line for line in compared if line.metric == metric] for metric in report.metrics]
    parts = [_comparison(lines, report, found[lines[0].metric]) for lines in of_each if lines]
    told = note(
        f"Against {text_table.against(report)}. "
        "Paired: the same prompt and the same seed, drawn by both chains; bold where the 95 % interval leaves out 0. "
        f"{text_table.POINTS} Wins, ties and losses count pairs; a tie is half a win. p is the exact sign test over "
        "prompts (seeds of one prompt are one trial), corrected by Holm's method over the rows of a table."
    )
    return section("comparisons", "Comparisons", *parts, told)


def _comparison(lines: Sequence[Line], report: Report, style: Style) -> Html:
    columns = [column for column in _columns(lines, report, style) if any(column.cell(line) for line in lines)]
    rows = [[column.cell(line) for column in columns] for line in lines]
    rivals = list(dict.fromkeys(line.against for line in lines))
    caption = style.label(lines[0].metric) + (f", against {rivals[0]}" if len(rivals) == 1 else "")
    left = 2 if len(rivals) > 1 else 1
    return table([column.name for column in columns], rows, caption=caption, left=left, cards=True)


@dataclass(frozen=True)
class Column:
    """One column of a comparison; left out where no line has a cell."""

    name: str
    cell: Callable[[Line], object]


def _columns(lines: Sequence[Line], report: Report, style: Style) -> list[Column]:
    bounds = [bound for x in lines if x.difference for bound in (x.difference.low, x.difference.high)]
    reach = max((abs(bound) for bound in bounds if isfinite(bound)), default=0.0)
    several = len({line.against for line in lines}) > 1
    ratios = fitted([line.ratio for line in lines if line.ratio])
    return [
        Column("chain", lambda line: line.chain),
        Column("against", lambda line: line.against if several else ""),
        Column("difference", lambda line: _difference(line.difference, style)),
        Column("95 %", lambda line: svg.interval(line.difference, reach) if line.difference and reach else ""),
        Column("wins–ties–losses", lambda line: _wins(line.signs)),
        Column("win rate", lambda line: _value(line.signs.rate, RATE) if line.signs else ""),
        Column("p", lambda line: p_value(line.signs.holm) if line.signs else ""),
        Column("ratio", lambda line: _value(line.ratio, ratios) if line.ratio else ""),
        Column("n", lambda line: line.difference.n if line.difference else ""),
        Column("cost", lambda line: _times(line, report)),
        Column("at equal cost", lambda line: _equal(line.equal, style)),
    ]


def _difference(found: Estimate | None, style: Style, against: str = "") -> Html:
    """A difference with its interval; bold where that leaves out zero."""
    if found is None:
        return Html("")
    mean, interval = style.difference(found)
    small = [tag("small", told) for told in (interval, against) if told]
    return tag("td", mean, *small, class_="clear" if found.low > 0 or found.high < 0 else None)


def _wins(signs: Signs | None) -> str:
    return f"{signs.wins}–{signs.ties}–{signs.losses}" if signs else ""


def _equal(equal: Equal | None, style: Style) -> Html:
    """The difference to a setting of the first chain that spends as much."""
    return _difference(equal.difference, style, f"against {equal.chain}") if equal else Html("")


def _times(line: Line, report: Report) -> str:
    """How many times the other chain's evaluations: a gain at twice the cost is another gain."""
    nfe = {cost.chain: cost.nfe for cost in report.costs if cost.pictures}
    other = nfe.get(line.against)
    return f"{nfe[line.chain] / other:.3g} ×" if other and line.chain in nfe else ""


# --- figures, kinds, failures -------------------------------------------------------------------------------------


def _figures(report: Report) -> Html:
    told = note("Means on all prompts with 95 % intervals. Chains that differ only in what they may spend are joined.")
    drawn = svg.all_figures(figures(report))
    return section("cost", "Score against cost", drawn, told) if drawn else Html("")


def _kinds(report: Report, found: Styles) -> Html:
    metrics = dict.fromkeys(line.metric for line in report.lines if line.group != "all")
    details = dict.fromkeys(line.metric for line in report.lines if line.metric not in report.metrics)
    below = f"below it the difference to {text_table.against(report)}" if report.rivals else ""
    parts = [_by_kind(report, metric, found[metric], below) for metric in metrics]
    parts += [_details(report, list(details), found, below)] if details else []
    return section("kinds", "Kinds of prompts and parts of scores", *parts)


def _by_kind(report: Report, metric: str, style: Style, below: str) -> Html:
    lines = [line for line in report.lines if line.metric == metric]
    chains, groups = dict.fromkeys(line.chain for line in lines), dict.fromkeys(line.group for line in lines)
    known = {(line.group, line.chain): line for line in lines}
    rows = [[group, *(_both(known.get((group, chain)), style) for chain in chains)] for group in groups]
    label = style.label(metric)
    return folded(label, table(["prompts", *chains], rows, caption="; ".join(told for told in (label, below) if told)))


def _both(line: Line | None, style: Style) -> Html | str:
    if line is None:
        return ""
    mean, interval = style.value(line.estimate)
    smaller = [tag("small", interval, f" n {line.estimate.n}")]
    if line.difference:
        smaller.append(tag("small", " ".join(style.difference(line.difference))))
    return tag("td", mean, *smaller)


def _details(report: Report, metrics: Sequence[str], found: Styles, below: str) -> Html:
    chains = dict.fromkeys(line.chain for line in report.lines)
    known = {(line.metric, line.chain): line for line in report.lines if line.group == "all"}
    rows = [
        [found[metric].label(metric), *(_both(known.get((metric, chain)), found[metric]) for chain in chains)]
        for metric in metrics
    ]
    return folded("parts of scores", table(["part", *chains], rows, caption=below))


def _failures(report: Report) -> Html:
    rows = [[f.chain, f.prompt, f.seed, f.error] for f in report.failures[:SHOWN_FAILURES]]
    more = len(report.failures) - len(rows)
    parts = [table(["chain", "prompt", "seed", "why"], rows, left=4, caption="not drawn", cards=True)] if rows else []
    parts += [note(f"And {more} more.")] if more else []
    return section("failures", _failed(report), *parts, _unscored(report.unscored))


def _failed(report: Report) -> str:
    unjudged = sum(each.n for each in report.unscored)
    return f"Failed: {len(report.failures)}" + (f", not judged: {unjudged}" if unjudged else "")


def _unscored(found: Sequence[Unscored]) -> Html:
    rows = [[each.scorer, each.n, text_table.which(each), each.error] for each in found]
    head = ["no value of", "pictures", "which", "why"]
    return table(head, rows, left=4, caption="not judged", cards=True) if rows else Html("")


def headings(parts: Sequence[Html], names: Sequence[tuple[str, str]]) -> Html:
    """Return links to the sections that are there; `names` are (id, title)."""
    whole = join(parts)
    return join(tag("a", title, href=f"#{name}") for name, title in names if f'id="{name}"' in whole)
