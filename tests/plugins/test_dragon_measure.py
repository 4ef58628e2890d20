"""What an eval folder says of a LoRA: the share that is drawn on, and differences paired by prompt and seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genbench.cli import main as genbench
from genbench.errors import UsageError
from genbench_dragon import measure
from genbench_dragon.measure import chains, lines, share_drawn


def test_the_share_that_is_drawn_on() -> None:
    images = torch.full((2, 3, 20, 10), 0.8)
    images[1, 0, 10:, :5] = 0.1  # a quarter of it
    assert share_drawn(images).tolist() == [0.0, 0.25]


def test_differences_are_paired_with_the_first_chain() -> None:
    values = {"none": torch.tensor([1.0, 2.0, 3.0, 4.0]), "dragon": torch.tensor([1.5, 2.5, 3.6, 4.6])}
    first, second = lines("drawn", values, ["a", "a", "b", "b"])
    assert "none" in first and "2.5000" in first and "+" not in first
    assert "dragon" in second and "+0.5500 [-0.0853, +1.1853]" in second  # t of one degree of freedom


def test_a_folder_of_two_chains(work: Path) -> None:
    (work / "prompts.txt").write_text("red\nblue\n")
    words = ["prompts=prompts.txt", "seeds=0..1", "model=toy", "steps=2", "out=made"]
    assert genbench(["eval", *words, "chains=none"]) == 0
    drawn = chains(work / "made")
    assert list(drawn) == ["none"] and drawn["none"].prompts == ("blue", "blue", "red", "red")
    assert drawn["none"].images.shape[:2] == (4, 3)
    with pytest.raises(UsageError, match="brings no encoder"):
        measure.main(["out=made", "exemplars=prompts.txt", "model=toy"])
