"""The trainer of `solids` on a recipe of seconds: resuming is bit-identical, the result is a stock folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from torch import nn

from genbench.errors import UsageError
from genbench.kinds import Ledger, Resources, TrainJob
from genbench.training import checkpoints, loop
from genbench_solids.captions import KINDS, Attributes, parse
from genbench_solids.training import data, readers, text, unet, vae
from genbench_solids.training.recipe import Recipe, tiny
from genbench_solids.training.stages import STAGES
from genbench_solids.training.trainer import SolidsTrainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Every stage of the tiny recipe."""
    recipe = tiny(tmp_path_factory.mktemp("solids"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for stage in STAGES.values():
        stage(recipe)
    torch.set_num_threads(threads)
    return recipe


def weights(recipe: Recipe, name: str) -> dict[str, torch.Tensor]:
    return torch.load(checkpoints.checkpoint_path(recipe, name), weights_only=True)["roles"]["module"]["weights"]


def test_the_denoiser_resumes_bit_identically(trained: Recipe, tmp_path: Path) -> None:
    parts = replace(trained, folder=tmp_path)
    for name in ("latents.pt", "checkpoints/text.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(trained.at(name))
    for until in (1, 4):
        torch.manual_seed(parts.seed + 4)
        loop.fit(parts, unet.stage(parts), until=until)
    expected, resumed = weights(trained, "unet"), weights(parts, "unet")
    assert all(torch.equal(expected[k], resumed[k]) for k in expected)


def test_a_half_written_checkpoint_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "stage.pt"
    checkpoints.save_atomically({"step": 1}, path)
    with pytest.raises(AttributeError):
        checkpoints.save_atomically({"step": lambda: 0}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}


def test_shards_do_not_depend_on_the_worker(trained: Recipe, tmp_path: Path) -> None:
    other = replace(trained, folder=tmp_path)
    data.render_shard(other, "test", 0)
    for mine, theirs in zip(data.load_split(trained, "test"), data.load_split(other, "test"), strict=True):
        assert torch.equal(mine, theirs)


def test_learning_rate_and_curriculum() -> None:
    optimiser = loop.Stage("", nn.Identity(), lambda *_: (torch.zeros(()), {}), 1000, lr=1e-3).optimiser
    rates = [optimiser.rate(step, 1000) for step in range(1001)]
    assert max(rates) <= 1e-3 and rates[0] < 2e-5 and rates[-1] == pytest.approx(1e-5)
    for progress in (0.0, 0.15, 1.0):
        assert unet.shares(progress).sum() == pytest.approx(1.0)
    assert unet.shares(0.0)[KINDS.index("single")] > 0.4
    assert unet.shares(0.5)[KINDS.index("stack")] >= 0.25


def test_captions_name_what_differs_from_the_default() -> None:
    for caption in ("a red cube", "a large red cube, from above", "a blue torus on top of a red cube, from the side"):
        attributes = parse(caption)
        assert isinstance(attributes, Attributes)
        assert unet.described(attributes.row()) == attributes


def test_v_loss_is_zero_for_the_right_answer() -> None:
    x0, eps = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    a = torch.tensor((0.1, 0.5, 0.9)).view(3, 1, 1, 1)
    assert unet.v_loss(a.sqrt() * eps - (1 - a).sqrt() * x0, x0, eps, a) == 0
    assert unet.v_loss(torch.zeros_like(x0), x0, eps, a) > 0


def test_folding_changes_latents_not_pictures(trained: Recipe) -> None:
    torch.manual_seed(0)
    model: Any = vae.build(trained).eval()
    images = torch.rand(64, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = model.decode(model.encode(images).latent_dist.mean).sample
        vae.fold_normalisation(model, images)
        latents = model.encode(images).latent_dist.mean
        after = model.decode(latents).sample
    assert torch.allclose(before, after, atol=1e-4)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-3 and (latents.std((0, 2, 3)) - 1).abs().max() < 1e-3


def test_decoder_refinement_leaves_the_latents(trained: Recipe) -> None:
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    first = vae.build(trained)
    first.load_state_dict(weights(trained, "vae-folded"))
    assert torch.equal(vae.encode(first.eval(), images, "cpu"), vae.encode(vae.load(trained), images, "cpu"))


def test_the_result_is_a_stock_folder(trained: Recipe) -> None:
    folder = trained.at("export")
    pipe: Any = StableDiffusionPipeline.from_pretrained(folder / "pipeline", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a red cube", num_inference_steps=2, guidance_scale=2.0, output_type="pt").images
    assert picture.shape == (1, 3, 64, 64)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"weak_unet", "clip", "readers", "pipeline"} == {path.name for path in folder.iterdir()}
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in files)
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl")]


def test_readers_and_towers_open(trained: Recipe) -> None:
    assert readers.load(trained, "reader").width == trained.reader_width
    assert text.load(trained).config.max_position_embeddings == 24


def test_an_unknown_stage_names_the_known_ones(tmp_path: Path) -> None:
    def refuse(*_: object) -> Any:
        raise AssertionError

    job = TrainJob(tmp_path, Resources(Ledger(), refuse, refuse))
    with pytest.raises(UsageError, match="render, text"):
        SolidsTrainer(stage="paint").train(job)
