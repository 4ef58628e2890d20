"""The verbs eval, score, report and export: words in, a folder with a store, pictures and a report out.

genbench eval prompts=FILE chains="none; search" seeds=0..1 metrics=solids-exact,kid@solids-clip out=outputs/cmp
genbench score outputs/cmp metrics=...
genbench report outputs/cmp
genbench export outputs/cmp out=cmp.csv
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from genbench import fields, models
from genbench.discovery import one_line
from genbench.errors import UsageError
from genbench.evaluation import (
    estimate,
    export,
    publish,
    ray_workers,
    report,
    resuming,
    sets,
    table,
    workers,
    worklist,
)
from genbench.evaluation.database import FILE
from genbench.evaluation.keeping import remove_unfinished
from genbench.evaluation.lock import locked
from genbench.evaluation.overlap import Overlap
from genbench.evaluation.planning import Plan, check_by, plan
from genbench.evaluation.reference import Reference, open_reference, source_plugin
from genbench.evaluation.scoring import Metrics, score
from genbench.evaluation.store import Made, Store
from genbench.evaluation.sweeps import PREFIX
from genbench.evaluation.words import Asked, Words, sort_words
from genbench.evaluation.worklist import Cell, Settings
from genbench.options import parse_words, split_flags
from genbench.request import Request, resolve

DEFAULT_BATCH = 16
FAILED = 1


def cli_main(verb: str, argv: list[str]) -> int:
    """Run one of VERBS; returns the exit code, 1 where a part of what was asked is missing. Raises GenbenchError."""
    if {"--help", "-h"} & set(argv):
        sys.stdout.write(_help(verb))
        return 0
    return VERBS[verb](argv)


def _eval(argv: list[str]) -> int:
    flags, rest = split_flags(argv, ("--dry-run",))
    asked = sort_words(parse_words(rest))
    if "plugin" in asked.request:
        raise UsageError('plugin= is one run\'s chain; eval compares several: chains="none; search"')
    if asked.own.ray:
        ray_workers.check()
    grid = plan(asked)
    chains, cells = grid.settings, grid.cells
    model, folder = chains[0].resolved.request.model, Path(chains[0].resolved.request.out).expanduser()
    metrics = _metrics(asked, model, chains[0].resolved.request.device)
    if "--dry-run" in flags:
        return _dry_run(grid, folder, asked.own.workers, metrics)
    _check_folder(folder, asked.own.resume)
    began = time.time()
    with locked(folder, "eval"), Store(folder) as store:
        store.forget_missing()
        todo = worklist.to_do(cells, store.done())
        _say(f"{folder}: {len(cells)} cells, {len(cells) - len(todo)} done, {len(todo)} to draw")
        store.add_plan(chains, cells)
        reference = _reference(asked, store, metrics, model)
        draw(store, chains, todo, asked.own, metrics)
        remove_unfinished(folder, began)
        if told := resuming.mixed(store.made_with().items()):
            _say(told)
        whole = judge(store, metrics, reference)
        _tell(store, asked.own.by)
        return 0 if whole and {cell.key for cell in cells} <= store.done() else FAILED


def _dry_run(grid: Plan, folder: Path, processes: int, metrics: Metrics) -> int:
    """Print what would be drawn and what it costs; leaves the folder as it is."""
    done, made = set[str](), list[Made]()
    if (folder / FILE).is_file():
        with Store(folder, create=False) as store:
            done, made = store.done(), store.pictures()
    todo = worklist.to_do(grid.cells, done)
    lines = estimate.estimate(grid, todo, made, folder, _batch(grid.settings))
    sys.stdout.write(estimate.told(lines, processes, [metric.label for metric in metrics.chosen]))
    return 0


def _check_folder(folder: Path, resume: bool) -> None:
    if not resume and (folder / FILE).is_file():
        raise UsageError(f"resume=false, but '{folder}' holds a comparison already; give another folder with out=")


def _batch(chains: Sequence[Settings]) -> int:
    return chains[0].resolved.request.batch_size or DEFAULT_BATCH


def draw(store: Store, chains: Sequence[Settings], todo: Sequence[Cell], own: Words, metrics: Metrics) -> None:
    """Make the pictures that are missing, in local processes or as actors of a Ray cluster; score what is there."""
    size = 1 if any(settings.scene for settings in chains) else _batch(chains)  # a scene takes minutes
    sized = {settings.id: worklist.for_worker(settings, size) for settings in chains}
    job, batches = workers.Job(store.folder, sized), resuming.batches(store, todo, size, _say)
    scorers = metrics.scorers() if _overlaps(own, chains) else []
    overlap = Overlap(store.folder, scorers, here=own.workers == 1 and not own.ray)
    with _progress("pictures", len(todo)) as done, overlap:

        def progress(count: int) -> None:
            done(count)
            overlap.tell(count)

        if own.ray and batches:
            ray_workers.run(job, batches, own.workers, progress, own.ray)
        else:
            workers.run(job, batches, own.workers, progress, overlap.loading)


def _overlaps(own: Words, chains: Sequence[Settings]) -> bool:
    """Whether scoring runs beside drawing; `auto`: where that happens in other processes or on an accelerator, for on
    the same cores it gains nothing.
    """
    if own.overlap != "auto":
        return own.overlap == "true"
    device = chains[0].resolved.request.device
    return own.workers > 1 or bool(own.ray) or models.chosen_device(device).type != "cpu"


def judge(store: Store, metrics: Metrics, reference: Reference | None) -> bool:
    """Score every picture in the store and measure every chain's set; returns whether all of it could be done."""
    for metric in metrics.scorers():
        with _progress(metric.word) as done:
            score(store, metric, done)
    asked = {metric.word for metric in metrics.scorers()}
    failed = [f"{word}: no value for {n} pictures: {error}" for word, n, error in store.unscored() if word in asked]
    for metric in metrics.sets():
        try:
            with _progress(f"{metric.word}@{metric.encoder_word}") as done:
                sets.measure(store, metric, reference, done)
        except Exception as error:  # whatever one metric raises must not cost the others, nor the report
            failed.append(f"{metric.word}@{metric.encoder_word}: {one_line(error)}")
    for line in failed:
        _say(line)
    return not failed


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _score(argv: list[str]) -> int:
    folder, asked = _folder_and_words("score", argv, ("device", "offline"))
    if not asked.own.metrics:
        raise UsageError("score needs metrics=NAME,...; `genbench plugins` lists scorers and metrics")
    device = resolve(asked.request, rows=()).request.device
    _needs_store(folder)
    with locked(folder, "score"), Store(folder, create=False) as store:
        check_by(asked.own.by, store.columns())
        metrics = _metrics(asked, store.model(), device)
        whole = judge(store, metrics, _reference(asked, store, metrics, store.model()))
        _tell(store, asked.own.by)
    return 0 if whole else FAILED


