"""The published tables at the published sizes: as many numbers as the files hold, the parts of the real networks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
import transformers

from genbench_scorers import imagereward
from tests.plugins import scorers_published as published
from tests.plugins.scorers_inception import INCEPTION
from tests.plugins.scorers_published import Shape

VIT_L = {"words": 49408, "tw": 768, "tm": 3072, "tl": 12, "vw": 1024, "vm": 4096, "vl": 24, "d": 768}
VIT_H = {"words": 49408, "tw": 1024, "tm": 4096, "tl": 24, "vw": 1280, "vm": 5120, "vl": 32, "d": 1024}
BLIP_L = {"words": 30524, "tw": 768, "tm": 3072, "tl": 12, "vw": 1024, "vm": 4096, "vl": 24}
PATCHES = {14: {"patch": 14, "spots": 257}, 16: {"patch": 16, "spots": 197}}


def numbers(table: Mapping[str, Shape], sizes: Mapping[str, int]) -> int:
    return sum(math.prod(shape) for shape in published.shapes(table, **sizes).values())


def test_openai_vit_l_14() -> None:
    assert numbers(published.CLIP, VIT_L | PATCHES[14]) == 427_616_513


@pytest.mark.parametrize("table", [published.CLIP, published.HPS], ids=["transformers", "open_clip"])
def test_laion_vit_h_14(table: Mapping[str, Shape]) -> None:
    assert numbers(table, VIT_H | PATCHES[14]) == 986_109_441


def test_imagereward_file_has_1_79_gigabytes() -> None:
    assert numbers(published.IMAGE_REWARD, BLIP_L | PATCHES[16]) * 4 == pytest.approx(1.79e9, rel=0.002)


def test_aesthetic_files_have_3_7_megabytes_and_3_kilobytes() -> None:
    assert numbers(published.AESTHETIC, {"d": 768}) * 4 == pytest.approx(3.71e6, rel=0.005)
    assert numbers(published.AESTHETIC_LINEAR, {"d": 768}) == 769


def test_inception_file_has_95_6_megabytes() -> None:
    assert len(INCEPTION) == 94
    weights = sum(out * into * high * wide + 4 * out for out, into, high, wide in INCEPTION.values())
    assert (weights + 1008 * 2048 + 1008) * 4 == pytest.approx(95.6e6, rel=0.002)


# --- the networks at their published sizes, without memory --------------------------------------------------------


def parts(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def test_open_clips_vit_h_14_has_the_tables_parts() -> None:
    open_clip = pytest.importorskip("open_clip")
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config("ViT-H-14"))
    assert parts(model) == published.shapes(published.HPS, **VIT_H, **PATCHES[14])


def test_transformers_clip_has_the_tables_parts() -> None:
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config={**vision, "patch_size": 14}, projection_dim=768)
    with torch.device("meta"):
        model = transformers.CLIPModel(config)
    assert parts(model) == published.shapes(published.CLIP, **VIT_L, **PATCHES[14])


def test_blips_towers_have_the_tables_parts_and_its_published_sizes() -> None:
    table = published.shapes(published.IMAGE_REWARD, **BLIP_L, **PATCHES[16])
    empty = {name: torch.empty(shape, device="meta") for name, shape in table.items()}
    vision = imagereward.part(empty, "blip.visual_encoder.")
    text = imagereward.part(empty, "blip.text_encoder.")
    seen, read = imagereward.vision_config(vision), imagereward.text_config(text)
    with torch.device("meta"):
        towers = transformers.BlipVisionModel(seen), transformers.BlipTextModel(read, add_pooling_layer=False)
    assert parts(towers[0]) == {imagereward.renamed(name): tuple(each.shape) for name, each in vision.items()}
    assert parts(towers[1]) == {name: tuple(each.shape) for name, each in text.items() if "position_ids" not in name}
    assert (seen.image_size, seen.patch_size, seen.num_attention_heads, seen.num_hidden_layers) == (224, 16, 16, 24)
    assert (read.num_attention_heads, read.num_hidden_layers, read.encoder_hidden_size) == (12, 12, 1024)
