"""Human Preference Score v2.1 (Wu et al., arXiv:2306.09341): a CLIP ViT-H/14 tuned on people's rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from genbench.errors import UsageError, did_you_mean
from genbench.kinds import About
from genbench_scorers import weights
from genbench_scorers.batches import in_batches, of_distinct
from genbench_scorers.clip import Pictures, Rows
from genbench_scorers.pixels import PADDED, normalised, padded

PUBLISHED = "hf:xswu/HPSv2/HPS_v2.1_compressed.pt"


@cache
def opened(file: Path, architecture: str, device: str) -> Any:
    """open_clip's CLIP of this architecture with the file's weights, frozen, once per process."""
    open_clip = weights.package("open_clip", "hpsv2")
    config = open_clip.get_model_config(architecture)
    if config is None:
        known = did_you_mean(architecture, open_clip.list_models())
        raise UsageError(f"hpsv2.architecture={architecture} is none of open_clip's{known}")
    return weights.filled(open_clip.CLIP(**config), weights.state_dict(file), file).to(device)


@cache
def tokenizer(architecture: str) -> Any:
    """open_clip's tokenizer; its vocabulary comes with the package."""
    return weights.package("open_clip", "hpsv2").get_tokenizer(architecture)


def text_features(model: Any, architecture: str, texts: Sequence[str]) -> Tensor:
    """Texts -> (n, d), unit length, each cut at 77 tokens."""
    tokens = tokenizer(architecture)(list(texts)).to(next(model.parameters()).device)
    return model.encode_text(tokens, normalize=True)


def cosines(model: Any, architecture: str, images: Tensor, texts: Sequence[str]) -> Tensor:
    """Cosine of each picture and its text, (n,). As published, a picture is padded to a square, not cropped."""
    side = model.visual.image_size
    pixels = normalised(padded(images, side if isinstance(side, int) else side[0]))
    wanted = of_distinct(texts, lambda each: text_features(model, architecture, each))
    return (model.encode_image(pixels, normalize=True) * wanted).sum(1)


@dataclass(frozen=True)
class HPSv2:
    """Cosine of picture and prompt, about 0.2 to 0.35; comparable for one prompt and one version only."""

    weights: str = PUBLISHED  # the checkpoint: a file, or hf:org/name/file
    architecture: str = "ViT-H-14"  # open_clip's name of the network
    batch: Pictures = 16  # pictures through the network at once

    resize: ClassVar[str] = PADDED
    about: ClassVar[About] = About(
        "HPS v2.1: the tuned CLIP-H's cosine, about 0.2 to 0.35; compare only pictures of one prompt.",
        paper="Wu et al., Human Preference Score v2: A Solid Benchmark for Evaluating Human Preferences, 2023",
        url="https://arxiv.org/abs/2306.09341",
        license="Apache-2.0",
        cost="one ViT-H/14 forward per picture",
    )

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Rows | None = None) -> Tensor:
        """(b,), differentiable in `images` (b, 3, h, w) in [0, 1]."""
        file = weights.found_file(self.weights, "hpsv2.weights")
        model = opened(file, self.architecture, str(images.device))
        return in_batches(images, prompts, self.batch, lambda x, t: cosines(model, self.architecture, x, t))

    def version(self) -> str:
        """What the weights hash to. Raises MissingDependency before anything is fetched."""
        weights.package("open_clip", "hpsv2")
        return weights.version(weights.found_file(self.weights, "hpsv2.weights"))
