"""The command line: verbs, printing, exit codes. What a verb does stands in the module it calls.

`main` imports neither torch nor a plugin; a verb imports what it needs.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from genbench.errors import GenbenchError, UsageError, did_you_mean
from genbench.options import check_utf8, convert, parse_words, split_flags

if TYPE_CHECKING:
    from genbench.record import Finished, Run
    from genbench.request import Resolved
    from genbench.runner import Progress, Totals

INTERRUPTED, CRASHED, BROKEN_PIPE = 130, 70, 141
USAGE = """genbench makes pictures from text; research methods are plugins.

  genbench run prompt="a red cube left of a blue sphere" seed=7
  genbench run plugin=search search.candidates=8 prompt="a red cube"

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Every error is one line on stderr."""
    _set_streams()
    try:
        with _one_line_warnings():
            return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except GenbenchError as error:
        return _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _complain("stopped; what was saved before is whole", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes stdout at exit
        return BROKEN_PIPE
    except Exception as error:
        if os.environ.get("GENBENCH_DEBUG"):
            traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
        return _complain(f"{text} (unexpected; GENBENCH_DEBUG=1 shows the traceback)", CRASHED)


def _dispatch(argv: list[str]) -> int:
    verb, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    check_utf8(verb)
    if verb in ("--help", "-h", "help"):
        return _print(USAGE + "\n".join(f"  {name:<12} {text}" for name, (_, text) in VERBS.items()) + MORE)
    if verb == "--version":
        from genbench import __version__

        return _print(f"genbench {__version__}")
    if verb not in VERBS:
        hint = f"; did you mean: genbench run {shlex.quote(verb)} ..." if "=" in verb else did_you_mean(verb, VERBS)
        raise UsageError(f"there is no verb '{verb}'{hint}")
    with _reach(rest):
        return VERBS[verb][0](rest)


def _reach(argv: Sequence[str]) -> contextlib.AbstractContextManager[None]:
    """`offline=true` holds for all that a command opens: models, plugins' weights, verifiers, metrics."""
    from genbench import hub, request

    return hub.closed() if request.says_offline(argv) else contextlib.nullcontext()


# --- verbs --------------------------------------------------------------------------------------------------------


def _run(argv: Sequence[str]) -> int:
    from genbench import request, runner

    for word in argv:
        name = word.removeprefix("--").replace("-", "_")
        if word.startswith("--") and name in request.schema():
            raise UsageError(f"{word} is written without dashes: {name}=VALUE")
    flags, words = split_flags(argv, ("--show-config", "--dry-run", "--help", "-h"))
    if flags & {"--help", "-h"} or not argv:
        return _print(_run_help())

    resolved = request.resolve(parse_words(words))
    runner.preflight(resolved)
    if "--show-config" in flags:
        return _print(_config(runner.settled(resolved)))
    if "--dry-run" in flags:
        return _print(_plan(runner.plan(resolved)))
    return _draw(resolved, "run")


def _rerun(argv: Sequence[str]) -> int:
    from genbench import replay, runner

    path, rest = _file_and_words("rerun", argv)
    words, record = parse_words(rest), replay.read(path)
    resume = convert(words.pop("resume", False), bool, "resume")
    folder = replay.resumed(record, words, path) if resume else None
    again = replay.replay(record, words, path)
    runner.preflight(again.resolved)
    return _draw(
        again.resolved,
        "rerun",
        keep=again.keep,
        environment=again.environment,
        traces=again.traces,
        reopened=None if folder is None else runner.reopened(again.resolved, folder, record),
    )


