"""A request becomes a run folder: the one path of `genbench run` and `genbench rerun`."""

from __future__ import annotations

import contextlib
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genbench import columns, discovery, pluginfile, sampler_names
from genbench.errors import OutputError, PluginError, UsageError
from genbench.kinds import RUN_KINDS
from genbench.prompts import STDIN
from genbench.record import Finished, Run, candidates, judgement, versions
from genbench.replay import differences
from genbench.request import Resolved, row_request, words_of

if TYPE_CHECKING:
    from genbench.generation import Session

Progress = Callable[[int], None]


@dataclass
class Totals:
    """What a run has cost so far; `seconds` are those of drawing, without loading."""

    pictures: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    candidates: int = 0
    judged: str = ""
    folder: Path | None = None
    last: Path | None = None
    files: tuple[str, ...] = ()  # of the last scene


def preflight(resolved: Resolved) -> None:
    """Check from names alone that every plugin, sampler and verifier exists. Raises UsageError or PluginError."""
    if resolved.request.sampler is not None:
        sampler_names.sampler_name(resolved.request.sampler)
    for word in (*resolved.request.verifiers, *words_of(resolved.request.holdout)):
        if not pluginfile.is_file(word):
            discovery.find(word, ("scorer",))
    for word in resolved.plugins:
        if not pluginfile.is_file(word):
            discovery.find(word)
        elif not source_file(word).is_file():
            raise PluginError(f"plugin file '{word}' does not exist; give it as ./file.py:Class")
    columns.check(resolved, resolved.plugins)


def run(
    resolved: Resolved,
    totals: Totals,
    *,
    verb: str = "run",
    progress: Callable[[int | None], Progress] | None = None,
    keep: frozenset[int] | None = None,
    recorded: Mapping[str, Any] | None = None,
    traces: Mapping[int, Sequence[Mapping[str, Any]]] | None = None,
    reopened: Run | None = None,
) -> Iterator[tuple[Path, Finished]]:
    """Make a run folder, draw every picture into it and yield each once it is saved.

    `progress` opens a bar over that many rows (None: unknown). `keep` are the indices of the pictures that are wanted
    (a rerun remakes a whole batch for one), None for all. `recorded` is the environment of the run that is repeated,
    `traces` what its searches left, whose winners are remade alone. `reopened` is a stopped run of scenes: what it has
    saved stays, the rest goes on from its checkpoints.
    Raises GenbenchError; a folder that got no picture is removed again, pictures already saved stay.
    """
    began, record = time.perf_counter(), reopened or Run.create(resolved, verb)
    totals.folder, resume = record.folder, reopened is not None
    try:
        for made in _draw(record, progress, recorded or {}, traces or {}, resume):
            totals.evaluations, totals.seconds = totals.evaluations + made.nfe, totals.seconds + made.seconds
            if keep is None or made.item.index in keep:
                totals.last = record.save(made)
                totals.pictures, totals.candidates = totals.pictures + 1, candidates(made.trace)
                totals.files = record.files
                totals.judged = judgement(record.images[-1], record.resolved.request.verifier)
                yield totals.last, made
        record.timings = {**record.timings, "total": round(time.perf_counter() - began, 3)}
        record.write("done")
    except BaseException as error:
        with contextlib.suppress(OutputError):
            record.write(f"stopped: {discovery.one_line(error)}")
        record.discard()
        raise


def _draw(
    record: Run,
    progress: Callable[[int | None], Progress] | None,
    recorded: Mapping[str, Any],
    traces: Mapping[int, Sequence[Mapping[str, Any]]],
    resume: bool,
) -> Iterator[Finished]:
    """Load once, then draw; keeps the record's environment and timings up to date."""
    import torch

    from genbench.generation import Session

    torch.set_num_threads(int(recorded.get("threads") or torch.get_num_threads()))
    session = Session.open(record.resolved)
    session.traces, session.place, session.resume = traces, record.place, resume
    saved = {image["index"] for image in record.images}
    record.resolved, record.environment = session.resolved, environment(session)
    record.write("running")
    differs = differences(recorded, record.environment)
    if differs:
        warnings.warn(f"this may differ from the record in its bits: {'; '.join(differs)}", stacklevel=2)
    told = progress(rows_to_come(session)) if progress else None
    for picture in session.pictures((item for item in session.resolved.items() if item.index not in saved), told):
        record.timings = {name: round(seconds, 3) for name, seconds in session.timings.items()}
        record.environment = {**record.environment, "weights": dict(session.weights)}
        yield picture
    record.timings = {name: round(seconds, 3) for name, seconds in session.timings.items()}


