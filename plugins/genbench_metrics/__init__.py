"""Set metrics on any encoder's features: Frechet distance, KID, CMMD, Vendi score."""

from genbench_metrics.frechet import Frechet
from genbench_metrics.mmd import Cmmd, Kid
from genbench_metrics.vendi import Vendi

__all__ = ["Cmmd", "Frechet", "Kid", "Vendi"]
