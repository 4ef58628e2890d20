"""Whether a chain can be drawn at all, as far as words and files tell before a weight loads."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from genbench import chain as chains, models, schedulers
from genbench.chain import Chain
from genbench.errors import GenbenchError, UsageError
from genbench.evaluation.worklist import located
from genbench.generation import build_chain, check_words
from genbench.models import Located, ModelOptions
from genbench.request import Resolved

Families = dict[object, str]
"""Families of models that were looked at before, by word and options."""


def problem(resolved: Resolved, families: Families, drawn_here: bool = True) -> str:
    """Return why no cell of these settings can be drawn, "" where nothing speaks against it.

    `drawn_here` is false where other machines draw, whose devices are not known. Raises GenbenchError subclasses where
    plugins or model do not exist.
    """
    resolved, chain = build_chain(resolved)
    found = located(resolved.request)
    try:
        if drawn_here:
            models.chosen_device(resolved.request.device)
        check_words(resolved, chain)
        _check_model(resolved, chain, found, families)
        _check_samplers(resolved, chain, found)
    except GenbenchError as error:
        return str(error)
    return ""


def _check_model(resolved: Resolved, chain: Chain, found: Located, families: Families) -> None:
    word, options = resolved.request.model, ModelOptions.from_request(resolved.request)
    if (word, options) not in families:
        families[word, options] = models.checked_family(found, options)
    chains.check_before(chain.plugins, word, families[word, options])
    if not isinstance(found.place, Path) and not chain.model:
        chains.check_model(chain, found.place)
    for scale, place in _column(resolved, "true_cfg").items():
        own = resolved.override({"true_cfg": scale}).request.true_cfg
        with _at(place):
            models.checked_family(found, replace(options, true_cfg=own))


def _check_samplers(resolved: Resolved, chain: Chain, found: Located) -> None:
    """Refuse a sampler that does not walk what the model was trained on."""
    base = None if chain.model or chain.sampler is not None else _scheduler(found.place)
    if base is None:
        return
    if resolved.request.sampler is not None:
        schedulers.named_sampler(resolved.request.sampler, base)
    for word, place in _column(resolved, "sampler").items():
        with _at(place):
            schedulers.named_sampler(word, base)


def _column(resolved: Resolved, name: str) -> dict[str, str]:
    """Return {value: place of the first row that has it} of a column."""
    rows = [(number, row[name]) for number, row in enumerate(resolved.rows or ()) if name in row]
    return {str(value): resolved.place(number) for number, value in reversed(rows)}


@contextmanager
def _at(place: str) -> Generator[None]:
    """Name the row in what is raised."""
    try:
        yield
    except GenbenchError as error:
        raise UsageError(f"{place}: {error}") from None


def _scheduler(place: Any) -> Any:
    """Return the scheduler that a model comes with, None where that takes loading it."""
    if not isinstance(place, Path):
        return getattr(place.sampler, "scheduler", None)
    file = place / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        return None
    import diffusers

    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return getattr(diffusers, str(config["_class_name"])).from_config(config)
