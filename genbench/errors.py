"""The errors a user can meet: each says in one line what was asked, what exists and what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class GenbenchError(Exception):
    """Base of every error that is shown as one line, without a traceback. `exit_code` is the process's."""

    exit_code = 1


class UsageError(GenbenchError):
    """A word, a value or a combination that cannot be run; raised before any weight loads."""

    exit_code = 2


class PluginError(GenbenchError):
    """A plugin that cannot be found, imported, built or combined; names the plugin and its distribution."""

    exit_code = 3


class ModelError(GenbenchError):
    """A model, LoRA or weight file that cannot be opened or does not fit; names the file that is missing or wrong."""

    exit_code = 4


class MissingDependency(GenbenchError):
    """An optional package is needed; the message carries the install command."""

    exit_code = 5


class BrokenImage(GenbenchError):
    """A picture came out as NaN or as one constant colour; explained instead of saved."""

    exit_code = 6


class BudgetExceeded(GenbenchError):
    """A search asked for network evaluations beyond its budget."""

    exit_code = 7


class OutputError(GenbenchError):
    """A file of a run that cannot be written (disk full, read-only); names it. What was saved before stays."""

    exit_code = 8


class TrainingError(GenbenchError):
    """A training that cannot go on (a loss that is no number); what it had reached stays."""

    exit_code = 9


class SceneError(GenbenchError):
    """A scene that cannot be drawn or read (no Gaussians left, numbers that are none, a broken file)."""

    exit_code = 10


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known word, else a list of what exists (at most 12)."""
    names = sorted(set(known))
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    if not names:
        return "; none exists"
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"; there is {', '.join(names[:12])}{more}"
