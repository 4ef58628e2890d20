"""PickScore (Kirstain et al., arXiv:2305.01569): a CLIP ViT-H/14 tuned on people's choices between two pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from genbench.kinds import About
from genbench_scorers import clip, weights
from genbench_scorers.batches import in_batches
from genbench_scorers.clip import Pictures, Rows
from genbench_scorers.pixels import CROPPED


@dataclass(frozen=True)
class PickScore:
    """exp(logit scale) times the cosine of picture and prompt; differences are log-odds of a person's choice."""

    model: str = "yuvalkirstain/PickScore_v1"  # Hub id or transformers folder
    batch: Pictures = 16  # pictures through the network at once

    resize: ClassVar[str] = CROPPED
    about: ClassVar[About] = About(
        "PickScore v1: exp(logit scale) times CLIP-H's cosine, about 15 to 25; a difference is a log-odds.",
        paper="Kirstain et al., Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation, 2023",
        url="https://arxiv.org/abs/2305.01569",
        license="MIT",
        cost="one ViT-H/14 forward per picture",
    )

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Rows | None = None) -> Tensor:
        """(b,), differentiable in `images` (b, 3, h, w) in [0, 1]."""
        folder = weights.found_folder(self.model, "pickscore.model")
        model = clip.opened(folder, images.device)
        found = in_batches(images, prompts, self.batch, lambda x, t: clip.cosines(model, folder, x, t))
        return model.logit_scale.exp() * found

    def version(self) -> str:
        """What the weights and their settings hash to."""
        return weights.version(weights.found_folder(self.model, "pickscore.model"))
