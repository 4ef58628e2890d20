"""Score distillation's baselines as plugins: sds, csd and vsd."""

from genbench_sds.csd import CSD
from genbench_sds.sds import SDS
from genbench_sds.vsd import VSD

__all__ = ["CSD", "SDS", "VSD"]
