"""What pictures are compared with: a folder of pictures, or a file of texts for an encoder that sees both.

In a joint space texts and pictures lie apart by a nearly constant vector (the modality gap), which would drown what the
exemplar texts differ in. So where exemplars are texts both sides are centred: they on the training prompts, pictures
on those that the base model draws for these prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from genbench import prompts
from genbench.errors import UsageError
from genbench.evaluation.reference import folder_reference
from genbench.kinds import Encoder

FEWEST = 2


@dataclass(frozen=True)
class Exemplars:
    """Features (m, d) of the exemplars. Features of pictures are compared after `origin` (d,) is taken off."""

    features: Tensor
    origin: Tensor

    def seen(self, features: Tensor) -> Tensor:
        """Features of pictures (n, d) as they are compared."""
        return features - self.origin


def read(path: Path, encoder: Encoder, texts: Sequence[str], base: Callable[[], Tensor]) -> Exemplars:
    """Embed a folder of pictures, or the lines of a file of texts. Raises UsageError for fewer than two.

    `texts` are the training prompts and `base` draws the base model's pictures of them, (n, 3, h, w); both are asked
    only where exemplars are texts.
    """
    if path.is_dir():
        seen = map(encoder.embed_images, folder_reference(path).images())
        features = torch.cat([batch.float().cpu() for batch in seen])
        return Exemplars(enough(features, path), torch.zeros(features.shape[1]))
    told = encoder.embed_texts([str(row["prompt"]) for row in prompts.read_rows(str(path))]).float().cpu()
    own = encoder.embed_texts(list(dict.fromkeys(texts))).float().cpu().mean(0)
    return Exemplars(enough(told, path) - own, encoder.embed_images(base()).float().cpu().mean(0))


def enough(features: Tensor, path: Path) -> Tensor:
    """Return features of at least two exemplars. Raises UsageError."""
    if len(features) < FEWEST:
        raise UsageError(f"exemplars={path} holds {len(features)}; a distribution needs {FEWEST}, better hundreds")
    return features
