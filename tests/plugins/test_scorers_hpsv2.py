"""hpsv2 on a tiny network of open_clip whose weights follow the published table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genbench.errors import MissingDependency, ModelError, UsageError
from genbench.testing import check_plugin
from genbench_scorers import hpsv2
from genbench_scorers.hpsv2 import HPSv2
from tests.plugins import scorers_plain as networks, scorers_published as published
from tests.plugins.test_scorers_clip import MEAN, STD

open_clip = pytest.importorskip("open_clip")
TEXTS = ["a red cube", "a blue sphere, seen from above", "a red cube"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[HPSv2, dict[str, Tensor]]:
    file, tensors = published.hps_file(tmp_path_factory.mktemp("hps"), "tiny-hps")
    return HPSv2(str(file), "tiny-hps"), tensors


def pictures(height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(5))


def as_transformers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's names and joined projections as the plain network has them."""
    towers = {"visual.": ("vision_model", 32), "": ("text_model", 16)}
    found = {
        "vision_model.embeddings.patch_embedding.weight": tensors["visual.conv1.weight"],
        "vision_model.embeddings.class_embedding": tensors["visual.class_embedding"],
        "vision_model.embeddings.position_embedding.weight": tensors["visual.positional_embedding"],
        "text_model.embeddings.token_embedding.weight": tensors["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": tensors["positional_embedding"],
        "visual_projection.weight": tensors["visual.proj"].T,
        "text_projection.weight": tensors["text_projection"].T,
    }
    for part in ("weight", "bias"):
        found[f"vision_model.pre_layrnorm.{part}"] = tensors[f"visual.ln_pre.{part}"]
        found[f"vision_model.post_layernorm.{part}"] = tensors[f"visual.ln_post.{part}"]
        found[f"text_model.final_layer_norm.{part}"] = tensors[f"ln_final.{part}"]
        for prefix, (tower, width) in towers.items():
            for n in (0, 1):
                here, there = f"{prefix}transformer.resblocks.{n}", f"{tower}.encoder.layers.{n}"
                for i, each in enumerate("qkv"):
                    joined = tensors[f"{here}.attn.in_proj_{part}"]
                    found[f"{there}.self_attn.{each}_proj.{part}"] = joined[i * width : (i + 1) * width]
                found[f"{there}.self_attn.out_proj.{part}"] = tensors[f"{here}.attn.out_proj.{part}"]
                found[f"{there}.layer_norm1.{part}"] = tensors[f"{here}.ln_1.{part}"]
                found[f"{there}.layer_norm2.{part}"] = tensors[f"{here}.ln_2.{part}"]
                found[f"{there}.mlp.fc1.{part}"] = tensors[f"{here}.mlp.c_fc.{part}"]
                found[f"{there}.mlp.fc2.{part}"] = tensors[f"{here}.mlp.c_proj.{part}"]
    return found


def plain_cosine(tensors: dict[str, Tensor], images: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    monkeypatch.setattr(networks, "quick_gelu", F.gelu)  # the one difference of LAION's CLIP-H from OpenAI's CLIP
    plain = as_transformers(tensors)
    pixels = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    ids = open_clip.SimpleTokenizer(context_length=77)(TEXTS)
    texts = networks.plain_clip_text(plain, ids, 49407, heads=2, layers=2)
    return (networks.plain_clip_image(plain, pixels, heads=4, layers=2) * texts).sum(1)


def test_score_is_the_plain_cosine(tiny: tuple[HPSv2, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, tensors = tiny
    found = scorer.score(images=pictures(), prompts=TEXTS)
    assert torch.allclose(found, plain_cosine(tensors, pictures(), monkeypatch), atol=1e-5)
    assert len({round(float(value), 4) for value in found}) == 3


def test_a_wide_picture_is_padded_with_black(
    tiny: tuple[HPSv2, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Black before the normalisation, as `ResizeMaxSize` pads pictures and not pixels."""
    scorer, tensors = tiny
    square = F.pad(pictures(16, 32), (0, 0, 8, 8))
    found = scorer.score(images=pictures(16, 32), prompts=TEXTS)
    assert torch.allclose(found, plain_cosine(tensors, square, monkeypatch), atol=1e-5)


def test_weights_in_half_precision_are_judged_in_full(tiny: tuple[HPSv2, dict[str, Tensor]], tmp_path: Path) -> None:
    """The published file is compressed to 16 bits."""
    half = {name: tensor.half() for name, tensor in tiny[1].items()}
    torch.save({"state_dict": half}, tmp_path / "half.pt")
    found = HPSv2(str(tmp_path / "half.pt"), "tiny-hps").score(images=pictures(), prompts=TEXTS)
    assert found.dtype == torch.float32
    assert torch.allclose(found, tiny[0].score(images=pictures(), prompts=TEXTS), atol=5e-3)


def test_gradients_reach_the_pixels(tiny: tuple[HPSv2, dict[str, Tensor]]) -> None:
    images = pictures(40, 48).requires_grad_()
    (gradient,) = torch.autograd.grad(tiny[0].score(images=images, prompts=TEXTS).sum(), images)
    assert gradient.isfinite().all() and (gradient != 0).float().mean() > 0.9


def test_contract(tiny: tuple[HPSv2, dict[str, Tensor]]) -> None:
    check_plugin(HPSv2, "scorer", weights=tiny[0].weights, architecture="tiny-hps", batch=2)


def test_version_names_the_weights_and_not_their_place(tiny: tuple[HPSv2, dict[str, Tensor]], tmp_path: Path) -> None:
    copied = tmp_path / Path(tiny[0].weights).name
    copied.write_bytes(Path(tiny[0].weights).read_bytes())
    assert HPSv2(str(copied)).version() == tiny[0].version()
    torch.save({"state_dict": published.state(published.HPS, 2, **published.TINY_HPS)}, copied)
    assert HPSv2(str(copied)).version() != tiny[0].version()


# --- what is refused ----------------------------------------------------------------------------------------------


def test_weights_of_another_network(tiny: tuple[HPSv2, dict[str, Tensor]], tmp_path: Path) -> None:
    torch.save({"state_dict": {"logit_scale": torch.tensor(1.0)}}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="other.pt does not fit the network"):
        HPSv2(str(tmp_path / "other.pt"), "tiny-hps").score(images=pictures(), prompts=TEXTS)


def test_unknown_architecture(tiny: tuple[HPSv2, dict[str, Tensor]]) -> None:
    with pytest.raises(UsageError, match="architecture=tiny-hsp is none of open_clip's; did you mean 'tiny-hps'"):
        HPSv2(tiny[0].weights, "tiny-hsp").score(images=pictures(), prompts=TEXTS)


def test_without_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    hpsv2.tokenizer.cache_clear()
    with pytest.raises(MissingDependency, match=r"pip install 'genbench\[eval\]'"):
        HPSv2().version()
