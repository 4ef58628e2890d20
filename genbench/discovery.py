"""Finding plugins: entry points in installed metadata -> checked classes -> objects built from the run's options.

Listing reads metadata only; a plugin's module is imported when a run names it, and what is wrong with one plugin
stops only that run. A word that names a plugin is one of

    halo                    an entry point of that name
    genbench-halo:halo      the same, from one distribution (where two ship the name)
    ./halo.py:Halo          a class in a file; `:Halo` may be left out where the file has one plugin

`GENBENCH_LOAD_PLUGINS` limits what is seen: a comma list of distributions or plugin names, empty for none.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path

from genbench import kinds, pluginfile
from genbench.errors import GenbenchError, MissingDependency, PluginError, UsageError, did_you_mean
from genbench.kinds import GROUPS, RUN_KINDS, About, Kind

INSTALLED = "*.*-info/entry_points.txt"
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in GROUPS}


@dataclass(frozen=True, order=True)
class Entry:
    """One installed entry point, read from metadata; `value` is `module:Class`."""

    name: str
    kind: str
    group: str
    value: str
    distribution: str
    version: str

    @property
    def label(self) -> str:
        """`plugin 'halo' (genbench-halo 0.1)`: how errors name it."""
        return f"plugin '{self.name}' ({self.distribution} {self.version})"


@dataclass(frozen=True)
class Loaded:
    """A checked plugin class, the kinds it is of, and where it came from (`entry` is None for a file)."""

    name: str
    cls: type
    kinds: tuple[str, ...]
    entry: Entry | None = None

    @property
    def about(self) -> About:
        return self.cls.about  # type: ignore[attr-defined]  # checked on loading


@dataclass(frozen=True)
class Plugin:
    """A plugin built from its options; one object, however many kinds it is of."""

    name: str
    object: object
    kinds: tuple[str, ...]
    entry: Entry | None = None

    @property
    def about(self) -> About:
        return self.object.about  # type: ignore[attr-defined]  # checked on loading

    @property
    def recommended(self) -> Mapping[str, object]:
        """Request fields that this plugin brings (a one-step student brings steps=1), empty for most."""
        return getattr(self.object, "recommended", {})

    @property
    def fingerprint(self) -> str:
        """Hash of the code and data that the plugin's class comes from, see `fingerprint`, and what its own `version()`
        says where it has one: weights that lie elsewhere. Raises ModelError where those are not to be had.
        """
        own: Callable[[], str] | None = getattr(self.object, "version", None)
        code = fingerprint(type(self.object))
        return code if own is None else f"{code} {own()}"


@cache
def fingerprint(cls: type) -> str:
    """Hash, 12 hex digits, of every file in the class's package: code and shipped weights. A version number stays the
    same while a checkout changes or weights are trained anew; this does not. Of a module alone, and of genbench's own
    modules, the one file.
    """
    module = sys.modules[cls.__module__]
    file = Path(module.__file__ or "")
    package = sys.modules[cls.__module__.partition(".")[0]]
    alone = package.__name__ == "genbench" or not hasattr(package, "__path__")
    root = file if alone else Path(next(iter(package.__path__)))
    files = [root] if alone else sorted(path for path in root.rglob("*") if _counts(path.relative_to(root), path))
    lines = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _counts(inside: Path, path: Path) -> bool:
    return path.is_file() and "__pycache__" not in inside.parts


# --- metadata only ------------------------------------------------------------------------------------------------


def entries(kind: str | None = None) -> tuple[Entry, ...]:
    """Return the installed plugins (of one kind), sorted by name; imports none of them."""
    return tuple(entry for entry in _installed(_state()) if kind in (None, entry.kind) and _allowed(entry))


@lru_cache(maxsize=1)
def _installed(state: object) -> tuple[Entry, ...]:
    """Read the metadata of every distribution, which takes a tenth of a second; `state` says when to read it again."""
    points = metadata.entry_points()
    return tuple(sorted({_entry(point, kind) for kind in GROUPS for point in points.select(group=kind.group)}))


def _state() -> tuple[object, ...]:
    """Return what changes when something is installed, upgraded or removed, in this process too."""
    folders = [Path(place) for place in sys.path if Path(place).is_dir()]
    return (metadata.entry_points, *(_stamp(file) for folder in folders for file in folder.glob(INSTALLED)))


def _stamp(file: Path) -> tuple[object, ...]:
    try:
        told = file.stat()
    except OSError:  # removed meanwhile
        return (str(file),)
    return (str(file), told.st_mtime_ns, told.st_size)


def _entry(point: metadata.EntryPoint, kind: Kind) -> Entry:
    name, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "?")
    return Entry(point.name, kind.name, kind.group, point.value, name, version)


def _allowed(entry: Entry) -> bool:
    listed = os.environ.get("GENBENCH_LOAD_PLUGINS")
    if listed is None:
        return True
    words = {canonical(word) for word in listed.split(",") if word.strip()}
    return bool(words & {canonical(entry.distribution), canonical(entry.name)})


def canonical(distribution: str) -> str:
    """Return a distribution's name in PyPI's normal form (PEP 503), so that `Genbench_Halo` is `genbench-halo`."""
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


def short_name(word: str) -> str:
    """Return the prefix of a plugin's options: the name; for a file the class in lower_case, else the file's stem."""
    if pluginfile.is_file(word):
        return pluginfile.option_name(word)
    return word.rpartition(":")[2]


def find(word: str, kinds: Sequence[str] = RUN_KINDS) -> Entry:
    """Return the entry that `word` names among these kinds; imports nothing.

    Raises PluginError where none exists (with the nearest name) or two distributions ship it (with how to pick).
    """
    return matches(word, kinds)[0]


def matches(word: str, kinds: Sequence[str] = RUN_KINDS) -> tuple[Entry, ...]:
    """Return every entry of the one class that `word` names: one per kind. Raises as `find`."""
    distribution, _, name = word.rpartition(":")
    same = [entry for entry in entries() if entry.name == name and _from(entry, distribution)]
    found = tuple(entry for entry in same if entry.kind in kinds)
    if not found:
        raise _unknown(word, same, kinds)
    if len({entry.distribution for entry in found}) > 1:
        raise PluginError(_clash(name, found))
    if len({entry.value for entry in found}) > 1:
        values = ", ".join(sorted({entry.value for entry in found}))
        raise PluginError(f"{found[0].label} names several classes: {values}; its author has to rename one")
    return found


def _from(entry: Entry, distribution: str) -> bool:
    return not distribution or canonical(entry.distribution) == canonical(distribution)


def _clash(name: str, found: Iterable[Entry]) -> str:
    ships = {entry.distribution: entry.kind for entry in sorted(found, key=lambda entry: entry.distribution)}
    both = " and ".join(f"{distribution} (a {kind})" for distribution, kind in ships.items())
    return f"two distributions ship '{name}': {both}; pick one: {' or '.join(f'{d}:{name}' for d in ships)}"


CHOSEN_BY: Mapping[str, str] = {
    "source": "model=", "scorer": "verifier=", "encoder": "encoder=", "metric": "metrics=",
    "trainer": "genbench train plugin=",
} | dict.fromkeys(RUN_KINDS, "plugin=")  # fmt: skip


def _unknown(word: str, elsewhere: Sequence[Entry], wanted: Sequence[str]) -> PluginError:
    what = " or ".join(wanted) if len(wanted) < 3 else "plugin"
    if elsewhere:
        entry = elsewhere[0]
        return PluginError(f"{entry.label} is a {entry.kind}, not a {what}; use {CHOSEN_BY[entry.kind]}{word}")
    known = {entry.name for entry in entries() if entry.kind in wanted}
    limit = os.environ.get("GENBENCH_LOAD_PLUGINS")
    note = f" (GENBENCH_LOAD_PLUGINS={limit!r} limits what is seen)" if limit is not None else ""
    return PluginError(f"no {what} '{word}'{did_you_mean(word, known)}{note}; see `genbench plugins`")


# --- classes ------------------------------------------------------------------------------------------------------


def plugin_class(word: str, kinds: Sequence[str] = RUN_KINDS) -> Loaded:
    """Import and check the class that `word` names: an installed plugin or a class in a file."""
    if pluginfile.is_file(word):
        cls = pluginfile.load(word, kinds)
        return Loaded(short_name(word), cls, tuple(k for k in pluginfile.kinds_of(cls) if k in kinds))
    found = matches(word, kinds)
    return Loaded(found[0].name, load_class(*found), tuple(entry.kind for entry in found), found[0])


def load_class(entry: Entry, *more: Entry) -> type:
    """Import an entry's class and check it for its kind (and those of `more` entries of the same class).

    Raises PluginError with the one line that a user needs: what failed in whose plugin and what to do.
    """
    cls = _imported(entry)
    for each in (entry, *more):
        check_class(cls, each.kind, each.label, each.distribution)
    return cls


def _imported(entry: Entry) -> type:
    module, _, attribute = entry.value.partition(":")
    try:
        found: object = importlib.import_module(module)
        for part in attribute.split(".") if attribute else ():
            found = getattr(found, part)
    except GenbenchError:
        raise
    except ModuleNotFoundError as error:
        raise _missing(entry, error) from error
    except SyntaxError as error:
        raise PluginError(f"{entry.label} does not parse: {error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:  # a plugin's module may raise anything
        raise PluginError(f"{entry.label} could not be imported: {one_line(error)}") from error
    if not isinstance(found, type):
        raise PluginError(f"{entry.label} names {entry.value}, which is no class; its author has to point at a class")
    return found


def _missing(entry: Entry, error: ModuleNotFoundError) -> GenbenchError:
    package = (error.name or "").partition(".")[0]
    if package == entry.value.partition(":")[0].partition(".")[0]:
        return PluginError(f"{entry.label} is broken: {one_line(error)}; reinstall {entry.distribution}")
    return MissingDependency(f"{entry.label} needs the package '{package}': pip install {package}")


def check_class(cls: type, kind: str, label: str, upgrade: str) -> None:
    """Check that a class keeps the contract of its kind: frozen dataclass, `about`, contract version, methods."""
    about = getattr(cls, "about", None)
    if not isinstance(about, About):
        raise PluginError(f"{label} has no `about: ClassVar[About]`; {cls.__name__} has to say what it is")
    _check_contract(about.contract, label, upgrade)
    parameters = getattr(cls, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise PluginError(f"{label}: {cls.__name__} is no frozen dataclass; write @dataclass(frozen=True) above it")
    missing = [name for name in pluginfile.methods(kind) if not callable(getattr(cls, name, None))]
    if missing:
        raise PluginError(f"{label} is no {kind}: {cls.__name__} lacks {', '.join(f'{m}()' for m in missing)}")


def _check_contract(asked: int, label: str, upgrade: str) -> None:
    if asked == kinds.CONTRACT:
        return
    newer = "genbench" if asked > kinds.CONTRACT else upgrade
    raise PluginError(f"{label} is written for contract {asked}, this genbench has {kinds.CONTRACT}: upgrade {newer}")


def one_line(error: BaseException) -> str:
    """Return `Type: first line` of an error."""
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0]}" if first else type(error).__name__


# --- objects ------------------------------------------------------------------------------------------------------


def build(word: str, options: Mapping[str, object] | None = None, kinds: Sequence[str] = RUN_KINDS) -> Plugin:
    """Find, import, check and build a plugin; text values are read as their field's type.

    Raises PluginError for a plugin's faults, UsageError for an option that does not exist or is out of range.
    """
    loaded = plugin_class(word, kinds)
    return Plugin(loaded.name, construct(loaded, options or {}), loaded.kinds, loaded.entry)


def construct(loaded: Loaded, options: Mapping[str, object]) -> object:
    """Build a loaded plugin's object; `__post_init__` may refuse with a ValueError, which becomes one line."""
    from genbench import fields

    values = fields.values(loaded.cls, loaded.name, options)
    try:
        return loaded.cls(**values)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{loaded.name}: {str(error).strip().splitlines()[0]}") from error