def _report(argv: list[str]) -> int:
    folder, asked = _folder_and_words("report", argv)
    with Store(folder, create=False) as store:
        check_by(asked.own.by, store.columns())
        _tell(store, asked.own.by, with_plots=True)
    return 0


def _export(argv: list[str]) -> int:
    folder, rest = _folder("export", argv)
    sys.stdout.write(export.main(folder, rest) + "\n")
    return 0


VERBS: Mapping[str, Callable[[list[str]], int]] = {
    "eval": _eval,
    "score": _score,
    "report": _report,
    "export": _export,
}


USAGE: Mapping[str, str] = {
    "eval": "genbench eval prompts=FILE out=FOLDER key=value ...; words of a run hold for every chain, "
    "sweep.NAME=1,3,5 compares several values, --dry-run says what it costs",
    "score": "genbench score FOLDER metrics=NAME,... key=value ...; device= and offline= as in a run",
    "report": "genbench report FOLDER by=COLUMN,...",
    "export": "genbench export FOLDER out=FILE.csv|FILE.parquet|FOLDER key=value ...",
}


JUDGING = ("metrics", "encoder", "reference", "reference_size", "by")
OWN: Mapping[str, Sequence[str]] = {"score": JUDGING, "report": ("by",)}
"""The words of eval that other verbs have as well."""
BORROWED: Mapping[str, Sequence[str]] = {
    "eval": ("prompts", "seeds", "out"),
    "score": ("device", "offline"),
    "report": (),
}
"""The words of a run that are worth showing."""


