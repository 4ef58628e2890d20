"""R-precision and the agreement of views, on an encoder that is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from genbench.errors import UsageError
from genbench.evaluation import scoring
from genbench_scorers import retrieval
from genbench_scorers.retrieval import RPrecision, ViewAgreement

COLOURS = ("red", "green", "blue")


class Mean:
    """Mean colours; texts are colours."""

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.eye(3)[[COLOURS.index(text) for text in texts]]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "looker", lambda name: {"mean": Mean()}[name])


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join((*COLOURS, "red")))
    return path


def plain(*colours: Sequence[float]) -> torch.Tensor:
    return torch.tensor(colours)[:, :, None, None].expand(-1, 3, 4, 4)


def test_the_nearest_text_is_the_own_prompt_or_not(prompts: Path) -> None:
    images = plain((0.9, 0.1, 0.1), (0.2, 0.3, 0.9), (0.4, 0.5, 0.3))
    got = RPrecision(prompts, "mean").score(images=images, prompts=["red", "red", "green"])
    assert got.tolist() == [1.0, 0.0, 1.0]


def test_r_precision_needs_its_texts(prompts: Path) -> None:
    images = plain((1.0, 0.0, 0.0))
    with pytest.raises(UsageError, match=r"give their file: r-precision.prompts=FILE"):
        RPrecision().score(images=images, prompts=["red"])
    with pytest.raises(UsageError, match="does not hold 'pink'"):
        RPrecision(prompts, "mean").score(images=images, prompts=["pink"])


def test_views_that_are_alike_agree() -> None:
    same, turning = plain(*[(1.0, 0.0, 0.0)] * 4), plain((1.0, 0, 0), (1.0, 1.0, 0), (0, 1.0, 0), (1.0, 1.0, 0))
    got = ViewAgreement("mean").score_views(views=torch.stack([same, turning]), prompts=["red", "red"])
    assert got.tolist() == pytest.approx([1.0, 0.5**0.5])


def test_a_single_picture_has_no_neighbours() -> None:
    agreement, image = ViewAgreement("mean"), plain((1.0, 0, 0))
    for ask in (
        lambda: agreement.score(images=image, prompts=["red"]),
        lambda: agreement.score_views(views=image[None], prompts=["red"]),
    ):
        with pytest.raises(UsageError, match="compares the views of a scene"):
            ask()
    made: Any = SimpleNamespace(text="red", row={})
    assert scoring.judge(agreement, plain(*[(1.0, 0, 0)] * 4)[None], [made]) == {"": [pytest.approx(1.0)]}
