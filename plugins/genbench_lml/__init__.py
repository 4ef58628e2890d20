"""LML (arXiv:2505.24222): a sampler whose steps are bent by the curvature of the diffused density."""

from genbench_lml.plugin import LML

__all__ = ["LML"]
