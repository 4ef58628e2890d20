"""The embedded model `solids`: coloured geometric solids, ray traced, captioned, learned and read back."""

from genbench_solids.captions import Attributes, Solid, parse, sample, say

__all__ = ["Attributes", "Solid", "parse", "sample", "say"]
