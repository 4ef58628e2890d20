"""clip, pickscore and aesthetic on a tiny CLIP whose weights follow the published table, against plain formulas."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genbench.errors import ModelError
from genbench.testing import check_plugin
from genbench_scorers.aesthetic import Aesthetic
from genbench_scorers.clip import Clip
from genbench_scorers.pickscore import PickScore
from tests.plugins import scorers_plain as plain, scorers_published as published
from tests.tiny import clip_tokenizer

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TEXTS = ["a red cube", "a blue sphere", "a red cube"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Tensor]]:
    folder, tensors = published.clip_folder(tmp_path_factory.mktemp("scorers") / "clip")
    return str(folder), tensors


def pictures(size: int = 32) -> Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(5))


def plain_images(tensors: dict[str, Tensor], images: Tensor) -> Tensor:
    """At the network's own size: no resizing."""
    normalised = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return plain.plain_clip_image(tensors, normalised, heads=4, layers=2)


def plain_texts(tensors: dict[str, Tensor], texts: list[str]) -> Tensor:
    ids = [clip_tokenizer()(text).input_ids for text in texts]
    return torch.cat([plain.plain_clip_text(tensors, torch.tensor([row]), 513, heads=2, layers=2) for row in ids])


def test_clip_score_is_the_plain_cosine(tiny: tuple[str, dict[str, Tensor]]) -> None:
    folder, tensors = tiny
    cosine = (plain_images(tensors, pictures()) * plain_texts(tensors, TEXTS)).sum(1)
    found = Clip(folder).score(images=pictures(), prompts=TEXTS)
    assert torch.allclose(found, cosine, atol=1e-5)
    assert len({round(float(value), 4) for value in found}) == 3


def test_clip_score_of_the_paper(tiny: tuple[str, dict[str, Tensor]]) -> None:
    folder, tensors = tiny
    described = [f"A photo depicts {text}" for text in TEXTS]
    cosine = (plain_images(tensors, pictures()) * plain_texts(tensors, described)).sum(1)
    found = Clip(folder, convention="paper").score(images=pictures(), prompts=TEXTS)
    assert torch.allclose(found, 2.5 * cosine.clamp(min=0), atol=1e-5)


def test_clip_as_encoder(tiny: tuple[str, dict[str, Tensor]]) -> None:
    folder, tensors = tiny
    clip = Clip(folder)
    assert torch.allclose(clip.embed_images(pictures()), plain_images(tensors, pictures()), atol=1e-5)
    assert torch.allclose(clip.embed_texts(TEXTS), plain_texts(tensors, TEXTS), atol=1e-5)


def test_pickscore_is_scaled_by_the_published_temperature(tiny: tuple[str, dict[str, Tensor]]) -> None:
    folder, tensors = tiny
    cosine = (plain_images(tensors, pictures()) * plain_texts(tensors, TEXTS)).sum(1)
    found = PickScore(folder).score(images=pictures(), prompts=TEXTS)
    assert torch.allclose(found, tensors["logit_scale"].exp() * cosine, atol=1e-4)


@pytest.mark.parametrize("layout", ["improved", "linear"])
def test_aesthetic_reads_both_layouts(tiny: tuple[str, dict[str, Tensor]], tmp_path: Path, layout: str) -> None:
    folder, tensors = tiny
    table = published.AESTHETIC if layout == "improved" else published.AESTHETIC_LINEAR
    head = published.state(table, 3, d=24)
    torch.save(head, tmp_path / "head.pth")
    names = [""] if layout == "linear" else [f"layers.{n}." for n in (0, 2, 4, 6, 7)]
    affine = lambda x, name: x @ head[f"{name}weight"].T + head[f"{name}bias"]  # noqa: E731
    expected = reduce(affine, names, plain_images(tensors, pictures()))[:, 0]
    found = Aesthetic(str(tmp_path / "head.pth"), folder).score(images=pictures(), prompts=TEXTS)
    assert torch.allclose(found, expected, atol=1e-5)


def test_gradients_reach_the_pixels_through_the_resize(tiny: tuple[str, dict[str, Tensor]], tmp_path: Path) -> None:
    folder, _ = tiny
    torch.save(published.state(published.AESTHETIC, 3, d=24), tmp_path / "head.pth")
    for scorer in (Clip(folder), PickScore(folder), Aesthetic(str(tmp_path / "head.pth"), folder)):
        images = pictures(48).requires_grad_()
        (gradient,) = torch.autograd.grad(scorer.score(images=images, prompts=TEXTS).sum(), images)
        assert gradient.isfinite().all() and (gradient != 0).float().mean() > 0.9, type(scorer).__name__


def test_pieces_change_nothing(tiny: tuple[str, dict[str, Tensor]]) -> None:
    folder, _ = tiny
    whole = Clip(folder).score(images=pictures(), prompts=TEXTS)
    assert torch.allclose(Clip(folder, batch=2).score(images=pictures(), prompts=TEXTS), whole, atol=1e-6)


def test_contract(tiny: tuple[str, dict[str, Tensor]], tmp_path: Path) -> None:
    folder, _ = tiny
    torch.save(published.state(published.AESTHETIC, 3, d=24), tmp_path / "head.pth")
    check_plugin(Clip, "scorer", model=folder, batch=2)
    check_plugin(Clip, "encoder", model=folder)
    check_plugin(PickScore, "scorer", model=folder)
    check_plugin(Aesthetic, "scorer", weights=str(tmp_path / "head.pth"), clip=folder)


def test_a_long_prompt_is_cut_at_the_end_of_the_context(tiny: tuple[str, dict[str, Tensor]]) -> None:
    clip = Clip(tiny[0])
    one, other = clip.embed_texts(["ab" * 100 + "c", "ab" * 100 + "d"])
    assert torch.equal(one, other)


def test_files_of_older_transformers_open(tiny: tuple[str, dict[str, Tensor]], tmp_path: Path) -> None:
    """OpenAI's published file still holds the positions' numbers."""
    from safetensors.torch import save_file

    folder, tensors = published.clip_folder(tmp_path)
    positions = {"text_model": torch.arange(77)[None], "vision_model": torch.arange(17)[None]}
    older = tensors | {f"{tower}.embeddings.position_ids": each for tower, each in positions.items()}
    save_file(older, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(Clip(str(folder)).embed_texts(TEXTS), Clip(tiny[0]).embed_texts(TEXTS))


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_head_for_another_clip(tiny: tuple[str, dict[str, Tensor]], tmp_path: Path) -> None:
    torch.save(published.state(published.AESTHETIC, 3, d=768), tmp_path / "head.pth")
    with pytest.raises(ModelError, match="768 numbers and aesthetic.clip=.* gives 24"):
        Aesthetic(str(tmp_path / "head.pth"), tiny[0]).score(images=pictures(), prompts=TEXTS)


def test_a_head_of_a_third_layout(tiny: tuple[str, dict[str, Tensor]], tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(1, 24)}, tmp_path / "head.pth")
    with pytest.raises(ModelError, match="neither layout"):
        Aesthetic(str(tmp_path / "head.pth"), tiny[0]).score(images=pictures(), prompts=TEXTS)


def test_weights_that_leave_parts_unfilled(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder, tensors = published.clip_folder(tmp_path)
    tensors.pop("visual_projection.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 parts of a CLIPModel, first visual_projection.weight"):
        Clip(str(folder)).score(images=pictures(), prompts=TEXTS)


def test_a_folder_of_another_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="type bert, not a CLIP"):
        Clip(str(tmp_path)).score(images=pictures(), prompts=TEXTS)
