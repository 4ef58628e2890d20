"""Texts as exemplars: in a joint space texts and pictures lie apart by a gap, which centring takes away.

The space of the test is the one on paper: a text's vector is that of the picture that it describes, plus a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genbench_dragon import exemplars
from genbench_dragon.sets import by_exchange
from genbench_dragon.trainer import subset_values
from genbench_dragon.witness import Witness, nearness
from genbench_metrics import Frechet

GAP = torch.tensor([3.0, -2.0, 4.0])
PLACES = {"red": (1.0, 0.0, 0.0), "blue": (0.0, 1.0, 0.0), "grey": (0.0, 0.0, 0.0)}
PROMPTS = ("grey one", "grey two", "red one", "blue one")


def place(text: str) -> Tensor:
    """Where the picture of a text lies: the colour's place, and a little by the text's length."""
    return torch.tensor(PLACES[text.split()[0]]) + 0.05 * (len(text) % 5 - 2)


class Joint:
    def embed_images(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([place(text) for text in texts]) + GAP


def pictures(texts: Sequence[str]) -> Tensor:
    """(n, 3, 1, 1): pictures are their own vectors."""
    return torch.stack([place(text) for text in texts])[:, :, None, None]


@pytest.fixture
def asked(tmp_path: Path) -> exemplars.Exemplars:
    file = tmp_path / "texts.txt"
    file.write_text("red one\nred apple\nred\nred things\n")
    return exemplars.read(file, Joint(), PROMPTS, lambda: pictures(PROMPTS))


def test_centred_texts_lie_where_pictures_of_them_would(asked: exemplars.Exemplars) -> None:
    texts = ["red one", "red apple", "red", "red things"]
    assert torch.allclose(asked.features, asked.seen(Joint().embed_images(pictures(texts))), atol=1e-6)


@pytest.mark.parametrize("witness", ["mahalanobis", "mmd", "cosine"])
def test_the_described_picture_is_nearer(witness: Witness, asked: exemplars.Exemplars) -> None:
    red, blue = (Joint().embed_images(pictures([f"{colour} cube"])) for colour in ("red", "blue"))
    near, far = (nearness(asked.seen(x), asked.features, witness, 0.1) for x in (red, blue))
    assert float(near) > float(far)


def test_without_centring_the_gap_decides(asked: exemplars.Exemplars) -> None:
    """A picture that lies towards the texts for no other reason than the gap."""
    red, lure = place("red cube")[None], (place("blue cube") + 0.3 * GAP)[None]
    raw = Joint().embed_texts(["red one", "red apple", "red", "red things"])
    assert nearness(lure, raw, "mahalanobis", 0.1) > nearness(red, raw, "mahalanobis", 0.1)
    ours = [nearness(asked.seen(x), asked.features, "mahalanobis", 0.1) for x in (lure, red)]
    assert ours[1] > ours[0]


def test_sets_by_frechet_distance_to_texts(asked: exemplars.Exemplars) -> None:
    """Of two pictures of every prompt, one red and one lured by the gap, the positive set takes the red ones."""
    generator = torch.Generator().manual_seed(0)
    n = 12
    red = place("red cube") + 0.05 * torch.randn(n, 3, generator=generator)
    lure = place("blue cube") + 0.3 * GAP + 0.05 * torch.randn(n, 3, generator=generator)
    mixed = torch.rand(n, generator=generator) < 0.5
    both = torch.cat([torch.where(mixed[:, None], red, lure), torch.where(mixed[:, None], lure, red)])
    isred = torch.cat([mixed, ~mixed])
    raw = Joint().embed_texts(["red one", "red apple", "red", "red things"])

    def share(features: Tensor, reference: Tensor) -> float:
        value = subset_values(Frechet(), features, reference)
        return float(isred[list(by_exchange(lambda rows: -value(rows), n, range(n)).positive)].float().mean())

    assert share(asked.seen(both), asked.features) == 1.0
    assert share(both, raw) < 0.5


def test_pictures_are_compared_as_they_are(tmp_path: Path) -> None:
    """A folder of pictures needs no prompts and no base."""
    from PIL import Image

    for number in range(3):
        Image.new("RGB", (1, 1), (10 * number, 20, 30)).save(tmp_path / f"{number}.png")
    found = exemplars.read(tmp_path, Joint(), PROMPTS, lambda: pytest.fail("the base was asked"))
    assert torch.equal(found.origin, torch.zeros(3)) and found.features.shape == (3, 3)
