"""Set metrics on any encoder's features: Frechet distance, KID, CMMD, precision, recall, Vendi score, diversity."""

from genbench_metrics.diversity import Diversity
from genbench_metrics.frechet import Frechet
from genbench_metrics.manifold import Precision, Recall
from genbench_metrics.mmd import Cmmd, Kid
from genbench_metrics.vendi import Vendi

__all__ = ["Cmmd", "Diversity", "Frechet", "Kid", "Precision", "Recall", "Vendi"]