def _draw(
    resolved: Resolved,
    verb: str,
    *,
    keep: frozenset[int] | None = None,
    environment: Mapping[str, Any] | None = None,
    traces: Mapping[int, Sequence[Mapping[str, Any]]] | None = None,
    reopened: Run | None = None,
) -> int:
    """Draw, printing each picture as it is saved and at the end where it is, what it cost and how to rerun it."""
    from genbench import runner

    totals, as_json, stdout = runner.Totals(), resolved.request.format == "json", sys.stdout
    try:
        with _progress() as progress, contextlib.redirect_stdout(sys.stderr):
            for path, made in runner.run(
                resolved,
                totals,
                verb=verb,
                progress=progress,
                keep=keep,
                recorded=environment,
                traces=traces,
                reopened=reopened,
            ):
                if as_json:
                    print(json.dumps(_fields(path, made), ensure_ascii=False), file=stdout, flush=True)
                elif not (resolved.single or keep):
                    print(_line(path, made), file=stdout, flush=True)
    finally:
        if totals.pictures:
            print(_summary(totals), file=sys.stderr if as_json else stdout, flush=True)
    return 0


def _show(argv: Sequence[str]) -> int:
    from genbench import replay

    flags, words = split_flags(argv, ("--json",))
    path, more = _file_and_words("show", words)
    if more:
        raise UsageError(f"show takes one file; '{more[0]}' is too much")
    record = replay.read(path)
    if "--json" in flags:
        return _print(json.dumps(record, ensure_ascii=False, indent=1))
    rerun = [f"  rerun          genbench rerun {shlex.quote(str(path))}"] if "request" in record else []
    return _print("\n".join([*replay.show(record, path), *rerun]))


def _train(argv: Sequence[str]) -> int:
    from genbench.training import job

    flags, rest = split_flags(argv, ("--dry-run",))
    words = parse_words(rest)
    if "--dry-run" in flags:
        return _print("\n".join(f"{name:<22} {value}" for name, value in job.planned(words).items()))
    return _print(job.report(*job.trained(words)))


def _delegate(module: str) -> Callable[[Sequence[str]], int]:
    """Return a verb whose arguments belong to `main(args) -> int` of another module."""

    def verb(argv: Sequence[str]) -> int:
        from importlib import import_module

        return import_module(module).main([check_utf8(word) for word in argv])

    return verb


def _evaluate(verb: str) -> Callable[[Sequence[str]], int]:
    def run(argv: Sequence[str]) -> int:
        from genbench import evaluation

        return evaluation.cli_main(verb, [check_utf8(word) for word in argv])

    return run


VERBS: Mapping[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "run": (_run, "make pictures"),
    "rerun": (
        _rerun,
        "FILE.png or run.json: make them again, bit by bit; key=value words change it; resume=true",
    ),
    "show": (_show, "FILE.png or run.json: say what made it"),
    "plugins": (_delegate("genbench.listing"), "list what is installed; NAME for one; --check; --json"),
    "new-plugin": (_delegate("genbench.newplugin"), "NAME kind=KIND: write a small package with a green test"),
    "train": (_train, "plugin=NAME: make weights; resume=true continues"),
    "eval": (_evaluate("eval"), "measure runs over a list of prompts"),
    "score": (_evaluate("score"), "score pictures that exist"),
    "report": (_evaluate("report"), "tables from measurements"),
    "export": (_evaluate("export"), "measurements as .csv or .parquet, pictures as GenEval or EDM lay them out"),
    "bench": (_delegate("genbench.bench"), "how much of a run's time the network takes, and a plain diffusers loop"),
    "view": (_delegate("genbench.viewing"), "SCENE.ply: show it in a browser; save=FILE writes another kind of file"),
    "doctor": (_delegate("genbench.doctor"), "versions, devices, and what can run here"),
}
MORE = "\n\nWords are key=value in any order: `genbench run --help` lists them, `genbench plugins NAME` a plugin's.\n"
RUN_MORE = """  NAME.option=      an option of a plugin in the chain: `genbench plugins NAME`
  --show-config     print every setting and where it comes from
  --dry-run         say what would run and what it costs"""


# --- texts --------------------------------------------------------------------------------------------------------


def _run_help() -> str:
    from genbench import fields
    from genbench.request import Request

    rows = [(f"{each.option.name}=", each.option.type, each.help) for each in fields.described(Request)]
    table = "\n".join(f"  {name:<17} {kind:<38} {text}".rstrip() for name, kind, text in rows)
    return f"genbench run key=value ...\n\n{table}\n{RUN_MORE}"


