"""`genbench train plugin=NAME ...`: words -> a TrainJob -> weights in a folder of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from genbench import discovery, files, prompts
from genbench.discovery import Plugin
from genbench.errors import UsageError, did_you_mean
from genbench.kinds import Encoder, Ledger, Model, Resources, TrainJob
from genbench.layers import flatten
from genbench.options import Range, convert, options
from genbench.request import MAX_SEED, Request


@dataclass(frozen=True)
class TrainRequest:
    """The fields of a training: the comment after each is its help."""

    plugin: str  # the trainer
    model: str | None = None  # model to finetune; none for a base model
    prompts: str | None = None  # file of prompts; none: captions of the model's source, where it writes some
    holdout_prompts: str | None = None  # file of prompts that are drawn to look at and never trained on
    reward: str | None = None  # scorer to climb, or to choose examples by; scorer= is the same word
    holdout: str | None = None  # scorer that only watches
    metrics: tuple[str, ...] = ()  # set metrics that watch
    encoder: str | None = None  # encoder that says how pictures of one prompt differ; default: the model's own
    exemplars: Path | None = None  # folder of example pictures, or a file of texts
    track: tuple[str, ...] = ()  # writers of curves besides JSON lines: tensorboard, trackio
    seed: Annotated[int, Range(0, MAX_SEED)] = 0  # of everything that is drawn
    resume: bool = False  # continue the checkpoints in run=
    run: Path | None = None  # folder of checkpoints and weights; a new one under outputs by default
    device: str = "auto"  # cpu, cuda, mps
    dtype: str = "auto"  # of the model's weights


Owned = Mapping[str, Mapping[str, object]]
"""Options by owner: the trainer, or a scorer that the request names."""


def parse(words: Mapping[str, object]) -> tuple[TrainRequest, Owned]:
    """Return (the request, options by owner). Raises UsageError with a did-you-mean."""
    flat, known = flatten(words), options(TrainRequest)
    if not flat.get("plugin"):
        names = [entry.name for entry in discovery.entries("trainer")]
        raise UsageError(f"train needs plugin=NAME; there is {', '.join(names) or 'no trainer installed'}")
    fields = {name: value for name, value in flat.items() if "." not in name}
    if "scorer" in fields:
        if "reward" in fields:
            raise UsageError("scorer= and reward= are the same word; give one")
        fields["reward"] = fields.pop("scorer")
    for name in fields:
        if name not in known:
            raise UsageError(f"there is no word '{name}' for train{did_you_mean(name, known)}")
    request = TrainRequest(**{name: convert(value, known[name].annotation, name) for name, value in fields.items()})
    return request, _owned(flat, request)


def _owned(flat: Mapping[str, object], request: TrainRequest) -> Owned:
    trainer = discovery.short_name(request.plugin)
    named = (request.reward, request.holdout, request.encoder, *request.metrics)
    owned: dict[str, dict[str, object]] = {discovery.short_name(word): {} for word in named if word}
    owned[trainer] = {}
    for name, value in flat.items():
        owner, dot, option = name.rpartition(".")
        if dot and owner not in owned:
            others = f" (or of {', '.join(other for other in owned if other != trainer)})" if len(owned) > 1 else ""
            raise UsageError(f"{name}= is given, but the trainer is '{trainer}'; write {trainer}.{option}={others}")
        if dot:
            owned[owner][option] = value
    return owned


def train(words: Mapping[str, object]) -> Path:
    """Run a trainer; returns what it made. Raises GenbenchError for everything that a user can get wrong."""
    return trained(words)[0]


def report(made: Path, request: TrainRequest, trainer: object) -> str:
    """Say where the result is and how it is used: a trainer may say so in `usage`, with {made} and {model}."""
    usage: str = getattr(trainer, "usage", "")
    hint = f"use it: {usage.format(made=made, model=request.model or 'MODEL')}" if usage else "done"
    return f"{made}: {hint}"


def trained(words: Mapping[str, object]) -> tuple[Path, TrainRequest, object]:
    """Run a trainer; returns what it made, what was asked, and the trainer."""
    request, owned = parse(words)
    plugin, prepared = _prepare(request, owned)
    trainer: Any = plugin.object
    return trainer.train(replace(_job(request, plugin, _folder(request)), **prepared)), request, trainer


def planned(words: Mapping[str, object]) -> dict[str, object]:
    """Say what a training would take, without beginning it. Raises UsageError for a trainer that cannot say."""
    request, owned = parse(words)
    plugin, prepared = _prepare(request, owned)
    plan: Any = getattr(plugin.object, "plan", None)
    if plan is None:
        raise UsageError(f"plugin={request.plugin} does not say what it takes; run it without --dry-run")
    with TemporaryDirectory() as folder:
        return dict(plan(replace(_job(request, plugin, Path(folder)), **prepared)))


def _prepare(request: TrainRequest, owned: Owned) -> tuple[Plugin, dict[str, Any]]:
    """Everything that can be wrong without a model: words, prompts, scorers, writers."""
    from genbench.training.writers import check_writers

    if request.resume and request.run is None:
        raise UsageError("resume=true continues a folder; name it with run=")
    check_writers(request.track)
    rows = prompts.read_rows(request.prompts) if request.prompts else _captions(request)
    held = prompts.read_rows(request.holdout_prompts) if request.holdout_prompts else ()
    plugin = discovery.build(request.plugin, owned[discovery.short_name(request.plugin)], ("trainer",))
    texts = tuple(str(row["prompt"]) for row in rows)
    told = {"prompts": texts, "rows": tuple(rows), "holdout_rows": tuple(held), "track": request.track}
    return plugin, {**told, **_scorers(request, owned)}


CAPTIONS = 10_000


def _captions(request: TrainRequest) -> list[Mapping[str, object]]:
    """Prompts from the model's own source, where it writes captions of what the model knows."""
    from genbench import models

    write: Any = getattr(models.source_of(request.model), "captions", None) if request.model else None
    return [] if write is None else list(write(CAPTIONS, request.seed))


