"""The scorers of a search: those it follows (`verifier=`) and those that only watch (`holdout=`), and asking them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from genbench import discovery
from genbench.discovery import Plugin, one_line
from genbench.errors import GenbenchError, PluginError, UsageError
from genbench.kinds import Candidate, Scorer
from genbench.request import Resolved, words_of

Row = Mapping[str, object]
Scores = dict[str, Tensor]


@dataclass(frozen=True)
class Panel:
    """Verifiers and holdouts by name, ready to be asked."""

    verifiers: Mapping[str, Scorer] = field(default_factory=dict[str, Scorer])
    holdouts: Mapping[str, Scorer] = field(default_factory=dict[str, Scorer])

    def judge(self, images: Tensor, prompt: str, row: Row) -> Scores:
        """Ask every verifier about images (n, 3, h, w): name -> (n,). Raises UsageError where there is none,
        PluginError where one raises or answers in another shape.
        """
        if not self.verifiers:
            raise UsageError("this search needs a verifier; name one with verifier=, `genbench plugins` lists scorers")
        return {name: _asked(name, scorer, images, prompt, row) for name, scorer in self.verifiers.items()}

    def watch(self, images: Tensor, prompt: str, row: Row) -> Scores:
        """Ask every holdout. What fails is NaN and a warning: it is not followed, so it may not cost the picture."""
        return {name: _watched(name, scorer, images, prompt, row) for name, scorer in self.holdouts.items()}


def _asked(name: str, scorer: Scorer, images: Tensor, prompt: str, row: Row) -> Tensor:
    n = len(images)
    try:
        scores = scorer.score(images=images, prompts=[prompt] * n, rows=[row] * n)
    except GenbenchError:
        raise
    except Exception as error:  # a scorer may raise anything
        raise PluginError(f"the scorer '{name}' failed: {one_line(error)}; choose another one") from error
    if not isinstance(scores, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]  # a scorer may return anything
        kind = type(cast(object, scores)).__name__
        raise PluginError(f"the scorer '{name}' answered a {kind} for {n} pictures, not a tensor of shape ({n},)")
    if tuple(scores.shape) != (n,):
        raise PluginError(f"the scorer '{name}' answered {tuple(scores.shape)} for {n} pictures, not ({n},)")
    return scores


def _watched(name: str, scorer: Scorer, images: Tensor, prompt: str, row: Row) -> Tensor:
    try:
        return _asked(name, scorer, images, prompt, row).detach()
    except GenbenchError as error:
        warnings.warn(f"holdout={name} says nothing of this picture: {error}", stacklevel=2)
        return torch.full((len(images),), torch.nan)


def with_holdouts(
    found: Candidate, watch: Callable[[Tensor], Mapping[str, Tensor]], images: Tensor
) -> tuple[Mapping[str, object], ...]:
    """Return a search's trace with its chosen row marked; holdouts are asked about the picture where the search did
    not.
    """
    trace = list(found.trace)
    marked = [i for i, row in enumerate(trace) if row.get("chosen")]
    equal = [i for i, row in enumerate(trace) if row.get("score") == found.score]
    chosen = next(iter((*marked, *equal)), None)
    if chosen is not None:
        held = {} if "holdout" in trace[chosen] else {name: float(values[0]) for name, values in watch(images).items()}
        trace[chosen] = {**trace[chosen], "chosen": True, **({"holdout": held} if held else {})}
    return tuple(trace)


# --- which they are -----------------------------------------------------------------------------------------------


def verifier_words(resolved: Resolved) -> tuple[str, ...]:
    """Return the verifiers that a search follows. Raises UsageError where neither the run nor the model names one."""
    if not resolved.request.verifiers:
        raise UsageError(
            f"a search needs a verifier and model={resolved.request.model} brings none; name a scorer with verifier=, "
            "`genbench plugins` lists them"
        )
    return resolved.request.verifiers


def options_of(resolved: Resolved, word: str) -> Mapping[str, object]:
    """Return a scorer's options; a word that is also in the chain gives its options to the plugin there."""
    return {} if word in resolved.plugins else resolved.options.get(word, {})


def built(resolved: Resolved, words: Sequence[str], field_name: str) -> dict[str, Plugin]:
    """Build scorers with their options, by short name. Raises UsageError or PluginError."""
    plugins = {discovery.short_name(w): discovery.build(w, options_of(resolved, w), ("scorer",)) for w in words}
    if len(plugins) < len(words):
        raise UsageError(f"{field_name}={','.join(words)} names a scorer twice; keep each once")
    return plugins


def verifiers(resolved: Resolved) -> dict[str, Plugin]:
    """Build what a search follows."""
    return built(resolved, verifier_words(resolved), "verifier")


def holdouts(resolved: Resolved) -> dict[str, Plugin]:
    """Build what only watches."""
    return built(resolved, words_of(resolved.request.holdout), "holdout")


def panel(resolved: Resolved) -> Panel:
    """Build everything that a search asks."""
    asked = (verifiers(resolved), holdouts(resolved))
    return Panel(*({name: cast(Scorer, plugin.object) for name, plugin in plugins.items()} for plugins in asked))


def check(resolved: Resolved) -> None:
    """Build them now, so that a missing scorer, option or weight file stops the run before the model loads."""
    for plugin in (*verifiers(resolved).values(), *holdouts(resolved).values()):
        _ = plugin.fingerprint


def identity(resolved: Resolved) -> list[Any]:
    """Return what a search's verifiers are, for keys by content: their words, hashes, and options where given."""
    words, found = verifier_words(resolved), verifiers(resolved)
    given = {word: dict(options_of(resolved, word)) for word in words}
    if len(words) == 1:
        options: Mapping[str, object] = given[words[0]]
    else:
        options = {f"{discovery.short_name(w)}.{name}": each for w in words for name, each in given[w].items()}
    hashes = " ".join(plugin.fingerprint for plugin in found.values())
    return [",".join(words), hashes, *([options] if options else [])]
