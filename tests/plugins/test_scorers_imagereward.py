"""imagereward on a tiny BLIP whose weights follow the published table, against BLIP's plain formulas."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genbench.errors import ModelError
from genbench.testing import check_plugin
from genbench_scorers.imagereward import ImageReward
from tests.plugins import scorers_published as published
from tests.plugins.scorers_plain import plain_attention, plain_linear, plain_norm
from tests.plugins.test_scorers_clip import MEAN, STD
from tests.tiny import bert_tokenizer

TEXTS = ["a red cube", "the blue sphere left of a cat", "a red cube"]
SIZES = {"words": 96, "tw": 64, "tm": 96, "tl": 2, "vw": 128, "vm": 160, "vl": 2, "patch": 8, "spots": 17}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageReward, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("imagereward")
    tensors = published.state(published.IMAGE_REWARD, 1, **SIZES)
    torch.save(tensors, folder / "ImageReward.pt")
    bert_tokenizer(512).save_pretrained(folder / "tokenizer")
    return ImageReward(str(folder / "ImageReward.pt"), str(folder / "tokenizer")), tensors


def pictures(size: int = 32) -> Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(5))


def plain_vision(s: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """BLIP's vision transformer: patches, a class token, pre-norm blocks with joined q, k and v; eps 1e-6."""
    at = "blip.visual_encoder"
    patches = F.conv2d(pixels, s[f"{at}.patch_embed.proj.weight"], s[f"{at}.patch_embed.proj.bias"], stride=8)
    x = torch.cat([s[f"{at}.cls_token"].expand(len(pixels), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
    x = x + s[f"{at}.pos_embed"]
    for n in (0, 1):
        block = f"{at}.blocks.{n}"
        q, k, v = plain_linear(s, f"{block}.attn.qkv", plain_norm(s, f"{block}.norm1", x, 1e-6)).chunk(3, -1)
        x = x + plain_linear(s, f"{block}.attn.proj", plain_attention(q, k, v, heads=2))
        y = plain_linear(s, f"{block}.mlp.fc1", plain_norm(s, f"{block}.norm2", x, 1e-6))
        x = x + plain_linear(s, f"{block}.mlp.fc2", F.gelu(y))
    return plain_norm(s, f"{at}.norm", x, 1e-6)


def attended(s: dict[str, Tensor], name: str, x: Tensor, seen: Tensor, hidden: Tensor | None) -> Tensor:
    """BERT's post-norm attention of x to what it sees, eps 1e-12."""
    q = plain_linear(s, f"{name}.self.query", x)
    k, v = (plain_linear(s, f"{name}.self.{part}", seen) for part in ("key", "value"))
    y = plain_linear(s, f"{name}.output.dense", plain_attention(q, k, v, heads=1, hidden=hidden))
    return plain_norm(s, f"{name}.output.LayerNorm", y + x, 1e-12)


def plain_reward(s: dict[str, Tensor], images: Tensor) -> Tensor:
    """The first token of a text encoder that attends to the picture in every layer, through the affine head."""
    seen = plain_vision(s, (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])
    read = bert_tokenizer(512)(TEXTS, padding="max_length", max_length=35, return_tensors="pt")
    at = "blip.text_encoder"
    x = s[f"{at}.embeddings.word_embeddings.weight"][read.input_ids]
    x = plain_norm(s, f"{at}.embeddings.LayerNorm", x + s[f"{at}.embeddings.position_embeddings.weight"][:35], 1e-12)
    for n in (0, 1):
        layer = f"{at}.encoder.layer.{n}"
        x = attended(s, f"{layer}.attention", x, x, (read.attention_mask == 0)[:, None, None])
        x = attended(s, f"{layer}.crossattention", x, seen, None)
        y = plain_linear(s, f"{layer}.output.dense", F.gelu(plain_linear(s, f"{layer}.intermediate.dense", x)))
        x = plain_norm(s, f"{layer}.output.LayerNorm", y + x, 1e-12)
    raw = reduce(lambda y, n: plain_linear(s, f"mlp.layers.{n}", y), (0, 2, 4, 6, 7), x[:, 0])[:, 0]
    return (raw - 0.16717362830052426) / 1.0333394966054072


def test_reward_is_the_plain_formula(tiny: tuple[ImageReward, dict[str, Tensor]]) -> None:
    scorer, tensors = tiny
    found = scorer.score(images=pictures(), prompts=TEXTS)
    assert torch.allclose(found, plain_reward(tensors, pictures()), atol=1e-5)
    assert len({round(float(value), 4) for value in found}) == 3


def test_gradients_reach_the_pixels(tiny: tuple[ImageReward, dict[str, Tensor]]) -> None:
    images = pictures(48).requires_grad_()
    (gradient,) = torch.autograd.grad(tiny[0].score(images=images, prompts=TEXTS).sum(), images)
    assert gradient.isfinite().all() and (gradient != 0).float().mean() > 0.9


def test_contract(tiny: tuple[ImageReward, dict[str, Tensor]]) -> None:
    check_plugin(ImageReward, "scorer", weights=tiny[0].weights, tokenizer=tiny[0].tokenizer, batch=2)


def test_a_prompt_is_cut_at_35_tokens(tiny: tuple[ImageReward, dict[str, Tensor]]) -> None:
    """33 words and two marks; the published code pads to the same length."""
    one, other = (" ".join(["red"] * 33 + [last]) for last in ("cube", "cat"))
    image = pictures()[:1]
    assert tiny[0].score(images=image, prompts=[one]) == tiny[0].score(images=image, prompts=[other])


def test_version_is_of_weights_and_tokenizer(tiny: tuple[ImageReward, dict[str, Tensor]], tmp_path: Path) -> None:
    bert_tokenizer(128).save_pretrained(tmp_path)
    assert ImageReward(tiny[0].weights, str(tmp_path)).version() != tiny[0].version()


def test_a_file_of_another_layout(tiny: tuple[ImageReward, dict[str, Tensor]], tmp_path: Path) -> None:
    torch.save({"visual.proj": torch.zeros(2, 2)}, tmp_path / "clip.pt")
    with pytest.raises(ModelError, match=r"otherwise than ImageReward.pt: .* is missing"):
        ImageReward(str(tmp_path / "clip.pt"), tiny[0].tokenizer).score(images=pictures(), prompts=TEXTS)


def test_a_file_that_lacks_a_tensor(tiny: tuple[ImageReward, dict[str, Tensor]], tmp_path: Path) -> None:
    kept = {name: tensor for name, tensor in tiny[1].items() if name != "blip.visual_encoder.norm.bias"}
    torch.save(kept, tmp_path / "part.pt")
    with pytest.raises(ModelError, match="post_layernorm.bias"):
        ImageReward(str(tmp_path / "part.pt"), tiny[0].tokenizer).score(images=pictures(), prompts=TEXTS)
