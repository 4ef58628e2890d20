"""A prompt is encoded once, whatever batch it comes in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from genbench.backbones import adapt
from genbench.backbones.toy import ToyModel
from genbench.embeddings import Embeddings
from genbench.generation import Session
from genbench.kinds import Conditioning, Ledger
from genbench.request import resolve
from tests.tiny import tiny


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every prompt that the toy model was asked to encode."""
    seen, encode = list[str](), ToyModel.encode_prompt

    def noting(self: ToyModel, prompts: Sequence[str], *rest: Any, **named: Any) -> Conditioning:
        seen.extend(prompts)
        return encode(self, prompts, *rest, **named)

    monkeypatch.setattr(ToyModel, "encode_prompt", noting)
    return seen


def test_a_session_encodes_each_distinct_prompt_once(asked: list[str]) -> None:
    rows = tuple({"prompt": prompt} for prompt in ("red", "blue", "red"))
    session = Session.open(resolve({"model": "toy", "seeds": "0..4", "batch_size": 2, "steps": 2}, rows=rows))
    assert len(list(session.pictures(session.resolved.items()))) == 15
    assert sorted(asked) == ["blue", "red"]


def test_settings_that_change_the_text_half_are_kept_apart(asked: list[str]) -> None:
    kept, model = Embeddings(), ToyModel()
    with torch.no_grad():
        kept.encode(model, ["red"], guidance=False)
        guided = kept.encode(model, ["red"], ["blue"], guidance=True)
        plain = kept.encode(model, ["red"], guidance=True)
    assert asked == ["red"] * 3 and guided.negative is not None and plain.negative is not None
    assert not all(torch.equal(guided.negative[name], plain.negative[name]) for name in plain.negative)


def test_models_are_kept_apart_and_under_autograd_nothing_is_kept(asked: list[str]) -> None:
    kept, model, other = Embeddings(), ToyModel(), ToyModel()
    kept.encode(model, ["red"])
    assert not kept.kept
    with torch.no_grad():
        for _ in range(2):
            kept.encode(model, ["red"])
            kept.encode(other, ["red"])
    assert len(asked) == 3 and len(kept.kept) == 2


def test_plugins_encode_once_in_a_session_too(asked: list[str]) -> None:
    """A search asks a step wrapper for its cost and its steps many times."""
    options = {"search": {"algorithm": "paths", "budget": "100nfe"}, "w2sd": {"weak_prompt": "blue"}}
    words = {"model": "toy", "prompt": "red", "steps": 5, "plugin": "w2sd,search", "options": options}
    session = Session.open(resolve(words))
    assert len(list(session.pictures(session.resolved.items()))) == 1
    assert sorted(asked) == ["blue", "red"]


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(asked: list[str]) -> None:
    model = ToyModel()
    with torch.no_grad():
        one = Embeddings()
        one.encode(model, ["red"])
        kept = Embeddings(limit=2 * one.size)
        for prompts in (["red"], ["blue"], ["red"], ["green"], ["red"], ["blue"]):
            kept.encode(model, prompts)
    assert asked[1:] == ["red", "blue", "green", "blue"] and kept.size == 2 * one.size


@pytest.mark.parametrize("family", ["sd", "sdxl", "pixart_sigma", "hunyuan", "sd3", "flux"])
def test_rows_are_what_the_model_makes_of_each_prompt_alone(family: str) -> None:
    model: Any = adapt(tiny(family), Ledger())
    prompts, size = ["a red cube", "a blue sphere and a cat"], dict[str, Any](height=32, width=32)
    with torch.no_grad():
        joined = Embeddings().encode(model, prompts, **size)
        together = model.encode_prompt(prompts, **size)
        alone = [model.encode_prompt([prompt], **size) for prompt in prompts]
    for row, one in enumerate(alone):
        for name, tensor in one.positive.items():
            assert torch.equal(joined.positive[name][row : row + 1], tensor)
    for name, tensor in together.positive.items():
        assert torch.allclose(joined.positive[name].float(), tensor.float(), atol=1e-5)
    assert (joined.negative is None) == (together.negative is None)


def test_a_row_without_a_negative_prompt_is_as_it_would_be_alone() -> None:
    model: Any = adapt(tiny("sdxl"), Ledger())
    with torch.no_grad():
        mixed = Embeddings().encode(model, ["a cube", "a cube"], ["", "a cat"])
        alone = model.encode_prompt(["a cube"])
    assert mixed.negative is not None and alone.negative is not None
    for name, tensor in alone.negative.items():
        assert torch.equal(mixed.negative[name][:1], tensor)


class Ragged:
    """Pads to the longest prompt of a batch, and knows a negative half only where one is given."""

    def encode_prompt(self, prompts: Sequence[str], negative: Sequence[str] | None = None, **named: Any) -> Any:
        def half(texts: Sequence[str]) -> dict[str, torch.Tensor]:
            return {"text": torch.zeros(len(texts), max(map(len, texts)))}

        return Conditioning(half(prompts), None if negative is None else half(negative))


@pytest.mark.parametrize("negative", [None, ["", "cat"]])
def test_rows_that_cannot_be_joined_are_encoded_together(negative: list[str] | None) -> None:
    model: Any = Ragged()
    with torch.no_grad():
        made = Embeddings().encode(model, ["red", "red red"], negative)
    assert made.positive["text"].shape == (2, 7) and (made.negative is None) == (negative is None)
