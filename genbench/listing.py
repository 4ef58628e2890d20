"""`genbench plugins`: what is installed, what each plugin is and takes, and which are broken.

The table is read from installed metadata and imports nothing; `--check` is `genbench.plugincheck`.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from genbench import discovery, fields, options, pluginfile, summaries
from genbench.discovery import KINDS, Entry
from genbench.kinds import About

HELP = """\
genbench plugins [--check] [--json] [NAME ...]

  genbench plugins            name, kind and a line on every installed plugin, and what ships it; imports none
  genbench plugins NAME       its options with types, ranges and defaults, and how to cite it; also ./file.py:Class
  genbench plugins --check    import each in a process of its own: paper, licence, families, cost, or its error
  --json                      the same as JSON
"""
FLAGS = ("--check", "--json", "--help", "-h")
ALL_KINDS = tuple(KINDS)
LEAST = 12  # characters of a line that is worth cutting
Found = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One installed plugin class: an entry-point name of one distribution, with every kind it is of.

    `clash` says that another distribution ships the same name and kind.
    """

    name: str
    kinds: tuple[str, ...]
    version: str
    distribution: str
    value: str
    clash: bool = False

    @property
    def key(self) -> str:
        """A text that no other row has."""
        return f"{self.distribution}:{self.name}={self.value}"

    @property
    def summary(self) -> str:
        """What it is, in the first sentence of its docstring; empty where the source cannot be read."""
        return summaries.summary(self.value)

    @property
    def entries(self) -> tuple[Entry, ...]:
        key = (self.name, self.distribution, self.value)
        return tuple(entry for entry in discovery.entries() if (entry.name, entry.distribution, entry.value) == key)


# --- from metadata ------------------------------------------------------------------------------------------------


def rows(word: str | None = None) -> tuple[Row, ...]:
    """Return the installed plugins, or those that `word` names (`halo` or `genbench-halo:halo`), sorted by name."""
    every = discovery.entries()
    keys = sorted({(entry.name, entry.distribution, entry.value, entry.version) for entry in every})
    found = tuple(_row(every, *key) for key in keys)
    if word is None:
        return found
    distribution, _, name = word.rpartition(":")
    asked = discovery.canonical(distribution)
    return tuple(row for row in found if row.name == name and asked in ("", discovery.canonical(row.distribution)))


def _row(every: Sequence[Entry], name: str, distribution: str, value: str, version: str) -> Row:
    own = {each.kind for each in every if (each.name, each.distribution, each.value) == (name, distribution, value)}
    clash = any(entry.name == name and entry.kind in own and entry.distribution != distribution for entry in every)
    return Row(name, tuple(kind for kind in ALL_KINDS if kind in own), version, distribution, value, clash)


def table(found: Sequence[Row], width: int | None = None) -> str:
    """Return the rows as aligned columns, the last one what each plugin is, cut to `width` characters if given.

    What ships them is a column where it differs, else a line below. Clashes are marked with the word that picks one.
    """
    if not found:
        return "no plugin is installed"
    shipped = {(row.distribution, row.version) for row in found}
    lines = [("name", "kind", "version", "distribution")]
    lines += [(row.name, ", ".join(row.kinds), row.version, row.distribution + _clash(row)) for row in found]
    columns = aligned([line[:2] for line in lines] if len(shipped) == 1 else lines).splitlines()
    start = max(map(len, columns)) + 2
    told = ["what it is", *(cut(row.summary, None if width is None else width - start) for row in found)]
    listed = [f"{line.ljust(start)}{what}".rstrip() for line, what in zip(columns, told, strict=True)]
    return "\n".join([*listed, *(f"\nall from {name} {version}" for name, version in shipped if len(shipped) == 1)])


def cut(text: str, width: int | None) -> str:
    """Return a text's words as far as they fit; None: all, and nothing where there is no room for a word."""
    if width is None or len(text) <= width:
        return text
    return textwrap.shorten(text, width, placeholder=" …") if width >= LEAST else ""


def _clash(row: Row) -> str:
    return f"  (shipped twice; this one is {row.distribution}:{row.name})" if row.clash else ""


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of equal length as columns two spaces apart."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(line.rstrip() for line in padded)


# --- one plugin, imported -----------------------------------------------------------------------------------------


def describe(word: str) -> tuple[dict[str, Any], ...]:
    """Import what `word` names and return all that it says of itself: one description per class of that name.

    Raises PluginError where it is broken or unknown.
    """
    if pluginfile.is_file(word):
        loaded = discovery.plugin_class(word, ALL_KINDS)
        return (_description(loaded.name, loaded.kinds, loaded.cls, "(a file)", word),)
    found = rows(word)
    if not found:
        discovery.find(word, ALL_KINDS)
    return tuple(describe_row(row) for row in found)


