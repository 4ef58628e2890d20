"""Prompts that are too long: cut where the encoder cuts them, quickly, with a warning that says where."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fitted:
    """A prompt cut to an encoder's limit: `text` encodes to the same tokens as the whole prompt would."""

    text: str
    lost: str = ""


def fit(prompts: Sequence[str], tokenizer: Any, limit: int, encoder: str) -> list[str]:
    """Cut prompts to `limit` tokens (special ones included) and warn where words are lost.

    A long prompt is read only as far as needed, so that 100,000 characters cost no more than 1,000.
    """
    fitted = [fit_one(prompt, tokenizer, limit) for prompt in prompts]
    for prompt, cut in zip(prompts, fitted, strict=True):
        if cut.lost:
            shown = " ".join(cut.lost.split()[:6])[:60]
            warnings.warn(
                f"the prompt is cut at character {len(prompt) - len(cut.lost)} of {len(prompt)}: {encoder} reads "
                f"{limit} tokens; lost from '{shown}' on",
                stacklevel=3,
            )
    return [cut.text for cut in fitted]


def fit_one(prompt: str, tokenizer: Any, limit: int) -> Fitted:
    """Return the longest prefix of `prompt` that the encoder sees, and what is lost."""
    if len(prompt) < limit // 4:
        return Fitted(prompt)
    room = limit - tokenizer.num_special_tokens_to_add()
    size = 16 * limit
    while True:
        head = _head(prompt, size)
        ids, ends = _read(head, tokenizer)
        if len(ids) > room or len(head) == len(prompt):
            break
        size *= 4
    if len(ids) <= room:
        return Fitted(prompt)
    text = prompt[: ends[room - 1]]
    if _read(text, tokenizer)[0] != ids[:room]:  # the cut falls inside a word that reads differently when cut
        text = head
    return Fitted(text, prompt[ends[room - 1] :])


def _head(prompt: str, size: int) -> str:
    """A prefix of about `size` characters that ends at a space where there is one."""
    if len(prompt) <= size:
        return prompt
    space = prompt.rfind(" ", 0, size)
    return prompt[: space if space > size // 2 else size]


def _read(text: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids without special ones, and the character at which each ends."""
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return read["input_ids"], [end for _, end in read["offset_mapping"]]
