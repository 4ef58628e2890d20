"""A small byte-level BPE tokenizer in CLIP's file format: every word of the grammar is one token, any text encodes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from genbench_solids.captions import AZIMUTHS, COLOUR_NAMES, ELEVATIONS, PLURALS, SHAPES

LENGTH = 24  # positions, start and end included; the longest caption of the grammar takes 21
START, END = "<|startoftext|>", "<|endoftext|>"
_EXTRA = "a an and two three small large left right of to the on top picture photo with no solid solids"


def words() -> list[str]:
    """The grammar's words and a few polite ones, each once, in a fixed order."""
    text = " ".join((_EXTRA, *COLOUR_NAMES, *SHAPES, *PLURALS, *AZIMUTHS, *ELEVATIONS))
    return list(dict.fromkeys(text.split()))


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes, in the order of GPT-2's and CLIP's vocabularies."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [chr(256 + n) for n in range(256 - len(printable))]
    return [chr(byte) for byte in printable] + others


def apply(merges: dict[tuple[str, str], int], word: str) -> list[str]:
    """Byte-pair encoding: join the pair of the lowest rank until none is left."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while ranked := [(merges[pair], i) for i, pair in enumerate(pairwise(pieces)) if pair in merges]:
        _, i = min(ranked)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces


def build() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges.

    What earlier merges leave of a word is joined from its left by new ones. These rank last, so a word that is whole
    stays whole, and every word ends as one token.
    """
    tokens = [*byte_symbols(), *(symbol + "</w>" for symbol in byte_symbols())]
    merges: dict[tuple[str, str], int] = {}
    for word in words():
        while len(pieces := apply(merges, word)) > 1:
            merges[pieces[0], pieces[1]] = len(merges)
    tokens += dict.fromkeys(left + right for left, right in merges)
    return {token: n for n, token in enumerate([*tokens, START, END])}, list(merges)


def write(folder: Path) -> CLIPTokenizer:
    """Write vocab.json, merges.txt and the tokenizer's own files; return the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = build()
    files = folder / "vocab.json", folder / "merges.txt"
    text = json.dumps(vocabulary, ensure_ascii=False), "\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n"
    for path, content in zip(files, text, strict=True):
        path.write_text(content, encoding="utf-8")
    tokenizer = CLIPTokenizer(str(files[0]), str(files[1]), model_max_length=LENGTH, pad_token=END)
    tokenizer.save_pretrained(folder)
    for path, content in zip(files, text, strict=True):  # transformers 5 saves tokenizer.json only
        path.write_text(content, encoding="utf-8")
    return tokenizer
