"""A plugin's options, read off its dataclass fields: type, range, default and one line of help each.

An option is a field. `field(default=1.0, metadata={"range": (0.0, 2.0), "help": "strength of the halo"})` declares
its range (inclusive; None for an open end) and its help; without `help` the comment after the field is taken.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import textwrap
import tokenize
import typing
from collections.abc import Mapping
from dataclasses import dataclass

from genbench.errors import PluginError, UsageError, did_you_mean

Range = tuple[float | None, float | None]


@dataclass(frozen=True)
class Option:
    """One option of a plugin. `default` is `dataclasses.MISSING` where a value has to be given."""

    name: str
    annotation: object
    default: object
    range: Range | None = None
    help: str = ""

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def type_name(self) -> str:
        """The type as a reader writes it: `float`, `str | None`, `tuple[int, ...]`."""
        plain = isinstance(self.annotation, type) and not typing.get_args(self.annotation)
        return self.annotation.__name__ if plain else str(self.annotation).replace("typing.", "")  # type: ignore

    @property
    def range_text(self) -> str:
        """`[0, 2]`, `[1, inf)`, or empty."""
        if self.range is None:
            return ""
        low, high = self.range
        return f"{'(-inf' if low is None else f'[{low:g}'}, {'inf)' if high is None else f'{high:g}]'}"


def options_of(cls: type) -> tuple[Option, ...]:
    """Return a plugin class's options in the order of its fields.

    Raises PluginError where a field's annotation cannot be resolved (its type is imported under TYPE_CHECKING only).
    """
    types, comments = _annotations(cls), _comments(cls)
    return tuple(
        Option(f.name, types[f.name], _default(f), _range(f), str(f.metadata.get("help", comments.get(f.name, ""))))
        for f in dataclasses.fields(cls)
        if f.init
    )


def values(cls: type, prefix: str, given: Mapping[str, object]) -> dict[str, object]:
    """Return the constructor's arguments: text read as each field's type, ranges checked.

    `prefix` is the plugin's name in messages. Raises UsageError for an unknown, missing or out-of-range option.
    """
    known = {option.name: option for option in options_of(cls)}
    for name in given:
        if name not in known:
            raise UsageError(f"{prefix} has no option '{name}'{did_you_mean(name, known)}")
    for option in known.values():
        if option.required and option.name not in given:
            raise UsageError(f"{prefix}.{option.name}= has to be given{f': {option.help}' if option.help else ''}")
    read = {name: _read(known[name], prefix, value) for name, value in given.items()}
    return {name: _within(known[name], prefix, value) for name, value in read.items()}


def _read(option: Option, prefix: str, value: object) -> object:
    from genbench.options import coerce

    return coerce(value, option.annotation, f"{prefix}.{option.name}") if isinstance(value, str) else value


def _within(option: Option, prefix: str, value: object) -> object:
    if option.range is None or not isinstance(value, (int, float)):
        return value
    low, high = option.range
    inside = (low is None or value >= low) and (high is None or value <= high)
    if not inside:  # also NaN, which compares false
        raise UsageError(f"{prefix}.{option.name}={value} is outside {option.range_text}")
    return value


def _default(f: dataclasses.Field[object]) -> object:
    if f.default_factory is not dataclasses.MISSING:
        return f.default_factory()
    return f.default


def _range(f: dataclasses.Field[object]) -> Range | None:
    declared = f.metadata.get("range")
    return None if declared is None else (declared[0], declared[1])


def _annotations(cls: type) -> Mapping[str, object]:
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError) as error:
        raise PluginError(f"{cls.__name__}: a field's type cannot be resolved: {error}; import it at run time") from error


def _comments(cls: type) -> dict[str, str]:
    """Return the comment that follows each field's line, or stands alone on the line before."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return {}
    found: dict[str, str] = {}
    for line in source.splitlines():
        name, separator, rest = line.strip().partition(":")
        comment = _comment(rest) if separator and name.isidentifier() else ""
        if comment:
            found[name] = comment
    return found


def _comment(text: str) -> str:
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, IndentationError):
        return ""
    return next((t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT), "")
