"""`key=value` words and their types: text, TOML, JSON and Python values all become typed values here.

Which options exist is said by the fields of a frozen dataclass; `Annotated[float, Range(0, 1)]` carries a range that
is checked and shown. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from genbench.errors import UsageError, did_you_mean

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_INT, _SURROGATE = re.compile(r"[+-]?[0-9]+"), re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both inclusive unless `low_open`; None leaves a side open. nan and inf are never inside."""

    low: float | None = None
    high: float | None = None
    low_open: bool = False

    def __contains__(self, value: float) -> bool:
        finite = not isinstance(value, float) or math.isfinite(value)
        above = self.low is None or (value > self.low if self.low_open else value >= self.low)
        return finite and above and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.high is None:
            over = "above" if self.low_open else "at least"
            return "a finite number" if self.low is None else f"{over} {self.low}"
        if self.low is None:
            return f"at most {self.high}"
        return f"in {'(' if self.low_open else '['}{self.low}, {self.high}]"


@dataclass(frozen=True)
class Option:
    """One field as a user meets it. `annotation` is its full type; `default` is `dataclasses.MISSING` if required."""

    name: str
    annotation: Any
    type: str
    range: Range | None
    default: Any


def options(cls: type) -> dict[str, Option]:
    """List the options of a frozen dataclass in the order of its fields (fields with init=False are none).

    Raises UsageError where a type cannot be read (a name that is only imported for type checkers).
    """
    try:
        hints = get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise UsageError(f"the option types of {cls.__name__} cannot be read: {error}; import what they name") from None
    return {field.name: _option(field, hints[field.name]) for field in dataclasses.fields(cls) if field.init}


def _option(field: dataclasses.Field[Any], hint: Any) -> Option:
    factory = field.default_factory
    default = field.default if factory is dataclasses.MISSING else factory()
    return Option(field.name, hint, type_name(hint), range_of(hint), default)


# --- words --------------------------------------------------------------------------------------------------------


def parse_words(argv: Sequence[str]) -> dict[str, str]:
    """Split `key=value` arguments at their first `=`; the value is everything after it, literally.

    Raises UsageError for a word without `=`, a key given twice, or bytes that are not UTF-8.
    """
    words: dict[str, str] = {}
    for word in argv:
        key, equals, value = check_utf8(word).partition("=")
        if not equals or not key:
            raise UsageError(f"'{short(word)}' is no key=value word; a prompt is given as prompt=\"{short(word)}\"")
        if key in words:
            raise UsageError(f"{key}= is given twice; keep one")
        words[key] = value
    return words


def split_flags(argv: Sequence[str], known: Iterable[str]) -> tuple[frozenset[str], list[str]]:
    """Separate `--flags` from words. Raises UsageError with a did-you-mean for a flag that is not `known`."""
    known = tuple(known)
    flags = [word for word in argv if word.startswith("-") and "=" not in word]
    for flag in flags:
        if flag not in known:
            raise UsageError(f"there is no flag {short(flag)}{did_you_mean(flag, known)}")
    return frozenset(flags), [word for word in argv if word not in flags]


def check_utf8(word: str) -> str:
    """Return the word, or raise UsageError that names it and its first byte that is not UTF-8."""
    found = _SURROGATE.search(word)
    if found is None:
        return word
    shown = short(word.encode("utf-8", "backslashreplace").decode())
    raise UsageError(f"'{shown}' is not UTF-8 at character {found.start()}; type or paste it as UTF-8 text")


def short(text: str) -> str:
    """Return the text as it fits into a one-line message: no newlines, at most 60 characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= 60 else flat[:57] + "..."


# --- types --------------------------------------------------------------------------------------------------------


def coerce(text: str, annotation: Any, name: str) -> Any:
    """Turn text into a value of the annotated type. Raises UsageError that names the option, its type and the text.

    Booleans are true/false/yes/no/on/off/1/0; `none` is None where the type allows it; lists are comma-separated.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return within(coerce(text, args[0], name), range_of(annotation), name)
    if origin in (Union, types.UnionType):
        if type(None) in args and text.lower() == "none":
            return None
        return _first(text, args, name)
    if origin is Literal:
        return _choice(text, args, name)
    if _is_sequence(annotation):
        return _sequence([part.strip() for part in text.split(",") if part.strip()], annotation, name)
    if annotation in _READERS:
        return _READERS[annotation](text, name)
    raise UsageError(f"{name} cannot be given as text: its type is {type_name(annotation)}")


