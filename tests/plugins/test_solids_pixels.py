"""`solids32`: its training on a recipe of seconds resumes in the same bits, and ends in a stock folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline

from genbench import generate
from genbench.errors import ModelError
from genbench.kinds import Ledger, Resources, TrainJob
from genbench.training import checkpoints, loop
from genbench_solids import weights
from genbench_solids.source import Solids32
from genbench_solids.training import data, pixels
from genbench_solids.training.recipe import Recipe, tiny
from genbench_solids.training.stages import STAGES
from genbench_solids.training.trainer import SolidsTrainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = tiny(tmp_path_factory.mktemp("pixels"))
    pixels.make(recipe)
    return recipe


def state(recipe: Recipe) -> dict[str, torch.Tensor]:
    path = checkpoints.checkpoint_path(recipe, pixels.NAME)
    return torch.load(path, weights_only=True)["roles"]["module"]["weights"]


def test_only_what_it_learns_from_is_rendered(trained: Recipe) -> None:
    assert "pixels" not in STAGES and {path.name.split("-")[0] for path in trained.at("renders").iterdir()} == {"train"}


def test_it_resumes_bit_identically(trained: Recipe, tmp_path: Path) -> None:
    needed = {"train": trained.renders["train"], "reader": 0, "verifier": 0, "test": 0}
    parts = replace(trained, folder=tmp_path, renders=needed)
    (tmp_path / "renders").symlink_to(trained.at("renders"))
    for until in (1, 4):
        torch.manual_seed(parts.seed + 5)
        loop.fit(parts, pixels.stage(parts), until=until)
    expected, resumed = state(trained), state(parts)
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_the_full_recipe_fits_four_megabytes() -> None:
    with torch.device("meta"):
        network = pixels.build(Recipe(Path()))
    assert 2 * sum(p.numel() for p in network.parameters()) < 4e6
    assert network.config["sample_size"] == 32 and network.config["in_channels"] == 3


def test_pictures_are_halved() -> None:
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    images[:, :, :2, :2] = 255
    made = pixels.small(images)
    assert made.shape == (1, 3, 32, 32) and float(made[0, 0, 0, 0]) == 1.0 and float(made[0, 0, 5, 5]) == -1.0


def test_a_training_ends_in_a_stock_folder_that_draws(
    trained: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Any:
        raise AssertionError

    monkeypatch.setattr(SolidsTrainer, "recipe", lambda *_: trained)
    made = SolidsTrainer(stage="pixels").train(TrainJob(tmp_path, Resources(Ledger(), refuse, refuse)))
    assert made == tmp_path / "solids32" and (made / "model_index.json").is_file()
    pipe: Any = DDIMPipeline.from_pretrained(made, local_files_only=True)
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    monkeypatch.setattr(weights, "PIXELS", made)
    with pytest.warns(UserWarning, match="prompt is empty"):
        picture = generate(model="solids32", steps=2, seed=1)[0]
    assert picture.image.shape == (3, 32, 32) and picture.nfe == 2


def test_weights_that_are_missing_say_how_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "PIXELS", tmp_path / "pixels")
    with pytest.raises(ModelError, match="genbench train plugin=solids solids.stage=pixels"):
        Solids32().open()


def test_true_pictures_are_unlike_for_unlike_seeds() -> None:
    one, other = (Solids32().reference(["", ""], seed) for seed in (1, 2))
    assert one.shape == (2, 3, 32, 32) and float(one.min()) >= 0 and float(one.max()) <= 1
    assert not torch.equal(one, other) and torch.equal(one, Solids32().reference(["", ""], 1))
    assert data.draw_attributes("train", -2, 1) != data.draw_attributes("train", 1, 1)
