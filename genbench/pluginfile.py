"""Plugins in a file, `./halo.py:Halo`: the class is loaded from its path, and its methods say its kinds."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from genbench.errors import GenbenchError, MissingDependency, PluginError, did_you_mean
from genbench.kinds import GROUPS, PROTOCOLS, About


def methods(kind: str) -> tuple[str, ...]:
    """Return the method names that make a class a plugin of this kind, as its protocol declares them."""
    members = vars(PROTOCOLS[kind])
    return tuple(name for name, value in members.items() if inspect.isfunction(value) and not name.startswith("_"))


def kinds_of(cls: type) -> tuple[str, ...]:
    """Return the kinds whose every method a class has, in the order of `GROUPS`."""
    return tuple(k.name for k in GROUPS if all(callable(getattr(cls, name, None)) for name in methods(k.name)))


def is_file(word: str) -> bool:
    """Say whether a plugin word is `file.py` or `file.py:Class`."""
    return _split(word)[0].endswith(".py")


def option_name(word: str) -> str:
    """Return the prefix of a file plugin's options: `BestOf` -> `best_of`; without a class the file's stem."""
    path, name = _split(word)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower() if name else Path(path).stem


def load(word: str, kinds: Sequence[str]) -> type:
    """Load the class that `./file.py:Class` names, or the one plugin class in `./file.py`, and check it.

    Raises PluginError in one line: no such file, does not parse (with file:line), no such class, or no plugin.
    """
    from genbench import discovery

    path, name = _split(word)
    module = _module(Path(path).expanduser())
    cls = _class(module, name, path) if name else _only_plugin(module, path, kinds)
    found = [kind for kind in kinds_of(cls) if kind in kinds]
    if not found:
        raise PluginError(_no_kind(cls, path, kinds))
    discovery.check_class(cls, found[0], f"{path}:{cls.__name__}", path)
    return cls


def _split(word: str) -> tuple[str, str]:
    head, separator, tail = word.rpartition(":")
    return (head, tail) if separator and head.endswith(".py") else (word, "")


def _module(path: Path) -> ModuleType:
    """Run the file as a module of its own; the same content is loaded once per process."""
    if not path.is_file():
        raise PluginError(f"plugin file '{path}' does not exist; its path is relative to {Path.cwd().name}/")
    source = path.read_bytes()
    name = f"genbench_file_{path.stem}_{hashlib.sha256(str(path.resolve()).encode() + source).hexdigest()[:12]}"
    if name not in sys.modules:
        sys.modules[name] = _executed(name, path, source)
    return sys.modules[name]


def _executed(name: str, path: Path, source: bytes) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = str(path.resolve())
    sys.modules[name] = module  # dataclasses look their module up while the class is made
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except BaseException as error:
        del sys.modules[name]
        raise _explained(path, error) from error
    return module


def _explained(path: Path, error: BaseException) -> BaseException:
    if isinstance(error, GenbenchError) or not isinstance(error, Exception):
        return error
    if isinstance(error, SyntaxError):
        return PluginError(f"{path}:{error.lineno}: {error.msg}")
    if isinstance(error, ModuleNotFoundError):
        return MissingDependency(f"{path} needs the package '{error.name}': pip install {error.name}")
    first = (str(error).strip().splitlines() or [""])[0]
    return PluginError(f"{path}:{_line(error, path)}: {type(error).__name__}: {first}")


def _line(error: Exception, path: Path) -> int:
    frame, line = error.__traceback__, 0
    while frame is not None:
        line = frame.tb_lineno if frame.tb_frame.f_code.co_filename == str(path) else line
        frame = frame.tb_next
    return line


def _class(module: ModuleType, name: str, path: str) -> type:
    found = getattr(module, name, None)
    if not isinstance(found, type):
        raise PluginError(f"{path} has no class '{name}'{did_you_mean(name, _own_classes(module))}")
    return found


def _own_classes(module: ModuleType) -> dict[str, type]:
    return {n: v for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__}


def _only_plugin(module: ModuleType, path: str, kinds: Sequence[str]) -> type:
    own = _own_classes(module).values()
    plugins = [cls for cls in own if isinstance(getattr(cls, "about", None), About)]
    plugins = plugins or [cls for cls in own if set(kinds_of(cls)) & set(kinds)]
    if len(plugins) == 1:
        return plugins[0]
    if not plugins:
        raise PluginError(f"{path} has no plugin class: a frozen dataclass with `about` and the method of a kind")
    names = ", ".join(f"{path}:{cls.__name__}" for cls in plugins)
    raise PluginError(f"{path} has {len(plugins)} plugin classes; name one: {names}")


def _no_kind(cls: type, path: str, kinds: Sequence[str]) -> str:
    known = kinds_of(cls)
    if known:
        return f"{path}:{cls.__name__} is a {known[0]}, which is not what was asked for: {' or '.join(kinds)}"
    wanted = ", ".join(f"{'() and '.join(methods(kind))}() ({kind})" for kind in kinds)
    return f"{path}:{cls.__name__} has the method of no kind: {wanted}"
