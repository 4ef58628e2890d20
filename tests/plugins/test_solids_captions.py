"""The grammar of `solids`: every wording reads back, hold-outs stay out, the tokenizer is CLIP's."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings, strategies as st
from transformers import CLIPTokenizer

from genbench_solids import tokenizer as tokenizers
from genbench_solids.captions import KINDS, ROW_WIDTH, Attributes, Solid, parse, sample, say
from genbench_solids.holdout import held_out_prompts, seen, training_prompts, unseen_pair, unseen_solid
from genbench_solids.training.data import draw_attributes

PROMPTS = Path(__file__).parents[2] / "prompts"


def lines(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (PROMPTS / name).read_text().splitlines()]


@given(st.integers(0, 2**32), st.sampled_from(KINDS))
@settings(max_examples=300, deadline=None)
def test_a_wording_reads_back(seed: int, kind: str) -> None:
    rng = Random(seed)
    attributes = sample(kind, rng)
    assert parse(say(attributes, rng)) == attributes
    assert Attributes.from_row(attributes.row()).row() == attributes.row()
    assert len(attributes.row()) == ROW_WIDTH


@pytest.mark.parametrize(
    ("caption", "kind"),
    [
        ("a red cube", "single"),
        ("An orange cone.", "single"),
        ("two red cubes", "two"),
        ("three blue tori", "three"),
        ("a red cube left of a blue sphere", "beside"),
        ("a red cube on top of a blue sphere, from behind", "view"),
        ("a small red cube to the right of a large blue sphere", "size"),
        ("a red cube, a blue sphere and a green cone", "row"),
        ("a red cube, from above, from the side", "view"),
    ],
)
def test_kinds(caption: str, kind: str) -> None:
    attributes = parse(caption)
    assert attributes is not None and attributes.kind == kind


def test_left_and_right_mean_the_same_picture() -> None:
    assert parse("a red cube left of a blue sphere") == parse("a blue sphere right of a red cube")


@pytest.mark.parametrize("text", ["", "a cat", "a red cube left of", "four red cubes", "a red cube\0", "紅い立方体 🙂"])
def test_other_texts_are_not_captions(text: str) -> None:
    assert parse(text) is None


def test_held_out_list() -> None:
    listed = lines("solids.jsonl")
    assert listed == held_out_prompts()
    assert len({line["prompt"] for line in listed}) == 400
    kinds = Counter(line["kind"] for line in listed)
    assert set(kinds) == set(KINDS) and kinds["beside"] >= 100 and kinds["stack"] >= 60
    assert sum(line["why"] == "pair" for line in listed) >= 60
    for line in listed:
        attributes = parse(str(line["prompt"]))
        assert attributes is not None and attributes.kind == line["kind"]
        assert line["unseen"] is not seen(attributes)


def test_hold_outs_are_absent_from_training() -> None:
    listed = lines("solids-train.jsonl")
    assert listed == training_prompts()
    held_out = {line["prompt"] for line in lines("solids.jsonl")}
    captioned = [parse(str(line["prompt"])) for line in listed] + draw_attributes("train", 3, 400)
    assert not held_out & {line["prompt"] for line in listed}
    assert not any(a is None or unseen_solid(a) or unseen_pair(a) for a in captioned)


def test_a_held_out_pair_is_held_out_in_its_order_only() -> None:
    pairs = [Attributes("beside", (Solid(c, s), Solid(d, 1))) for c in range(8) for s in (0, 2) for d in range(8)]
    apart = [a for a in pairs if unseen_pair(a) and not unseen_pair(Attributes("beside", a.solids[::-1]))]
    assert apart


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizers.write(folder)
    return CLIPTokenizer.from_pretrained(folder)


def test_tokenizer_has_one_token_per_word(tokenizer: CLIPTokenizer) -> None:
    longest = "a small orange cylinder to the left of a large purple cylinder, from above, from the front"
    ids = tokenizer(longest).input_ids
    assert len(ids) == len(longest.replace(",", " ,").split()) + 2 <= tokenizers.LENGTH
    assert (tokenizers.LENGTH, tokenizer.model_max_length) == (24, 24)


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_tokenizer_encodes_any_text(tokenizer: CLIPTokenizer, text: str) -> None:
    ids = tokenizer(text, padding="max_length", truncation=True, max_length=tokenizers.LENGTH).input_ids
    assert len(ids) == tokenizers.LENGTH and max(ids) < len(tokenizer)


def test_tokenizer_files_are_clips(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    tokenizers.write(tmp_path)
    rebuilt = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), pad_token=tokenizers.END)
    assert rebuilt("two red tori").input_ids == tokenizer("two red tori").input_ids
