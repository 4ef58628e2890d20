"""What pictures are compared with: a folder of pictures, or a file of texts for an encoder that sees both.

In a joint space texts and pictures lie apart by a nearly constant vector (the modality gap), which would drown what the
exemplar texts differ in. So where exemplars are texts both sides are centred: they on the training prompts, pictures
on those that the base model draws for these prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from genbench import prompts
from genbench.errors import UsageError
from genbench.evaluation.reference import SUFFIXES, folder_reference
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


def check(path: Path) -> None:
    """Raise UsageError for what does not exist, holds no exemplars, or fewer than a distribution needs."""
    if not path.exists():
        raise UsageError(f"exemplars={path} does not exist; give a folder of pictures or a file of texts")
    count = len(list(pictures(path))) if path.is_dir() else len(texts(path))
    if count < FEWEST:
        what = f"of pictures ({', '.join(SUFFIXES)})" if path.is_dir() else "of texts, one per line"
        raise UsageError(f"exemplars={path} holds {count}; a distribution {what} needs {FEWEST}, better hundreds")


def pictures(folder: Path) -> Iterator[Path]:
    """The picture files under a folder."""
    return (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def texts(file: Path) -> list[str]:
    """The lines of a file in any format that prompts may have. Raises UsageError."""
    try:
        return [str(row["prompt"]) for row in prompts.read_rows(str(file))]
    except UsageError as error:
        raise UsageError(str(error).replace("prompts=", "exemplars=", 1)) from error


def read(path: Path, encoder: Encoder, trained: Sequence[str], base: Callable[[], Tensor]) -> Exemplars:
    """Embed a folder of pictures, or the lines of a file of texts.

    `trained` are the training prompts and `base` draws the base model's pictures of them, (n, 3, h, w); both are asked
    only where exemplars are texts. Raises UsageError for a picture that cannot be read.
    """
    if path.is_dir():
        try:
            features = torch.cat([encoder.embed_images(each).float().cpu() for each in folder_reference(path).images()])
        except OSError as error:
            raise UsageError(f"exemplars={path} holds a picture that cannot be read ({error})") from error
        return Exemplars(features, torch.zeros(features.shape[1]))
    told, own = (encoder.embed_texts(words).float().cpu() for words in (texts(path), list(dict.fromkeys(trained))))
    return Exemplars(told - own.mean(0), encoder.embed_images(base()).float().cpu().mean(0))
