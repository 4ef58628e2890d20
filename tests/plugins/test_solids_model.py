"""The shipped weights of `solids`: size, opening, reading, scoring."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPModel

import genbench
from genbench.kinds import Encoder, Scorer, Source
from genbench_solids import measure, weights
from genbench_solids.captions import KINDS, parse, sample, say
from genbench_solids.reader import named
from genbench_solids.scorers import SolidsClip, SolidsExact, SolidsVerifier, as_caption
from genbench_solids.source import Solids
from genbench_solids.training.data import render_rows

CAPTIONS = ("a red cube", "a blue sphere left of a green cone", "two pink tori", "a cyan cube on top of a red cylinder")


def rendered(captions: tuple[str, ...], seed: int = 11) -> Tensor:
    return Solids().reference(captions, seed)


def test_everything_shipped_is_at_most_23_mb_and_readable_by_all() -> None:
    files = [path for path in weights.WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 23_000_000
    assert {path.suffix for path in files} <= {".json", ".txt", ".safetensors"}


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(Solids().open(), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_folder_opens_as_a_stock_pipeline_and_draws_what_is_asked(pipeline: StableDiffusionPipeline) -> None:
    prompts = ["a red cube", "two green cones"]
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    draw: Any = pipeline  # annotated as if a pipeline could return a plain tuple only
    pictures = draw(prompts, num_inference_steps=10, guidance_scale=2.0, output_type="pt", generator=generators).images
    assert pictures.shape == (2, 3, 64, 64)
    assert SolidsExact().score(images=pictures.float(), prompts=prompts).tolist() == [1.0, 1.0]


def test_the_weak_view_is_the_same_pipeline_with_another_denoiser(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pipeline: StableDiffusionPipeline
) -> None:
    monkeypatch.setenv("GENBENCH_CACHE_DIR", str(tmp_path))
    folder = Solids.views["weak"]
    assert folder == Solids.views["weak"] and folder.is_relative_to(tmp_path)
    weak = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    assert not torch.equal(weak.unet.conv_in.weight, pipeline.unet.conv_in.weight)
    assert torch.equal(weak.vae.post_quant_conv.weight, pipeline.vae.post_quant_conv.weight)
    with pytest.raises(KeyError):
        Solids.views["strong"]


def test_protocols() -> None:
    assert isinstance(Solids(), Source)
    assert all(isinstance(plugin, Scorer) for plugin in (SolidsVerifier(), SolidsExact(), SolidsClip()))
    assert isinstance(SolidsClip(), Encoder)
    assert Solids.recommended["verifier"] == "solids"


def test_readers_read_renders_and_refuse_wrong_captions() -> None:
    images = rendered(CAPTIONS)
    turned = CAPTIONS[1:] + CAPTIONS[:1]
    assert SolidsExact().score(images=images, prompts=CAPTIONS).tolist() == [1.0] * 4
    assert SolidsExact().score(images=images, prompts=turned).tolist() == [0.0] * 4
    right = SolidsVerifier().score(images=images, prompts=CAPTIONS)
    assert (right <= 0).all() and (right > -0.1).all()
    assert (SolidsVerifier().score(images=images, prompts=turned) < -3).all()


def test_details_add_up() -> None:
    images = rendered(CAPTIONS)
    parts = SolidsVerifier().details(images=images, prompts=CAPTIONS)
    total = SolidsVerifier().score(images=images, prompts=CAPTIONS)
    assert torch.equal(parts.pop(""), total)
    assert torch.allclose(torch.stack(list(parts.values())).sum(0), total, atol=1e-5)
    exact = SolidsExact().details(images=images, prompts=CAPTIONS)
    assert torch.equal(exact.pop(""), SolidsExact().score(images=images, prompts=CAPTIONS))
    assert set(exact) == {"arrangement", "view", "colour", "shape", "size", "logp"}


def test_scores_are_differentiable() -> None:
    for scorer in (SolidsVerifier(), SolidsClip()):
        images = rendered(CAPTIONS[:2]).requires_grad_(True)
        scorer.score(images=images, prompts=CAPTIONS[1:3]).sum().backward()
        assert images.grad is not None and images.grad.abs().sum() > 0


def test_the_two_readers_are_different_networks() -> None:
    images = torch.rand(2, 3, 64, 64)
    first, second = (weights.reader(name)(images)[0] for name in measure.NAMES)
    assert not torch.allclose(first, second)


def test_clip_prefers_the_right_caption() -> None:
    images = rendered(CAPTIONS)
    clip = SolidsClip()
    cosines = clip.embed_images(images) @ clip.embed_texts(CAPTIONS).T
    assert cosines.argmax(1).tolist() == [0, 1, 2, 3]
    assert torch.allclose(clip.score(images=images, prompts=CAPTIONS), cosines.diagonal(), atol=1e-5)
    assert clip.embed_texts(["free text: 🙂"]).shape == (1, 128)


def test_clip_is_a_plain_transformers_folder_when_saved(tmp_path: Path) -> None:
    weights.save_clip(tmp_path)
    opened = CLIPModel.from_pretrained(tmp_path, local_files_only=True).state_dict()
    assert all(torch.equal(value, opened[name]) for name, value in weights.clip().state_dict().items())


def test_nothing_readable_is_none() -> None:
    images = rendered(CAPTIONS * 4)
    for spoiled in measure.unreadable(images).values():
        for name in measure.NAMES:
            none = measure.reading(weights.reader(name), spoiled).best()[:, 0] == 0
            assert none.float().mean() >= 0.9


@pytest.mark.slow
def test_readers_read_98_percent_of_2000_renders() -> None:
    found = measure.report(2000)
    assert found["renders"] == 2000
    for name in measure.NAMES:
        of_reader = found[name]
        assert isinstance(of_reader, dict)
        assert of_reader["exact"] >= 0.98
        assert min(of_reader["none"].values()) >= 0.95


@pytest.mark.slow
def test_captions_of_every_kind_read_back_from_their_renders() -> None:
    rng = Random(8)
    said = [say(sample(kind, rng), rng) for kind in KINDS for _ in range(12)]
    rows = torch.tensor([as_caption(caption).row() for caption in said])
    images, fit = render_rows(rows, torch.Generator().manual_seed(0))
    wanted = torch.tensor([named(parse(caption)) for caption in said])
    exact = measure.reading(weights.reader("benchmark"), images.float() / 255).exact(wanted)
    assert exact[fit].mean() > 0.95


# Of about 30 pictures; one miss is 3 %. docs/solids.md measures the whole list.
FLOORS = {"single": 0.95, "two": 0.95, "beside": 0.85, "stack": 0.75}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "floor"), FLOORS.items())
def test_the_model_draws_what_held_out_prompts_say(kind: str, floor: float, root: Path, tmp_path: Path) -> None:
    lines = [line for line in (root / "prompts/solids.jsonl").read_text().splitlines() if f'"kind": "{kind}"' in line]
    (tmp_path / "some.jsonl").write_text("\n".join(lines[:32]))
    made = genbench.generate(prompts=str(tmp_path / "some.jsonl"), batch_size=16)
    images = torch.stack([picture.image for picture in made])
    exact = SolidsExact().score(images=images, prompts=[picture.prompt for picture in made])
    assert len(made) >= 25 and float(exact.mean()) >= floor
