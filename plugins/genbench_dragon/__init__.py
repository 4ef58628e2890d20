"""DRAGON (arXiv:2504.15217): reward finetuning by contrast of sets, for rewards of pictures and of distributions."""

from genbench_dragon.plugin import Dragon
from genbench_dragon.trainer import DragonTrainer

__all__ = ["Dragon", "DragonTrainer"]
