"""PTQ4DM (arXiv:2211.15736): 8-bit diffusion models, calibrated on what their own walks give the network."""

from genbench_ptq4dm.plugin import PTQ4DM
from genbench_ptq4dm.trainer import PTQ4DMTrainer

__all__ = ["PTQ4DM", "PTQ4DMTrainer"]
