"""The scorer: `verifier=halo`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from genbench.kinds import About
from genbench_halo.ring import ring

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class HaloScorer:
    """Mean brightness of the rim minus that of the middle, in [-1, 1]."""

    about: ClassVar[About] = About("How bright the rim of a picture is.", contract=1, license="Apache-2.0")

    def score(
        self, *, images: Tensor, prompts: Sequence[str], rows: Sequence[Mapping[str, object]] | None = None
    ) -> Tensor:
        mask = ring(*images.shape[-2:]).to(images)
        brightness = images.mean(1)
        rim, middle = (brightness * mask).sum((1, 2)) / mask.sum(), (brightness * (1 - mask)).sum((1, 2))
        return rim - middle / (1 - mask).sum()
