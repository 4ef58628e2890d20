"""Words of a finetuning that would be ignored, and rewards and pictures that cannot be used: said in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genbench.errors import UsageError
from genbench.training.finetuning import Finetuning
from genbench_alignprop import AlignPropTrainer
from genbench_dragon import DragonTrainer
from genbench_metrics import Frechet
from tests.plugins.test_finetuning import SMALL, TRAINERS, Colours, exemplars, job
from tests.training.rolling import Redness


@pytest.mark.parametrize("trainer", TRAINERS)
def test_patience_needs_a_held_out_score(trainer: type[Finetuning], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"^{trainer().name}.patience= waits for a held-out score"):
        trainer(**SMALL, patience=2).train(job(tmp_path))
    trainer(**SMALL, patience=2).check(job(tmp_path, holdout=Redness()))


@pytest.mark.parametrize(
    ("options", "words", "message"),
    [
        ({"draws": 2, "kl": 0.1}, {}, "draws= keeps none of them"),
        ({"last": 3}, {}, "last=3 belongs to alignprop.truncation=last"),
        ({}, {"metrics": {"frechet": Frechet()}}, "play no part in alignprop"),
        ({}, {"exemplars": Path("here")}, "play no part in alignprop"),
    ],
)
def test_alignprop_refuses_what_it_would_ignore(
    options: dict[str, Any], words: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        AlignPropTrainer(**SMALL, **options).train(job(tmp_path, **words))
    assert not list(tmp_path.iterdir())


class ByNumpy(Redness):
    """A reward that leaves torch, as those of PIL processors do."""

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Any = None) -> Tensor:
        return torch.as_tensor(images.numpy().mean((1, 2, 3)))


class Failing(Redness):
    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Any = None) -> Tensor:
        raise RuntimeError("out of memory")


def test_a_reward_that_leaves_torch_has_no_gradient(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="^reward=ByNumpy has no gradient to the pixels"):
        AlignPropTrainer(**SMALL).train(job(tmp_path, reward=ByNumpy()))
    with pytest.raises(RuntimeError, match="out of memory"):  # and what else goes wrong is not taken for that
        AlignPropTrainer(**SMALL).train(job(tmp_path, reward=Failing()))


def test_dragon_says_what_a_metric_lacks_before_anything_is_drawn(tmp_path: Path) -> None:
    words: dict[str, Any] = {"metrics": {"frechet": Frechet()}, "encoder": Colours()}
    with pytest.raises(UsageError, match="^metrics=frechet: .* name them with exemplars=FOLDER"):
        DragonTrainer(**SMALL).train(job(tmp_path, **words))
    pictures = exemplars(tmp_path / "pictures")
    with pytest.raises(UsageError, match="reward= beside them only with a set metric"):
        DragonTrainer(**SMALL).train(job(tmp_path / "run", exemplars=pictures, encoder=Colours()))
    assert not (tmp_path / "run").exists()


def test_an_exemplar_that_cannot_be_read(tmp_path: Path) -> None:
    pictures = exemplars(tmp_path / "pictures")
    (pictures / "0.png").write_bytes(b"half a picture")
    with pytest.raises(UsageError, match="pictures holds a picture that cannot be read .*0.png") as caught:
        DragonTrainer(**SMALL).train(job(tmp_path / "run", exemplars=pictures, encoder=Colours(), reward=None))
    assert "\n" not in str(caught.value)


def test_another_encoder_is_another_training(tmp_path: Path) -> None:
    asked = [job(tmp_path, encoder=encoder) for encoder in (Colours(), None)]
    one, two = (DragonTrainer(**SMALL).settings(each) for each in asked)
    assert one != two
