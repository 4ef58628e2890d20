"""Golden noise (Zhou et al., arXiv:2411.09502): a small network, or re-denoise sampling itself, betters the noise."""

from genbench_npnet.plugin import NPNet
from genbench_npnet.redenoise import Redenoise
from genbench_npnet.trainer import NPNetTrainer

__all__ = ["NPNet", "NPNetTrainer", "Redenoise"]
