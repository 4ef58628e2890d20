"""Where values come from: command line > GENBENCH_* environment > project file > user file > defaults.

A layer is a flat mapping of words: request fields, and `name.option` for a plugin's option. In the environment that
is GENBENCH_STEPS=20 and GENBENCH_SEARCH__CANDIDATES=8; in genbench.toml a top-level key and a table `[search]`.
"""

from __future__ import annotations

import os
import tomllib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from genbench import discovery
from genbench.errors import UsageError, did_you_mean

FILE = "genbench.toml"
PREFIX = "GENBENCH_"
RESERVED = ("DEBUG", "LOAD_PLUGINS", "CACHE_DIR")
"""GENBENCH_* variables that are no request field: they belong to the program itself."""
COMMAND_LINE = "command line"
Exclusive = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Layer:
    """Words from one place. `path` names the file in errors."""

    origin: str
    words: Mapping[str, object]
    path: str = ""

    def check(
        self,
        known: Mapping[str, object],
        checked: Callable[[str, object], object],
        unknown: Callable[[str], UsageError],
        exclusive: Exclusive,
    ) -> None:
        """Validate every request field of this layer. Raises UsageError that also names the layer."""
        where = "" if self.origin == COMMAND_LINE else f" (in {self.path or f'the {self.origin}'})"
        for name, value in self.words.items():
            try:
                if name in known:
                    checked(name, value)
                elif "." not in name:
                    raise unknown(name)
            except UsageError as error:
                raise UsageError(f"{error}{where}") from None
        for one, other in exclusive:
            if self.words.get(one) and self.words.get(other):
                raise UsageError(f"{one}= and {other}= are both given{where}; keep one")


def flatten(words: Mapping[str, object]) -> dict[str, object]:
    """Return words with `{"search": {"candidates": 8}}` (also under `options`) written as `search.candidates`."""
    flat: dict[str, object] = {}
    for name, value in words.items():
        if isinstance(value, Mapping):
            table_or_tables = cast(Mapping[str, Any], value)
            tables: Mapping[str, Any] = table_or_tables if name == "options" else {name: table_or_tables}
            flat |= {f"{owner}.{option}": each for owner, table in tables.items() for option, each in table.items()}
        else:
            flat[name] = value
    return flat


def below() -> tuple[Layer, ...]:
    """Return the layers under the command line, highest first."""
    import platformdirs

    user = Path(platformdirs.user_config_dir("genbench", appauthor=False)) / FILE
    return (environment(os.environ), toml_file("project file", Path(FILE)), toml_file("user file", user))


def environment(environ: Mapping[str, str]) -> Layer:
    """Return the words of `GENBENCH_*` variables; empty ones count as unset, unknown ones are warned about."""
    from genbench.request import schema

    words: dict[str, object] = {}
    for variable, value in environ.items():
        name = variable.removeprefix(PREFIX).lower().replace("__", ".")
        if not variable.startswith(PREFIX) or variable.removeprefix(PREFIX) in RESERVED or not value:
            continue
        if name in schema() or "." in name:
            words[name] = value
        else:
            hint = did_you_mean(name, schema())
            warnings.warn(f"{variable} is ignored: there is no word '{name}'{hint}", stacklevel=2)
    return Layer("environment", words)


def toml_file(origin: str, path: Path) -> Layer:
    """Return the words of a genbench.toml; an absent file is an empty layer. Raises UsageError if it does not parse."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return Layer(origin, flatten(tomllib.loads(text)), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return Layer(origin, {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no valid TOML: {error}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def merge(
    stack: Sequence[Layer], known: Mapping[str, object], exclusive: Exclusive
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return (values, origins) of the request fields: the highest layer wins, also over the field it excludes.

    `seed=7` on the command line hides `seeds` in a file. A value of `none` leaves the field to recommended settings.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in stack:
        hidden = {other for pair in exclusive for name in pair if name in values for other in pair}
        for name, value in layer.words.items():
            if name in known and name not in values and name not in hidden:
                values[name], origins[name] = value, layer.origin
    return values, {name: origins.get(name, "default") for name in known}


def plugin_options(stack: Sequence[Layer], chain: Sequence[str]) -> tuple[dict[str, dict[str, object]], dict[str, str]]:
    """Return ({plugin word: options}, origins) for the plugins of this run.

    Files and the environment may hold options of other plugins; on the command line that is a UsageError.
    """
    known = owners(chain)
    options: dict[str, dict[str, object]] = {}
    origins: dict[str, str] = {}
    for layer in stack:
        for name, value in layer.words.items():
            asked, dot, option = name.rpartition(".")
            word = owner(name, known)
            if dot and word is None and layer.origin == COMMAND_LINE:
                raise UsageError(
                    f"{name}= is given, but plugin={','.join(chain)} has no '{asked}'{_hint(asked, chain)}"
                )
            if dot and word is not None and option not in options.setdefault(word, {}):
                options[word][option], origins[f"{word}.{option}"] = value, layer.origin
    return options, origins


def owners(chain: Sequence[str]) -> dict[str, str]:
    """Return {prefix of an option: plugin word} of a chain; see `owner`."""
    return {_normal(name): word for word in chain for name in (discovery.short_name(word), word)}


def owner(name: str, known: Mapping[str, str]) -> str | None:
    """Return the plugin word that `prefix.option` belongs to, None where no plugin of the chain has that prefix."""
    return known.get(_normal(name.rpartition(".")[0]))


def _normal(name: str) -> str:
    return name.lower().replace("-", "_")


def _hint(owner: str, chain: Sequence[str]) -> str:
    return did_you_mean(owner, map(discovery.short_name, chain)) if chain else f"; add plugin={owner}"
