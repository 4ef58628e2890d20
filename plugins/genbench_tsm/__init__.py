"""Trajectory score matching and its special case as plugins: tsm and ism."""

from genbench_tsm.ism import ISM
from genbench_tsm.tsm import TSM

__all__ = ["ISM", "TSM"]