def _help(verb: str) -> str:
    """Return a verb's own words, as the comments of their fields say them."""
    described = [*fields.described(export.Words if verb == "export" else Words)]
    described += [each for each in fields.described(Request) if each.option.name in BORROWED.get(verb, ())]
    named = OWN.get(verb)
    rows = [
        f"  {each.option.name + '=':<16} {each.option.type:<28} {each.help}".rstrip()
        for each in described
        if named is None or each.option.name in (*named, *BORROWED[verb])
    ]
    return "\n".join([USAGE[verb], "", *rows, "", "`genbench plugins` lists plugins, scorers and metrics.", ""])


def _tell(store: Store, by: Sequence[str], with_plots: bool = False) -> None:
    made = report.report(store, by)
    publish.save(store, made, by, with_plots)
    sys.stdout.write(table.markdown(made))


def _metrics(asked: Asked, model: str, device: str) -> Metrics:
    """Build the metrics; the encoder of set metrics is the one named, else the model's source's own."""
    source = source_plugin(model)
    own = str(getattr(source.object, "encoder", "")) if source else ""
    on = models.chosen_device(device)
    metrics = Metrics.read(asked.own.metrics, asked.own.encoder or own, asked.metric_options(), on)
    for name in ("reference", "encoder"):
        if getattr(asked.own, name) and not metrics.sets():
            warnings.warn(f"{name}= is for set metrics, and metrics= names none; it changes nothing", stacklevel=2)
    return metrics


def _reference(asked: Asked, store: Store, metrics: Metrics, model: str) -> Reference | None:
    """Open what set metrics compare with; None where no metric needs it, or nothing is named and the model has none."""
    if not metrics.sets():
        return None
    source = source_plugin(model)
    word = asked.own.reference or (model if source and hasattr(source.object, "reference") else "")
    return open_reference(word, store.texts(), asked.own.reference_size) if word else None


def _folder(verb: str, argv: Sequence[str]) -> tuple[Path, list[str]]:
    folders = [word for word in argv if "=" not in word or Path(word).is_dir()]
    if len(folders) != 1:
        raise UsageError(f"{verb} takes one folder that genbench eval made; got {len(folders)}")
    return Path(folders[0]).expanduser(), [word for word in argv if word != folders[0]]


def _needs_store(folder: Path) -> None:
    """Refuse a folder without a store before a lock is put there."""
    if not (folder / FILE).is_file():
        Store(folder, create=False)


def _folder_and_words(verb: str, argv: Sequence[str], taken: Sequence[str] = ()) -> tuple[Path, Asked]:
    """Sort the words of a verb that draws nothing; of a run's words it takes those in `taken`."""
    folder, rest = _folder(verb, argv)
    asked = sort_words(parse_words(rest))
    for name in (
        *(each for each in asked.request if each not in taken),
        *(f"{PREFIX}{swept}" for swept in asked.swept),
    ):
        raise UsageError(f"{verb} draws nothing, so {name}= has no place; use genbench eval")
    return folder, asked


@contextmanager
def _progress(what: str, total: int | None = None) -> Generator[Callable[[int], None]]:
    """Show a bar on a terminal, nothing in a pipe."""
    with tqdm(total=total, desc=what, unit="", disable=None, leave=False) as bar:

        def done(count: int) -> None:
            bar.update(count)

        yield done
