"""CLIP score (Hessel et al., arXiv:2104.08718) and CLIP's feature space, from any CLIP that transformers opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from genbench.errors import ModelError
from genbench.kinds import About
from genbench.options import Range
from genbench_scorers import weights
from genbench_scorers.batches import in_batches, of_distinct
from genbench_scorers.pixels import CROPPED, cropped, normalised

WEIGHT, PREFIX = 2.5, "A photo depicts "  # arXiv:2104.08718, section 3
Rows = Sequence[Mapping[str, object]]
Pictures = Annotated[int, Range(1)]


@cache
def opened(folder: Path, device: object) -> Any:
    """A CLIPModel, frozen, once per process. Raises ModelError where the folder holds something else."""
    import transformers

    kind = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).model_type
    if kind != "clip":
        raise ModelError(f"'{folder}' holds a model of type {kind}, not a CLIP")
    return weights.pretrained("CLIPModel", folder, str(device))


@cache
def tokenizer(folder: Path) -> Any:
    """The tokenizer beside the weights."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def image_features(model: Any, images: Tensor) -> Tensor:
    """Pictures (n, 3, h, w) in [0, 1] -> (n, d), unit length; differentiable."""
    pixels = normalised(cropped(images, model.config.vision_config.image_size))
    return F.normalize(model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output), dim=1)


def text_features(model: Any, folder: Path, texts: Sequence[str]) -> Tensor:
    """Texts -> (n, d), unit length, each cut where the model's context (77 tokens) ends."""
    length = model.config.text_config.max_position_embeddings
    read = tokenizer(folder)(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    ids = read.input_ids.to(model.device)
    return F.normalize(model.text_projection(model.text_model(input_ids=ids).pooler_output), dim=1)


def cosines(model: Any, folder: Path, images: Tensor, texts: Sequence[str]) -> Tensor:
    """Cosine of each picture and its text, (n,), in [-1, 1]."""
    wanted = of_distinct(texts, lambda each: text_features(model, folder, each))
    return (image_features(model, images) * wanted).sum(1)


@dataclass(frozen=True)
class Clip:
    """Cosine of picture and prompt in CLIP's space; also an encoder for set metrics (CMMD)."""

    model: str = "openai/clip-vit-large-patch14"  # a CLIP: Hub id or transformers folder
    convention: Literal["cosine", "paper"] = "cosine"  # paper: 2.5 max(cos, 0) of "A photo depicts PROMPT"
    batch: Pictures = 32  # pictures through the network at once

    resize: ClassVar[str] = CROPPED
    about: ClassVar[About] = About(
        "CLIP score: cosine of picture and prompt, in [-1, 1]; also CLIP features for set metrics.",
        paper="Hessel et al., CLIPScore: A Reference-free Evaluation Metric for Image Captioning, EMNLP 2021",
        url="https://arxiv.org/abs/2104.08718",
        license="MIT (OpenAI's CLIP weights)",
        cost="one CLIP image and text forward per picture",
    )

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Rows | None = None) -> Tensor:
        """(b,), differentiable in `images` (b, 3, h, w) in [0, 1]."""
        folder = weights.found_folder(self.model, "clip.model")
        model, as_paper = opened(folder, images.device), self.convention == "paper"
        texts = [f"{PREFIX}{prompt}" if as_paper else prompt for prompt in prompts]
        found = in_batches(images, texts, self.batch, lambda x, t: cosines(model, folder, x, t))
        return WEIGHT * found.clamp(min=0) if as_paper else found

    def embed_images(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, d), unit length; differentiable."""
        model = opened(weights.found_folder(self.model, "clip.model"), images.device)
        return in_batches(images, [""] * len(images), self.batch, lambda x, _: image_features(model, x))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """n texts -> (n, d), unit length."""
        folder = weights.found_folder(self.model, "clip.model")
        return of_distinct(texts, lambda each: text_features(opened(folder, "cpu"), folder, each))

    def version(self) -> str:
        """What the weights and their settings hash to."""
        return weights.version(weights.found_folder(self.model, "clip.model"))