def _folder(request: TrainRequest) -> Path:
    """Return the folder of the run: the named one (used before only to resume), else a new one."""
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if world > 1 and request.run is None:
        raise UsageError("several processes need one folder; name it with run=")
    if request.run is None:
        now = datetime.now().astimezone()
        day = Path("outputs") / f"{now:%Y-%m-%d}"
        return files.new_folder(day, f"{now:%H%M%S}-train-{discovery.short_name(request.plugin)}")
    first = rank == 0  # the others may come when it has begun to write
    if first and request.run.is_dir() and any(request.run.iterdir()) and not request.resume:
        raise UsageError(f"run={request.run} is not empty; add resume=true to continue it, or name another folder")
    try:
        request.run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.failed(request.run, error) from error
    return request.run


def _scorers(request: TrainRequest, owned: Owned) -> dict[str, Any]:
    """Build what judges, before any model loads."""
    from genbench import chain

    def options(word: str) -> Mapping[str, object]:
        return owned[discovery.short_name(word)]

    return {
        "reward": chain.named_scorer(request.reward, options(request.reward)) if request.reward else None,
        "holdout": chain.named_scorer(request.holdout, options(request.holdout)) if request.holdout else None,
        "metrics": {name: chain.named_metric(name, options(name)) for name in request.metrics},
        "encoder": _encoder(request, owned),
    }


def _encoder(request: TrainRequest, owned: Owned) -> Encoder | None:
    """The encoder named, else the one that the model's source brings."""
    from genbench import chain

    if request.encoder:
        return chain.named_encoder(request.encoder, owned[discovery.short_name(request.encoder)])
    return own_encoder(request.model) if request.model else None


def own_encoder(model: str) -> Encoder | None:
    """The encoder that comes with the model of this name, if there is one."""
    from genbench import chain, models

    name = str(getattr(models.source_of(model), "encoder", ""))
    return chain.named_encoder(name) if name else None


def _job(request: TrainRequest, trainer: Plugin, folder: Path) -> TrainJob:
    from genbench import chain, models
    from genbench.generation import FileCache

    ledger = Ledger()
    words: dict[str, Any] = {"device": own_device(request.device), "dtype": request.dtype}
    wanted = models.ModelOptions.from_request(Request(**words))
    opened = partial(models.open_model, options=wanted, ledger=ledger)
    resources = Resources(ledger, FileCache({}, wanted.local_only).load, opened)
    word = request.model
    holds = partial(chain.check_family, [trainer])
    model: Model | None = opened(word, allow=holds) if word else None
    return TrainJob(
        run=folder,
        resources=resources,
        model=model,
        exemplars=request.exemplars,
        seed=request.seed,
        resume=request.resume,
        device=str(models.chosen_device(own_device(request.device))),
    )


def own_device(word: str) -> str:
    """The GPU of this process where `accelerate launch` started one for each and the word leaves it open."""
    import torch

    rank = os.environ.get("LOCAL_RANK")
    mine = word == "auto" and rank is not None and int(rank) < torch.cuda.device_count()
    return f"cuda:{rank}" if mine else word
