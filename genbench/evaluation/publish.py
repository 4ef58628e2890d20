"""Everything a report leaves in its folder: report.md, report.json, report.html, and plots where they are asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from genbench.errors import MissingDependency
from genbench.evaluation import page, plots, table
from genbench.evaluation.lines import Report
from genbench.evaluation.store import Store


def save(store: Store, report: Report, by: Sequence[str], with_plots: bool = False) -> None:
    """Write the report's files; says on standard error where the page is. Raises OutputError."""
    table.save(report, store.folder)
    sys.stderr.write(f"{page.save(store, report, by)}\n")
    if with_plots:
        sys.stderr.write(f"{_plotted(store, report)}\n")


def _plotted(store: Store, report: Report) -> str:
    try:
        written = plots.save(report, store.folder)
    except MissingDependency as error:
        return str(error)
    return f"{store.folder / plots.FOLDER}: {len(written)} plots"
