"""The published tables at the published sizes hold as many numbers as the published files."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

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
