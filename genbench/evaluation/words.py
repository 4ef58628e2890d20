"""The words of eval, score and report: which are theirs, which belong to the run, which to a plugin or metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields as dataclass_fields
from typing import Any, Literal

from genbench import discovery, fields
from genbench.errors import UsageError, did_you_mean
from genbench.evaluation import sweeps
from genbench.evaluation.report import BY
from genbench.evaluation.sweeps import PREFIX
from genbench.request import schema, words_of

NONE = "none"
NOT_SWEPT = (
    *("prompt", "prompts", "negative_prompt", "seed", "seeds", "num_images", "plugin", "out", "format", "metadata"),
    *("batch_size", "offline", "offload", "device"),
)
"""Request fields that have lists of their own, or that say where and how fast and not what is drawn."""
Options = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Words:
    """The words that only these verbs have."""

    chains: tuple[str, ...] = ()  # separated by semicolons: "none; search; halo,search"; default: none
    ablate: tuple[str, ...] = ()  # a chain whose subsets are all compared: halo,search
    metrics: tuple[str, ...] = ()  # scorers, and set metrics as metric@encoder
    encoder: str = ""  # for set metrics that name none; default: the model's own, if it has one
    reference: str = ""  # folder of pictures, or a model that renders them; default: the run's model, if it can
    reference_size: int = field(default=5000, metadata={"range": (2, 1_000_000)})  # rendered reference pictures
    workers: int = field(default=1, metadata={"range": (1, 256)})  # processes, each with its part of the cores
    overlap: Literal["auto", "true", "false"] = "auto"  # score while drawing; auto: where that costs drawing little
    ray: str = ""  # draw as actors of a Ray cluster: auto (the one running here, else a local one), or its address
    by: tuple[str, ...] = BY  # columns of the prompt file that split the table
    resume: bool = True  # go on in a folder that holds pictures already; false refuses it

    @property
    def compared(self) -> tuple[str, ...]:
        """The chains of chains= and ablate=, each once."""
        subsets = sweeps.subsets(self.ablate) if self.ablate else ()
        return tuple(dict.fromkeys((*self.chains, *(",".join(chosen) or NONE for chosen in subsets)))) or (NONE,)

    @property
    def metric_names(self) -> set[str]:
        """The plugins that metrics= and encoder= name."""
        return {part for word in (*self.metrics, self.encoder) for part in word.split("@") if part}

    @property
    def chain_names(self) -> set[str]:
        """The plugins that chains= and ablate= name, as their options are prefixed."""
        return {name for chain in self.compared for name in prefixes_of(chain)}


@dataclass(frozen=True)
class Asked:
    """One command's words, sorted: `own`, the run's `request`, `options` by plugin or metric, `swept` values."""

    own: Words
    request: Mapping[str, str]
    options: Options
    swept: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    @property
    def verifier(self) -> tuple[str, ...]:
        """The verifiers and holdouts that the command names."""
        return tuple(word for name in ("verifier", "holdout") for word in words_of(self.request.get(name)))

    def metric_options(self) -> dict[str, Mapping[str, object]]:
        """Return the options of scorers, metrics and encoders."""
        return {name: dict(given) for name, given in self.options.items() if name in self.own.metric_names}

    def runs(self) -> list[dict[str, object]]:
        """Return the words of every run: each chain with each combination of the swept values that it feels."""
        return [
            self._run(chain, point)
            for chain in self.own.compared
            for point in sweeps.points(self.swept, prefixes_of(chain))
        ]

    def _run(self, chain: str, point: Mapping[str, str]) -> dict[str, object]:
        """Return the words of one run, with the options of its own plugins and its verifier only."""
        names = plugins_of(chain)
        owners = dict.fromkeys((*names, *self.verifier))
        options = {name: dict(self.options.get(discovery.short_name(name), {})) for name in owners}
        for name in names:
            swept = {each.rpartition("."): value for each, value in point.items() if "." in each}
            options[name] |= {o: value for (p, _, o), value in swept.items() if p == discovery.short_name(name)}
        fields = {name: value for name, value in point.items() if "." not in name}
        given = {name: table for name, table in options.items() if table}
        return {**self.request, **fields, "plugin": ",".join(names), "options": given}


def prefixes_of(chain: str) -> list[str]:
    """Return how the options of a chain's plugins are prefixed."""
    return [discovery.short_name(name) for name in plugins_of(chain)]


def plugins_of(chain: str) -> list[str]:
    """Return the plugin words of a chain; none for `none`."""
    return [] if chain == NONE else [name.strip() for name in chain.split(",") if name.strip()]


def sort_words(words: Mapping[str, str]) -> Asked:
    """Sort a command's words. Raises UsageError for a word, or an option's owner, that does not exist."""
    own: dict[str, Any] = {}
    request: dict[str, str] = {}
    options: dict[str, dict[str, str]] = {}
    swept: dict[str, tuple[str, ...]] = {}
    known = [each.name for each in dataclass_fields(Words)]
    for name, value in words.items():
        owner, dot, option = name.rpartition(".")
        if name.startswith(PREFIX):
            swept[name.removeprefix(PREFIX)] = sweeps.values(name.removeprefix(PREFIX), value)
        elif dot:
            options.setdefault(owner, {})[option] = value
        elif name in known:
            own[name] = _chains(value) if name == "chains" else fields.values(Words, "eval", {name: value})[name]
        elif name in schema():
            request[name] = value
        else:
            raise UsageError(f"there is no word '{name}'{did_you_mean(name, [*known, *schema()])}")
    asked = Asked(Words(**own), request, options, swept)
    _check_owners(asked)
    _check_swept(asked)
    return asked


def _chains(text: str) -> tuple[str, ...]:
    chains = tuple(dict.fromkeys(chain.strip() for chain in text.split(";") if chain.strip()))
    if not chains:
        raise UsageError('chains= is empty; write chains="none; search"')
    return chains


def _check_owners(asked: Asked) -> None:
    known = asked.own.chain_names | asked.own.metric_names | {discovery.short_name(word) for word in asked.verifier}
    for owner in asked.options:
        if owner not in known:
            raise UsageError(f"options for '{owner}', which is in no chain and no metric{did_you_mean(owner, known)}")


def _check_swept(asked: Asked) -> None:
    """Refuse a sweep of what does not exist, is given as well, or is no setting of a picture."""
    allowed = [name for name in schema() if name not in NOT_SWEPT]
    for name in asked.swept:
        owner, dot, option = name.rpartition(".")
        if dot and owner not in asked.own.chain_names:
            raise UsageError(f"{PREFIX}{name}=: '{owner}' is in no chain{did_you_mean(owner, asked.own.chain_names)}")
        if not dot and name not in allowed:
            raise UsageError(f"{PREFIX}{name}=: '{name}' cannot be swept{did_you_mean(name, allowed)}")
        if name in asked.request or option in asked.options.get(owner, {}):
            raise UsageError(f"{name}= and {PREFIX}{name}= are both given; keep one")