def describe_row(row: Row) -> dict[str, Any]:
    """Import one installed class, check it for all its kinds and return what it says of itself."""
    cls = discovery.load_class(*row.entries)
    return _description(row.name, row.kinds, cls, row.version, row.distribution)


def _description(name: str, kinds: tuple[str, ...], cls: type, version: str, distribution: str) -> dict[str, Any]:
    about: About = cast(Any, cls).about  # checked on loading
    return {
        "name": name,
        "kinds": list(kinds),
        "version": version,
        "distribution": distribution,
        "class": f"{cls.__module__}:{cls.__qualname__}",
        "about": asdict(about),
        "options": [_option(each) for each in fields.described(cls)],
        "recommended": dict(getattr(cls, "recommended", {})),
    }


def _option(each: fields.Described) -> dict[str, Any]:
    option = each.option
    return {
        "name": option.name,
        "type": option.type,
        "range": None if option.range is None else str(option.range),
        "default": None if each.required else option.default,
        "required": each.required,
        "help": each.help,
    }


# --- text ---------------------------------------------------------------------------------------------------------


def page(found: Found) -> str:
    """Return a description as text: what it is, its options, how it composes, how to cite it."""
    about, name = cast(Found, found["about"]), found["name"]
    laws = [("" if i else "kind", f"{kind} ({KINDS[kind].law})") for i, kind in enumerate(found["kinds"])]
    neutral = {f"{name}.{key}": value for key, value in cast(Found, about["neutral"] or {}).items()}
    facts = [
        *laws,
        ("cost", about["cost"]),
        ("families", ", ".join(about["families"]) or "all"),
        ("predictions", ", ".join(about["prediction_types"]) or "all"),
        ("neutral", _words(neutral)),
        ("brings", _words(found["recommended"])),
        ("licence", about["license"]),
        ("paper", about["paper"]),
        ("", about["url"]),
    ]
    listed = [_option_line(name, option) for option in found["options"]]
    return "\n".join(
        [
            f"{name} {found['version']}, {found['distribution']}",
            about["summary"],
            "",
            aligned(listed) if listed else "  (no options)",
            "",
            *(f"{key:<12} {value}" for key, value in facts if value),
        ]
    )


def _option_line(name: str, option: Found) -> tuple[str, str, str, str]:
    default = "(required)" if option["required"] else f"= {shown(option['default'])}"
    return f"  {name}.{option['name']}", default, f"{option['type']} {option['range'] or ''}".strip(), option["help"]


def _words(values: Found) -> str:
    return " ".join(f"{key}={shown(value)}" for key, value in values.items())


def shown(value: object) -> str:
    """Return a value as it is typed on the command line."""
    if isinstance(value, (list, tuple)):
        return ",".join(shown(part) for part in cast(Sequence[object], value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def verdict(found: Found) -> str:
    """Return one paragraph on a checked plugin: what to cite, or its error."""
    title = f"{found['name']} ({', '.join(found['kinds'])}; {found['distribution']} {found['version']})"
    if "error" in found:
        return f"BROKEN  {title}\n        {found['error']}"
    about = found["about"]
    facts = [("paper", about["paper"]), ("licence", about["license"]), ("cost", about["cost"])]
    facts += [("families", ", ".join(about["families"]) or "all")]
    said = "; ".join(f"{key}: {value}" for key, value in facts if value)
    return f"ok      {title}\n        {about['summary']}\n        {said}"


# --- the verb -----------------------------------------------------------------------------------------------------


def main(args: Sequence[str]) -> int:
    """Run `genbench plugins`; returns the exit code (1 where `--check` found a broken plugin)."""
    flags, names = options.split_flags(args, FLAGS)
    if flags & {"--help", "-h"}:
        sys.stdout.write(HELP)
        return 0
    if "--check" in flags:
        return _check(names, "--json" in flags)
    if names:
        found = [each for name in names for each in describe(name)]
        return _print(found, "\n\n".join(page(each) for each in found), "--json" in flags)
    every = rows()
    listed = [{**asdict(row), "summary": row.summary} for row in every]
    return _print(listed, table(every, _width()), "--json" in flags)


def _width() -> int | None:
    """The terminal's width, or COLUMNS; None in a pipe."""
    return shutil.get_terminal_size((0, 0)).columns or None


def _check(names: Sequence[str], as_json: bool) -> int:
    from genbench import plugincheck

    for name in names:
        discovery.find(name, ALL_KINDS) if not rows(name) else None
    asked = rows() if not names else tuple(row for name in names for row in rows(name))
    found = plugincheck.check(asked)
    _print(found, "\n".join(verdict(each) for each in found) or table(()), as_json)
    return 1 if any("error" in each for each in found) else 0


def _print(found: Sequence[Found], text: str, as_json: bool) -> int:
    sys.stdout.write((json.dumps(list(found), indent=2, default=shown) if as_json else text) + "\n")
    return 0
