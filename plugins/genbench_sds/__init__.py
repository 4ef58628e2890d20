"""Score distillation's baselines as plugins: sds, csd and vsd."""

from genbench_sds.csd import CSD
from genbench_sds.sds import SDS

__all__ = ["CSD", "SDS"]
