"""A cloud of Gaussians by its raw parameters."""

from __future__ import annotations

import pytest
import torch

from genbench.errors import SceneError
from genbench.scenes.gaussians import Gaussians
from tests.scenes.clouds import cloud


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_parts(degree: int) -> None:
    own = cloud(5, degree)
    assert len(own) == 5 and own.degree == degree
    assert own.sh.shape == (5, (degree + 1) ** 2, 3)
    assert Gaussians.of(own.parameters()) == own
    assert float(own.colours.min()) >= 0
    assert len(own.rows(torch.tensor([0, 3]))) == len(own.rows(torch.arange(5) < 2)) == 2
    assert own.to("cpu", torch.float64).means.dtype == torch.float64
    own.check()


@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "sh0", "sh_rest"])
def test_numbers_that_are_none(name: str) -> None:
    own = cloud(5, 1)
    own.parameters()[name][1] = float("inf")
    with pytest.raises(SceneError, match=f"1 of 5 Gaussians have {name} that are no numbers"):
        own.check()


def test_none_left() -> None:
    with pytest.raises(SceneError, match="no Gaussian is left"):
        cloud(5).rows(torch.zeros(5, dtype=torch.bool)).check()