def convert(value: object, annotation: Any, name: str) -> Any:
    """Like `coerce` for a value from Python, TOML or JSON: text is read as on the command line, the rest is checked."""
    origin, args = get_origin(annotation), get_args(annotation)
    if isinstance(value, str):
        return coerce(check_utf8(value), annotation, name)
    if origin is Annotated:
        return within(convert(value, args[0], name), range_of(annotation), name)
    if origin in (Union, types.UnionType):
        return None if value is None and type(None) in args else _first(value, args, name)
    if origin is Literal and value in args:
        return value
    if _is_sequence(annotation) and isinstance(value, (list, tuple, range)):
        return _sequence(cast(Sequence[object], value), annotation, name)
    if annotation is float and _is_number(value):
        return float(value)  # pyright: ignore[reportArgumentType]  # _is_number says so
    if isinstance(annotation, type) and isinstance(value, annotation) and _same_truth(value, annotation):
        return value
    raise UsageError(f"{name}={short(repr(value))} is not {_article(type_name(annotation))}")


def within(value: Any, bounds: Range | None, name: str) -> Any:
    """Return the value, or raise UsageError where it is a number outside the bounds; None has none."""
    if bounds is not None and _is_number(value) and value not in bounds:
        raise UsageError(f"{name}={short(str(value))} is out of range: it is {bounds}")
    return value


def range_of(annotation: Any) -> Range | None:
    """Return the Range that an annotation carries, also inside `X | None` or a list."""
    own = [part for part in getattr(annotation, "__metadata__", ()) if isinstance(part, Range)]
    inner = () if get_origin(annotation) is Literal else get_args(annotation)
    found = own + [part for part in map(range_of, inner) if part is not None]
    return found[0] if found else None


def type_name(annotation: Any) -> str:
    """Return the type as a user reads it: `whole number`, `number or none`, `a | b`, `list of text`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(args[0])
    if origin is Literal:
        return " | ".join(str(choice) for choice in args)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if part is type(None) else type_name(part) for part in args)
    if _is_sequence(annotation):
        return f"list of {type_name(args[0])}" if args else "list"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _is_sequence(annotation: Any) -> bool:
    return (get_origin(annotation) or annotation) in (tuple, list, Sequence)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same_truth(value: object, annotation: Any) -> bool:
    return annotation in (bool, object) or not isinstance(value, bool)


def _article(kind: str) -> str:
    return ("one of " if " | " in kind else "an " if kind[0] in "aeiou" else "a ") + kind


def _first(value: object, kinds: Sequence[Any], name: str) -> Any:
    """Convert to the first type of a union that takes the value; the last one's error is shown."""
    *others, last = [kind for kind in kinds if kind is not type(None)]
    for kind in others:
        try:
            return convert(value, kind, name)
        except UsageError:
            continue
    return convert(value, last, name)


def _choice(text: str, choices: tuple[Any, ...], name: str) -> Any:
    for choice in choices:
        if str(choice).lower() == text.lower():
            return choice
    raise UsageError(f"{name}={short(text)}: it is one of {', '.join(map(str, choices))}")


def _sequence(parts: Sequence[object], annotation: Any, name: str) -> Any:
    origin, args = get_origin(annotation) or annotation, get_args(annotation)
    fixed = origin is tuple and bool(args) and args[-1] is not Ellipsis
    if fixed and len(parts) != len(args):
        raise UsageError(f"{name} takes {len(args)} values, got {len(parts)}")
    kinds = args if fixed else [args[0] if args else str] * len(parts)
    values = [convert(part, kind, name) for part, kind in zip(parts, kinds, strict=True)]
    return values if origin is list else tuple(values)


def _read_bool(text: str, name: str) -> bool:
    if text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    raise UsageError(f"{name}={short(text)} is neither true nor false")


def _read_int(text: str, name: str) -> int:
    if _INT.fullmatch(text) and len(text) < 1000:
        return int(text)
    raise UsageError(f"{name}={short(text)} is not a whole number")


def _read_float(text: str, name: str) -> float:
    try:
        return float(text.replace("_", "?"))
    except ValueError:
        raise UsageError(f"{name}={short(text)} is not a number") from None


_READERS: Mapping[Any, Callable[[str, str], Any]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: lambda text, name: text,
    Path: lambda text, name: Path(text),
}
_NAMES = {int: "whole number", float: "number", str: "text", bool: "true | false", Path: "path"}