def rows_to_come(session: Session) -> int | None:
    """Return how many steps of one picture the run takes; None where a search decides or prompts still arrive."""
    request = session.resolved.request
    if session.chain.scene is not None:
        iterations: int | None = getattr(session.chain.scene, "iterations", None)
        return None if iterations is None or request.prompts == STDIN else iterations * _scenes(session)
    if session.chain.search is not None or request.prompts == STDIN or request.steps is None:
        return None
    return request.steps * _scenes(session)


def _scenes(session: Session) -> int:
    """Return how many pictures or scenes the run makes."""
    request = session.resolved.request
    return sum(len(row_request(request, row, "").all_seeds) for row in session.resolved.given_rows())


def settled(resolved: Resolved) -> Resolved:
    """Return the request with the recommended settings of its plugins and of an installed model; opens no weights."""
    from genbench.generation import build_chain

    resolved, _ = build_chain(resolved)
    word = resolved.request.model
    if not any(entry.name == word for entry in discovery.entries("source")):
        return resolved
    source = discovery.plugin_class(word, ("source",)).cls
    return resolved.with_recommended(f"model {word}", getattr(source, "recommended", {}))


def reopened(resolved: Resolved, folder: Path, record: Mapping[str, Any]) -> Run:
    """Take up a stopped run of scenes. Raises UsageError for one of pictures, which are made anew at no loss."""
    kinds = {kind for word in resolved.plugins for kind in discovery.plugin_class(word).kinds}
    if "scene" not in kinds:
        raise UsageError(f"{folder} is a run of pictures; resume=true goes on with scenes: leave it out")
    return Run.reopen(resolved, folder, record)


def plan(resolved: Resolved) -> Mapping[str, object]:
    """Say what would run and its network evaluations."""
    from genbench import generation

    return generation.plan(resolved)


def environment(session: Session) -> dict[str, object]:
    """Return on what a session runs: versions, device, dtype, threads, hashes of model and plugins."""
    import torch

    from genbench import judging
    from genbench.generation import batch_size
    from genbench.models import model_hash

    model, device = session.model, session.model.device
    request = session.resolved.request
    built_plugins = zip(session.resolved.plugins, session.chain.plugins, strict=True)
    verifier: dict[str, object] = {}
    if session.chain.search is not None:
        built_verifiers = judging.verifiers(session.resolved).values()  # the hash has their weights, wherever they lie
        told = [
            {**plugin(word, ("scorer",)), "content": each.fingerprint}
            for word, each in zip(request.verifiers, built_verifiers, strict=True)
        ]
        verifier = {"verifier": told[0] if len(told) == 1 else told}
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "family": model.family,
        "model_hash": model_hash(model),
        "sampler": sampler_name(session.sampler(request.sampler)),
        "plugins": [{**plugin(word), "content": built.fingerprint} for word, built in built_plugins],
        "batch_size": batch_size(session.resolved),
        **verifier,
    }


def sampler_name(sampler: object) -> str:
    """Return the class name of a sampler, or of the diffusers scheduler that it adapts."""
    return type(getattr(sampler, "scheduler", sampler)).__name__


def plugin(word: str, kinds: Sequence[str] = RUN_KINDS) -> dict[str, str]:
    """Return what a plugin word stands for: distribution and version, or its file, and the hash of code and weights."""
    loaded = discovery.plugin_class(word, kinds)
    content = {"word": word, "content": discovery.fingerprint(loaded.cls)}
    if loaded.entry is None:
        return {**content, "file": str(source_file(word))}
    return {**content, "distribution": loaded.entry.distribution, "version": loaded.entry.version}


def source_file(word: str) -> Path:
    """Return the path in `./file.py:Class`."""
    return Path(word.rpartition(".py")[0] + ".py").expanduser()
