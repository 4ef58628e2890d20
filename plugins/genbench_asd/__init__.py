"""Asynchronous score distillation as a plugin: asd."""

from genbench_asd.plugin import ASD

__all__ = ["ASD"]
