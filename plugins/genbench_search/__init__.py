"""Noise search (Ma, Tong et al., arXiv:2501.09732): spend network calls on several noises and keep the best picture."""

from genbench_search.plugin import Search

__all__ = ["Search"]
