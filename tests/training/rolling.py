"""What the tests of training share: resources around a model that is already open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from genbench.backbones.toy import ToyModel
from genbench.kinds import Ledger, Model, Resources


def resources(model: Model) -> Resources:
    return Resources(getattr(model, "ledger", Ledger()), lambda path, build: build(path), lambda word: model)


def toy() -> ToyModel:
    return ToyModel(ledger=Ledger())


class Redness:
    """How much more red than blue a picture is; has a gradient."""

    def score(
        self, *, images: Tensor, prompts: Sequence[str], rows: Sequence[Mapping[str, object]] | None = None
    ) -> Tensor:
        return (images[:, 0] - images[:, 2]).mean((1, 2))


class Pixels:
    """Pictures as their own features."""

    def embed_images(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.zeros(len(texts), 1)
