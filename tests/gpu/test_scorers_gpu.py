"""Scorers judge on the pictures' device: the same values as on the CPU, and gradients there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genbench_scorers.aesthetic import Aesthetic
from genbench_scorers.clip import Clip
from genbench_scorers.hpsv2 import HPSv2
from genbench_scorers.imagereward import ImageReward
from genbench_scorers.inception import Inception
from genbench_scorers.pickscore import PickScore
from genbench_scorers.vqascore import VQAScore
from tests.plugins import (
    scorers_published as published,
    test_scorers_imagereward as imagereward,
    test_scorers_vqascore as vqascore,
)
from tests.plugins.scorers_inception import inception_state
from tests.tiny import bert_tokenizer

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
PROMPTS = ["a red cube", "a blue sphere"]


def clip(folder: Path) -> Clip:
    return Clip(str(published.clip_folder(folder)[0]))


def pickscore(folder: Path) -> PickScore:
    return PickScore(clip(folder).model)


def aesthetic(folder: Path) -> Aesthetic:
    torch.save(published.state(published.AESTHETIC, d=24), folder / "head.pth")
    return Aesthetic(str(folder / "head.pth"), clip(folder).model)


def hpsv2(folder: Path) -> HPSv2:
    pytest.importorskip("open_clip")
    return HPSv2(str(published.hps_file(folder, "tiny-gpu")[0]), "tiny-gpu")


def image_reward(folder: Path) -> ImageReward:
    torch.save(published.state(published.IMAGE_REWARD, **imagereward.SIZES), folder / "ImageReward.pt")
    bert_tokenizer(512).save_pretrained(folder / "tokenizer")
    return ImageReward(str(folder / "ImageReward.pt"), str(folder / "tokenizer"))


def vqa(folder: Path) -> VQAScore:
    vqascore.save_qwen(folder)
    return VQAScore(str(folder))


@pytest.mark.parametrize("make", [clip, pickscore, aesthetic, hpsv2, image_reward, vqa])
def test_scores_and_gradients_on_the_device(make: Callable[[Path], Any], tmp_path: Path) -> None:
    scorer = make(tmp_path)
    images = torch.rand(2, 3, 56, 60)
    expected = scorer.score(images=images, prompts=PROMPTS)
    there = images.to(DEVICE).requires_grad_()
    found = scorer.score(images=there, prompts=PROMPTS)
    assert found.device.type == DEVICE
    assert torch.allclose(found.cpu(), expected, atol=2e-3, rtol=2e-3)
    (gradient,) = torch.autograd.grad(found.sum(), there)
    assert gradient.device.type == DEVICE and gradient.isfinite().all() and (gradient != 0).any()


def test_encoders_on_the_device(tmp_path: Path) -> None:
    torch.save(inception_state(), tmp_path / "inception.pth")
    images = torch.rand(2, 3, 56, 60)
    for encoder in (clip(tmp_path / "clip"), Inception(str(tmp_path / "inception.pth"))):
        with torch.no_grad():
            here, there = encoder.embed_images(images), encoder.embed_images(images.to(DEVICE))
        assert there.device.type == DEVICE
        assert torch.allclose(there.cpu(), here, atol=5e-3 * float(here.abs().max()))
