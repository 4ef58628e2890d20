"""What set metrics compare with: folders and renderers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genbench.errors import UsageError
from genbench.evaluation import reference


def pictures(folder: Path, sizes: Sequence[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n, size in enumerate(sizes):
        Image.fromarray(np.full((size, size, 3), 10 * n, np.uint8)).save(folder / f"{n}.png")


def test_a_folder_is_read_whole_in_batches_of_equal_size(tmp_path: Path) -> None:
    pictures(tmp_path / "deep", (8, 8, 16))
    (tmp_path / "notes.txt").write_text("no picture")
    batches = list(reference.folder_reference(tmp_path).images())
    assert [tuple(batch.shape) for batch in batches] == [(2, 3, 8, 8), (1, 3, 16, 16)]
    assert float(batches[0][1].max()) == pytest.approx(10 / 255)


def test_a_folders_name_is_its_content(tmp_path: Path) -> None:
    pictures(tmp_path / "a", (8, 8))
    pictures(tmp_path / "b", (8, 8))
    pictures(tmp_path / "c", (8, 16))
    ids = [reference.open_reference(str(tmp_path / name), [], 10).id for name in "abc"]
    assert ids[0] == ids[1] != ids[2]


def test_rendered_pictures_go_round_the_prompts_with_new_seeds() -> None:
    asked: list[tuple[list[str], int]] = []

    def render(prompts: Sequence[str], seed: int) -> torch.Tensor:
        asked.append((list(prompts), seed))
        return torch.zeros(len(prompts), 3, 8, 8)

    prompts = [f"p{n}" for n in range(50)]
    assert sum(len(batch) for batch in reference.rendered(render, prompts, 150)) == 150
    assert [seed for _, seed in asked] == [0, 1, 2]
    assert [prompt for batch, _ in asked for prompt in batch] == (prompts * 3)[:150]


def test_what_is_no_reference_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no picture"):
        reference.open_reference(str(tmp_path), [], 10)
    with pytest.raises(UsageError, match="no folder"):
        reference.open_reference("nowhere", [], 10)
    with pytest.raises(UsageError, match="reference=FOLDER"):
        reference.open_reference("toy", [], 10)
