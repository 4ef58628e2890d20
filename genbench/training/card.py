"""The model card beside trained weights: what made it, what it did at each look, how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from genbench.kinds import TrainJob


def card(method: Any, job: TrainJob, looks: Sequence[Mapping[str, float]], best: int | None, made: str = "LoRA") -> str:
    """Return the card as Markdown, with the front matter that model hubs read. `best` is the update it is from.

    `made` is what it describes: a LoRA, a student. How it is used stands in the method's `usage`.
    """
    model = "" if job.model is None else job.model.name
    about = method.about
    options = [f"| `{each.name}` | {getattr(method, each.name)} |" for each in fields(method)]
    return "\n".join(
        [
            "---",
            f"base_model: {model}",
            "library_name: diffusers",
            f"tags: [{made.lower()}, text-to-image, genbench]",
            "---",
            f"# {made} for {model} by {method.name}",
            "",
            about.summary,
            "",
            f"{about.paper}{f', {about.url}' if about.url else ''}" if about.paper else "",
            "",
            f"    {method.usage.format(model=model, made='FOLDER')}",
            "",
            f"Trained on {len(job.rows)} prompts, seed {job.seed}{_rewards(job)}.",
            f"These are the weights after update {best}, the best by the held-out score." if best else "",
            "",
            *_table(looks),
            "",
            "| option | value |",
            "|---|---|",
            *options,
            "",
        ]
    )


def _rewards(job: TrainJob) -> str:
    held = f", watched by {type(job.holdout).__name__}" if job.holdout is not None else ""
    return f", reward {type(job.reward).__name__}{held}" if job.reward is not None else held


def _table(looks: Sequence[Mapping[str, float]]) -> list[str]:
    """Every look in a row: means over the same prompts and noises."""
    if not looks:
        return []
    names = list(looks[0])
    rows = [f"| {' | '.join(f'{look[name]:.4g}' for name in names)} |" for look in looks]
    return [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", *rows]
