"""The words of eval, score and report: which are theirs, which belong to the run, which to a plugin or metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields as dataclass_fields
from typing import Any

from genbench import discovery, fields
from genbench.errors import UsageError, did_you_mean
from genbench.evaluation.report import BY
from genbench.request import schema

NONE = "none"
Options = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Words:
    """The words that only these verbs have."""

    chains: tuple[str, ...] = (NONE,)  # separated by semicolons: "none; search; halo,search"
    metrics: tuple[str, ...] = ()  # scorers, and set metrics as metric@encoder
    encoder: str = ""  # for set metrics that name none; default: the model's own, if it has one
    reference: str = ""  # folder of pictures, or a model that renders them; default: the run's model, if it can
    reference_size: int = field(default=5000, metadata={"range": (2, 1_000_000)})  # rendered reference pictures
    workers: int = field(default=1, metadata={"range": (1, 256)})  # processes, each with one torch thread
    by: tuple[str, ...] = BY  # columns of the prompt file that split the table

    @property
    def metric_names(self) -> set[str]:
        """The plugins that metrics= and encoder= name."""
        return {part for word in (*self.metrics, self.encoder) for part in word.split("@") if part}

    @property
    def chain_names(self) -> set[str]:
        """The plugins that chains= names, as their options are prefixed."""
        return {discovery.short_name(name) for chain in self.chains for name in plugins_of(chain)}


@dataclass(frozen=True)
class Asked:
    """One command's words, sorted: `own`, the run's `request`, and `options` by plugin or metric."""

    own: Words
    request: Mapping[str, str]
    options: Options

    def metric_options(self) -> dict[str, Mapping[str, object]]:
        """Return the options of scorers, metrics and encoders."""
        return {name: dict(given) for name, given in self.options.items() if name in self.own.metric_names}

    def chain_words(self, chain: str) -> dict[str, object]:
        """Return the words of one chain's run, with the options of its own plugins only."""
        names = plugins_of(chain)
        mine = {name: dict(self.options.get(discovery.short_name(name), {})) for name in names}
        given = {name: options for name, options in mine.items() if options}
        return {**self.request, "plugin": ",".join(names), "options": given}


def plugins_of(chain: str) -> list[str]:
    """Return the plugin words of a chain; none for `none`."""
    return [] if chain == NONE else [name.strip() for name in chain.split(",") if name.strip()]


def sort_words(words: Mapping[str, str]) -> Asked:
    """Sort a command's words. Raises UsageError for a word, or an option's owner, that does not exist."""
    own: dict[str, Any] = {}
    request: dict[str, str] = {}
    options: dict[str, dict[str, str]] = {}
    known = [each.name for each in dataclass_fields(Words)]
    for name, value in words.items():
        owner, dot, option = name.rpartition(".")
        if dot:
            options.setdefault(owner, {})[option] = value
        elif name in known:
            own[name] = _chains(value) if name == "chains" else fields.values(Words, "eval", {name: value})[name]
        elif name in schema():
            request[name] = value
        else:
            raise UsageError(f"there is no word '{name}'{did_you_mean(name, [*known, *schema()])}")
    asked = Asked(Words(**own), request, options)
    _check_owners(asked)
    return asked


def _chains(text: str) -> tuple[str, ...]:
    chains = tuple(dict.fromkeys(chain.strip() for chain in text.split(";") if chain.strip()))
    if not chains:
        raise UsageError('chains= is empty; write chains="none; search"')
    return chains


def _check_owners(asked: Asked) -> None:
    known = asked.own.chain_names | asked.own.metric_names
    for owner in asked.options:
        if owner not in known:
            raise UsageError(f"options for '{owner}', which is in no chain and no metric{did_you_mean(owner, known)}")
