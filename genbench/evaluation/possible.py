"""Whether a chain can be drawn at all, as far as words and files tell before a weight loads."""

from __future__ import annotations

import json
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
    for scale in {row["true_cfg"] for row in resolved.rows or () if "true_cfg" in row}:
        own = resolved.override({"true_cfg": scale})
        models.checked_family(found, replace(options, true_cfg=own.request.true_cfg))


def _check_samplers(resolved: Resolved, chain: Chain, found: Located) -> None:
    """Refuse a sampler that does not walk what the model was trained on."""
    base = None if chain.model or chain.sampler is not None else _scheduler(found.place)
    for word, place in _samplers(resolved).items() if base is not None else ():
        try:
            schedulers.named_sampler(word, base)
        except UsageError as error:
            raise UsageError(f"{place}{error}") from None


def _samplers(resolved: Resolved) -> dict[str, str]:
    """Return {sampler: where it is named first, "" for the command itself}."""
    rows = [(number, row["sampler"]) for number, row in enumerate(resolved.rows or ()) if "sampler" in row]
    found = {str(word): f"{resolved.place(number)}: " for number, word in reversed(rows)}
    return found | ({} if resolved.request.sampler is None else {resolved.request.sampler: ""})


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
