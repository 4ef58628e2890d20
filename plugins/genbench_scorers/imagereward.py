"""ImageReward (Xu et al., arXiv:2304.05977): BLIP reads prompt and picture together, an affine head gives the reward.

The published file has BLIP's own names (`blip.visual_encoder.blocks.0.attn.qkv.weight`); transformers' BLIP has the
same parts under others. Sizes are read off the tensors; an attention head has 64 numbers, as in every published BLIP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from genbench.errors import ModelError
from genbench.kinds import About
from genbench_scorers import weights
from genbench_scorers.aesthetic import Layers, layers_of, rated
from genbench_scorers.batches import in_batches
from genbench_scorers.clip import Pictures, Rows, tokenizer
from genbench_scorers.pixels import CROPPED, cropped, normalised

PUBLISHED = "hf:zai-org/ImageReward/ImageReward.pt"
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the raw reward, published with the weights
LENGTH = 35  # tokens of a prompt
HEAD = 64
VISION = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.norm([12])\.", r".layer_norm\1."),
)


def renamed(name: str) -> str:
    """A name of BLIP's vision tower as transformers has it."""
    for pattern, name_there in VISION:
        name = re.sub(pattern, name_there, name)
    return name


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def vision_config(state: Mapping[str, Tensor]) -> Any:
    """Sizes of the vision tower from its tensors, in BLIP's names."""
    from transformers import BlipVisionConfig

    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=depth(state, "blocks."),
        num_attention_heads=width // HEAD,
        image_size=patch * round((state["pos_embed"].shape[1] - 1) ** 0.5),
        patch_size=patch,
        layer_norm_eps=1e-6,
    )


def text_config(state: Mapping[str, Tensor]) -> Any:
    """Sizes of the text tower from its tensors; every layer attends to the picture."""
    from transformers import BlipTextConfig

    words, width = state["embeddings.word_embeddings.weight"].shape
    return BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=state["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=state["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=depth(state, "encoder.layer."),
        num_attention_heads=width // HEAD,
        max_position_embeddings=state["embeddings.position_embeddings.weight"].shape[0],
    )


def depth(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered layers stand below a prefix."""
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in state if name.startswith(prefix))


@dataclass(frozen=True)
class Reader:
    """Both towers and the head."""

    vision: Any  # transformers' BLIP towers
    text: Any
    head: Layers

    def reward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Normalised pixels (n, 3, s, s), tokens and mask (n, length) -> rewards (n,)."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(input_ids=ids, attention_mask=mask, encoder_hidden_states=seen).last_hidden_state
        return (rated(self.head, read[:, 0]) - MEAN) / STD


@cache
def opened(file: Path, device: str) -> Reader:
    """The published file as a frozen reader, once per process. Raises ModelError where it is laid out otherwise."""
    from transformers import BlipTextModel, BlipVisionModel

    state = weights.state_dict(file)
    vision, text = part(state, "blip.visual_encoder."), part(state, "blip.text_encoder.")
    try:
        seer: Any = BlipVisionModel(vision_config(vision))
        reader: Any = BlipTextModel(text_config(text), add_pooling_layer=False)
        head = layers_of(part(state, "mlp."))
    except (KeyError, ValueError) as error:
        raise ModelError(f"{file} is laid out otherwise than ImageReward.pt: {error} is missing") from error
    weights.filled(seer, {renamed(name): tensor for name, tensor in vision.items()}, file)
    weights.filled(reader, text, file, ignore=("embeddings.position_ids",))
    on_device = tuple((weight.float().to(device), bias.float().to(device)) for weight, bias in head)
    return Reader(seer.to(device), reader.to(device), on_device)


@dataclass(frozen=True)
class ImageReward:
    """Reward of picture and prompt: 0 on average over people's rankings, standard deviation 1; about -2 to 2."""

    weights: str = PUBLISHED  # the checkpoint: a file, or hf:org/name/file
    tokenizer: str = "google-bert/bert-base-uncased"  # BERT's tokenizer: Hub id or transformers folder
    batch: Pictures = 16  # pictures through the network at once

    resize: ClassVar[str] = CROPPED
    about: ClassVar[About] = About(
        "ImageReward v1.0: BLIP's reward of picture and prompt, standardised, about -2 to 2.",
        paper="Xu et al., ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation, 2023",
        url="https://arxiv.org/abs/2304.05977",
        license="Apache-2.0",
        cost="one BLIP-L forward per picture",
    )

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Rows | None = None) -> Tensor:
        """(b,), differentiable in `images` (b, 3, h, w) in [0, 1]; prompts are cut at 35 tokens, as published."""
        file, folder = self._files()
        reader, tokens = opened(file, str(images.device)), tokenizer(folder)
        side = reader.vision.config.image_size

        def judge(pictures: Tensor, texts: Sequence[str]) -> Tensor:
            read = tokens(list(texts), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
            ids, mask = read.input_ids.to(images.device), read.attention_mask.to(images.device)
            return reader.reward(normalised(cropped(pictures, side)), ids, mask)

        return in_batches(images, prompts, self.batch, judge)

    def version(self) -> str:
        """What weights and tokenizer hash to."""
        return weights.version(*self._files())

    def _files(self) -> tuple[Path, Path]:
        file = weights.found_file(self.weights, "imagereward.weights")
        return file, weights.found_tokenizer(self.tokenizer, "imagereward.tokenizer")
