"""The readers' scoring, on logits made by hand."""

from __future__ import annotations

import math

import pytest
import torch

from genbench.errors import UsageError
from genbench_solids.captions import Attributes, parse
from genbench_solids.reader import COLUMNS, Reader, Reading, named, reading_loss
from genbench_solids.scorers import as_caption, targets
from genbench_solids.training.readers import NONE, augment, none_rows, spoil


def sees(caption: str, confidence: float = 0.9) -> Reading:
    """A reader that sees what the caption says, each attribute with this probability, and guesses the rest evenly."""
    attributes = parse(caption)
    assert attributes is not None
    columns = []
    for choices, value in zip(COLUMNS, attributes.row(), strict=True):
        p = (
            torch.full((1, choices), (1 - confidence) / (choices - 1))
            if value >= 0
            else torch.full((1, choices), 1 / choices)
        )
        if value >= 0:
            p[0, value] = confidence
        columns.append(p.log())
    return Reading(tuple(columns))


def wanted(caption: str) -> torch.Tensor:
    return torch.tensor([named(parse(caption))])


def test_a_caption_names_only_what_it_says() -> None:
    assert [i for i, value in enumerate(named(parse("a red cube"))) if value >= 0] == [0, 3, 4]
    assert [i for i, value in enumerate(named(parse("a large red cube, from above"))) if value >= 0] == [0, 2, 3, 4, 5]
    assert named(None) == [-1] * 12


def test_logp_is_the_sum_over_named_attributes() -> None:
    reading = sees("a red cube left of a blue sphere")
    logp = reading.logp_of(wanted("a red cube left of a blue sphere"))
    assert logp.item() == pytest.approx(5 * math.log(0.9), abs=1e-5)
    assert reading.logp_of(wanted("a red cube left of a green sphere")) < logp < 0


@pytest.mark.parametrize(
    ("seen", "said", "exact"),
    [
        ("a red cube left of a blue sphere", "a blue sphere right of a red cube", 1),
        ("a red cube left of a blue sphere", "a red cube right of a blue sphere", 0),
        ("a red cube left of a blue sphere", "a red cube on top of a blue sphere", 0),
        ("two red cubes", "three red cubes", 0),
        ("a large red cube", "a red cube", 1),
        ("a red cube", "a large red cube", 0),
        ("a red cube, from behind", "a red cube", 1),
        ("a red cube, from behind", "a red cube, from the side", 0),
        ("a red cube, a blue sphere and a green cone", "a red cube, a green cone and a blue sphere", 0),
    ],
)
def test_exact(seen: str, said: str, exact: int) -> None:
    assert sees(seen).exact(wanted(said)).item() == exact


def test_a_prompt_outside_the_grammar_is_refused_with_advice() -> None:
    with pytest.raises(UsageError, match="solids-clip"):
        targets(["a photo of a cat"])


def test_loss_ignores_empty_columns() -> None:
    model = Reader(8)
    logits = model(torch.rand(2, 3, 64, 64))
    rows = torch.tensor([Attributes("none", ()).row(), as_caption("a red cube").row()])
    assert [tuple(column.shape) for column in logits] == [(2, n) for n in COLUMNS]
    filled = reading_loss(logits, rows)
    assert filled.isfinite() and reading_loss(logits, torch.full_like(rows, -1)) == 0


def test_reader_takes_other_sizes_and_gives_gradients() -> None:
    images = torch.rand(1, 3, 96, 80, requires_grad=True)
    Reader(8)(images)[0].sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_spoiled_and_augmented_pictures_keep_their_range() -> None:
    images = torch.rand(16, 3, 64, 64)
    for change in (augment, spoil):
        first, second = (change(images, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(first, second)
        assert first.shape == images.shape and first.min() >= 0 and first.max() <= 1
    assert (none_rows(2)[:, 0] == NONE).all() and (none_rows(2)[:, 1:] == -1).all()