def _config(resolved: Resolved) -> str:
    """Return one `key = value  (origin)` line per setting; None is decided when the model is opened."""
    from genbench.request import request_fields

    options = {f"{w}.{name}": value for w, table in resolved.options.items() for name, value in table.items()}
    lines = [
        (name, value, resolved.origin(name)) for name, value in {**request_fields(resolved.request), **options}.items()
    ]
    return "\n".join(f"{name:<18} {_shown(value):<32} {origin}" for name, value, origin in lines)


def _shown(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, cast(Sequence[object], value))) or "none"
    return "none" if value is None else str(value)


def _plan(plan: Mapping[str, object]) -> str:
    return "\n".join(f"{name.replace('_', ' '):<26} {_shown(value)}" for name, value in plan.items())


def _fields(path: Path, made: Finished) -> dict[str, object]:
    from genbench.record import chosen

    return {
        "path": str(path),
        "seed": made.item.seed,
        "prompt": made.item.prompt,
        "plugins": list(made.resolved.plugins),
        "nfe": made.nfe,
        "seconds": round(made.seconds, 3),
        **({"score": made.score} if made.trace else {}),
        **{name: chosen(made.trace)[name] for name in ("scores", "holdout") if name in chosen(made.trace)},
    }


def _line(path: Path, made: Finished) -> str:
    from genbench.record import candidates, chosen, judgement

    if not made.trace:
        return f"{path}: seed {made.item.seed}"
    told = judgement({"score": made.score, **chosen(made.trace)}, made.resolved.request.verifier)
    return f"{path}: seed {made.item.seed}, best of {candidates(made.trace)}, {told}"


def _summary(totals: Totals) -> str:
    """Return where the pictures are, what they cost and how to make them again."""
    one, record = totals.pictures == 1, (totals.folder or Path()) / "run.json"
    file = totals.last if one and not totals.files else record
    where = str(file) if one else f"{totals.folder}: {totals.pictures} {'scenes' if totals.files else 'pictures'}"
    where = f"{totals.folder}: {', '.join(totals.files)}" if one and totals.files else where
    best = f", best of {totals.candidates}" if totals.candidates > 1 else ""
    best += f", {totals.judged}" if one and totals.judged else ""
    evaluations = f"{totals.evaluations} network evaluation{'' if totals.evaluations == 1 else 's'}"
    return f"{where}{best}, {evaluations}, {totals.seconds:.1f} s; again: genbench rerun {shlex.quote(str(file))}"


def _file_and_words(verb: str, argv: Sequence[str]) -> tuple[Path, list[str]]:
    files = [word for word in argv if Path(check_utf8(word)).is_file() or "=" not in word]
    if len(files) != 1:
        raise UsageError(f"{verb} takes one file, a PNG or a run.json; got {len(files)}")
    return Path(files[0]), [word for word in argv if word != files[0]]


# --- streams ------------------------------------------------------------------------------------------------------


def _print(text: str) -> int:
    print(text, flush=True)
    return 0


def _complain(message: str, code: int) -> int:
    print(f"genbench: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


def _set_streams() -> None:
    """Let every character be printed anywhere, and keep libraries' progress bars out of pipes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not sys.stderr.isatty():
        for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")


@contextlib.contextmanager
def _one_line_warnings() -> Generator[None]:
    """Show what genbench and plugins warn about as one line each; hide libraries' deprecations."""
    with warnings.catch_warnings():
        if not os.environ.get("GENBENCH_DEBUG"):
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", category=UserWarning)
            warnings.showwarning = _show_warning
        yield


def _show_warning(message: Warning | str, *where: object) -> None:
    _complain(f"warning: {message}", 0)


@contextlib.contextmanager
def _progress() -> Generator[Callable[[int | None], Progress] | None]:
    """Yield what opens a progress bar over a number of network rows (None: unknown), or None in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with contextlib.ExitStack() as stack:

        def open_bar(total: int | None) -> Progress:
            bar: Any = tqdm(total=total, unit="step", leave=False, file=sys.stderr, disable=False)
            return stack.enter_context(bar).update

        yield open_bar
