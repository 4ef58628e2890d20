"""Measuring: a work list that resumes, a store, scores, set metrics, intervals and a report.

`cli_main` is `genbench eval`, `score`, `report` and `export`.
"""

from genbench.evaluation.command import cli_main

__all__ = ["cli_main"]
