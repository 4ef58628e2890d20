"""`genbench train plugin=NAME ...`: words -> a TrainJob -> weights in a folder of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from genbench import discovery, files, prompts
from genbench.errors import UsageError, did_you_mean
from genbench.kinds import Ledger, Model, Resources, TrainJob
from genbench.layers import flatten
from genbench.options import Range, convert, options
from genbench.request import MAX_SEED, Request


@dataclass(frozen=True)
class TrainRequest:
    """The fields of a training: the comment after each is its help."""

    plugin: str  # the trainer
    model: str | None = None  # model to finetune; none for a base model
    prompts: str | None = None  # file of prompts
    reward: str | None = None  # scorer to climb, or to choose examples by; scorer= is the same word
    holdout: str | None = None  # scorer that only watches
    metrics: tuple[str, ...] = ()  # set metrics that watch
    exemplars: Path | None = None  # folder of example pictures
    seed: Annotated[int, Range(0, MAX_SEED)] = 0  # of everything that is drawn
    resume: bool = False  # continue the checkpoints in run=
    run: Path | None = None  # folder of checkpoints and weights; a new one under outputs by default
    device: str = "auto"  # cpu, cuda, mps
    dtype: str = "auto"  # of the model's weights


def parse(words: Mapping[str, object]) -> tuple[TrainRequest, dict[str, object]]:
    """Return (the request, the trainer's own options). Raises UsageError with a did-you-mean."""
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
    return request, _own(flat, discovery.short_name(request.plugin))


def _own(flat: Mapping[str, object], owner: str) -> dict[str, object]:
    own: dict[str, object] = {}
    for name, value in flat.items():
        prefix, dot, option = name.rpartition(".")
        if dot and prefix != owner:
            raise UsageError(f"{name}= is given, but the trainer is '{owner}'; write {owner}.{option}=")
        if dot:
            own[option] = value
    return own


def train(words: Mapping[str, object]) -> Path:
    """Run a trainer; returns what it made. Raises GenbenchError for everything that a user can get wrong."""
    request, own = parse(words)
    if request.resume and request.run is None:
        raise UsageError("resume=true continues a folder; name it with run=")
    rows = prompts.read_rows(request.prompts) if request.prompts else ()
    plugin: Any = discovery.build(request.plugin, own, ("trainer",)).object
    folder = _folder(request)
    return plugin.train(_job(request, folder, tuple(str(row["prompt"]) for row in rows)))


def _folder(request: TrainRequest) -> Path:
    """Return the folder of the run: the named one (used before only to resume), else a new one."""
    if request.run is None:
        now = datetime.now().astimezone()
        day = Path("outputs") / f"{now:%Y-%m-%d}"
        return files.new_folder(day, f"{now:%H%M%S}-train-{discovery.short_name(request.plugin)}")
    if request.run.is_dir() and any(request.run.iterdir()) and not request.resume:
        raise UsageError(f"run={request.run} is not empty; add resume=true to continue it, or name another folder")
    try:
        request.run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.failed(request.run, error) from error
    return request.run


def _job(request: TrainRequest, folder: Path, texts: tuple[str, ...]) -> TrainJob:
    from genbench import chain, models
    from genbench.generation import FileCache

    ledger = Ledger()
    words: dict[str, Any] = {"device": request.device, "dtype": request.dtype}
    wanted = models.ModelOptions.from_request(Request(**words))
    opened = partial(models.open_model, options=wanted, ledger=ledger)
    resources = Resources(ledger, FileCache({}, wanted.local_only).load, opened)
    model: Model | None = opened(request.model) if request.model else None
    return TrainJob(
        run=folder,
        resources=resources,
        model=model,
        prompts=texts,
        reward=chain.named_scorer(request.reward) if request.reward else None,
        metrics={name: chain.named_metric(name) for name in request.metrics},
        exemplars=request.exemplars,
        holdout=chain.named_scorer(request.holdout) if request.holdout else None,
        seed=request.seed,
        resume=request.resume,
    )
