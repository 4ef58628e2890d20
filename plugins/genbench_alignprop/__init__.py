"""AlignProp (arXiv:2310.03739): reward finetuning by backpropagation through sampling; and DRaFT's variants."""

from genbench_alignprop.plugin import AlignProp
from genbench_alignprop.trainer import AlignPropTrainer

__all__ = ["AlignProp", "AlignPropTrainer"]
