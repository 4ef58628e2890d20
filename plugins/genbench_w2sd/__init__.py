"""Reflection between a weak and a strong model: `w2sd` (W2SD and Z-Sampling), and `autoguidance` beside it."""

from genbench_w2sd.autoguidance import AutoGuidance
from genbench_w2sd.plugin import W2SD

__all__ = ["W2SD", "AutoGuidance"]
