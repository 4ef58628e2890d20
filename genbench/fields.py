"""A plugin's options, read off the fields of its dataclass: type, range, default and one line of help each.

A range stands in the type, `Annotated[float, Range(0, 1)]`, or in the field, `metadata={"range": (0, 1)}` (inclusive;
None for an open end); the help is the comment that ends the field's line, or `metadata={"help": ...}`.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import math
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genbench import options
from genbench.errors import PluginError, UsageError, did_you_mean
from genbench.options import Option, Range


@dataclass(frozen=True)
class Described:
    """One option with its help."""

    option: Option
    help: str

    @property
    def required(self) -> bool:
        return self.option.default is dataclasses.MISSING


def described(cls: type) -> tuple[Described, ...]:
    """Return a plugin class's options in the order of its fields. Raises PluginError where a type cannot be read."""
    comments, metadata = _comments(cls), _metadata(cls)
    return tuple(
        Described(option, str(metadata[name].get("help", comments.get(name, ""))))
        for name, option in options_of(cls).items()
    )


def options_of(cls: type) -> dict[str, Option]:
    """Return a plugin class's options by name. Raises PluginError where a field's type cannot be read."""
    metadata = _metadata(cls)
    try:
        found = options.options(cls)
    except (UsageError, NameError, TypeError) as error:  # the author's mistake, not the user's
        raise PluginError(str(error)) from error
    return {
        name: dataclasses.replace(option, range=option.range or _declared_range(metadata[name]))
        for name, option in found.items()
    }


def values(cls: type, prefix: str, given: Mapping[str, object]) -> dict[str, object]:
    """Return the constructor's arguments: text read as each field's type, ranges checked.

    `prefix` is the plugin's name in messages. Raises UsageError for an unknown, missing, unreadable or out-of-range
    option.
    """
    known = options_of(cls)
    for name in given:
        if name not in known:
            raise UsageError(f"{prefix} has no option '{name}'{did_you_mean(name, known)}")
    missing = [name for name, option in known.items() if option.default is dataclasses.MISSING and name not in given]
    if missing:
        raise UsageError(f"{prefix} needs {', '.join(f'{prefix}.{name}=' for name in missing)}")
    return {name: _read(known[name], value, f"{prefix}.{name}") for name, value in given.items()}


def _read(option: Option, value: object, name: str) -> object:
    read = options.within(options.convert(value, option.annotation, name), option.range, name)
    if isinstance(read, float) and math.isnan(read):
        raise UsageError(f"{name}=nan is not a number")
    return read


def _metadata(cls: type) -> dict[str, Mapping[Any, Any]]:
    return {field.name: field.metadata for field in dataclasses.fields(cls)}


def _declared_range(metadata: Mapping[Any, Any]) -> Range | None:
    declared = metadata.get("range")
    return None if declared is None else Range(declared[0], declared[1])


def _comments(cls: type) -> dict[str, str]:
    """Return the comment that ends each field's line, those of base classes included."""
    found: dict[str, str] = {}
    for each in cls.__mro__:
        for line in _source(each) if dataclasses.is_dataclass(each) else ():
            name, separator, rest = line.strip().partition(":")
            if separator and name.isidentifier():
                found.setdefault(name, _comment(rest))
    return found


def _source(cls: type) -> list[str]:
    try:
        return inspect.getsource(cls).splitlines()
    except (OSError, TypeError):
        return []


def _comment(text: str) -> str:
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, IndentationError):
        return ""
    return next((token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT), "")
