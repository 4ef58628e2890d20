"""`genbench new-plugin NAME kind=...`: writes a small installable package around a working plugin.

What is written stands in `genbench/templates`: one module per kind, with `Newname` and `newname` in place of names.
"""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from genbench import __version__, discovery, options
from genbench.discovery import KINDS
from genbench.errors import UsageError, did_you_mean

HELP = f"""\
genbench new-plugin NAME kind=KIND [out=FOLDER]

  writes the folder genbench-NAME (or out=FOLDER): a plugin that works and its test, to be changed into yours
  kinds: {", ".join(KINDS)}
"""
COMMANDS: Mapping[str, str] = {
    "source": 'genbench run model=newname prompt="red"',
    "search": 'genbench run model=toy plugin=newname verifier=toy prompt="red"',
    "scorer": 'genbench run model=toy plugin=search verifier=newname prompt="red"',
    **dict.fromkeys(("model", "noise", "sampler", "step"), 'genbench run model=toy plugin=newname prompt="red"'),
}
"""The command that tries a plugin of a kind; the others are used from Python or by the verb of their kind."""


def write(name: str, kind: str, folder: Path | None = None) -> tuple[Path, ...]:
    """Write the package of a new plugin and return its files, the module first.

    Raises UsageError where the name is no name or taken, the kind unknown, or the folder exists.
    """
    _check(name, kind)
    target = folder or Path(f"genbench-{name}")
    if target.exists():
        raise UsageError(f"'{target}' exists and is not written over; give out=FOLDER or another name")
    made = {target / path: text for path, text in contents(name, kind).items()}
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tuple(made)


def contents(name: str, kind: str) -> dict[str, str]:
    """Return the package as {path: text}."""
    module = module_name(name)
    texts = {
        f"{module}.py": _template(f"{kind}.py"),
        f"tests/test_{module.removeprefix('genbench_')}.py": _template("test_newname.py.in"),
        "pyproject.toml": _template("pyproject.toml.in"),
        "README.md": _template("README.md.in"),
    }
    return {path: _filled(text, name, kind) for path, text in texts.items()}


def module_name(name: str) -> str:
    """`best-of` -> `genbench_best_of`."""
    return f"genbench_{name.replace('-', '_')}"


def class_name(name: str) -> str:
    """`best-of` -> `BestOf`."""
    return "".join(part.capitalize() for part in re.split("[-_]", name))


def _template(name: str) -> str:
    return files("genbench").joinpath("templates", name).read_text(encoding="utf-8")


def _filled(text: str, name: str, kind: str) -> str:
    lines = [line for line in text.splitlines(keepends=True) if "@command@" not in line or kind in COMMANDS]
    replaced = {
        "@command@": COMMANDS.get(kind, ""),
        "@kind@": kind,
        "@law@": KINDS[kind].law,
        "@version@": ".".join(__version__.split(".")[:2]) if __version__[0].isdigit() else "0.1",
        "newname_module": module_name(name),
        "Newname": class_name(name),
        "newname": name,
    }
    filled = "".join(lines)
    for old, new in replaced.items():
        filled = filled.replace(old, new)
    return filled


def _check(name: str, kind: str) -> None:
    if kind not in KINDS:
        raise UsageError(f"there is no kind '{kind}'{did_you_mean(kind, KINDS)}")
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or keyword.iskeyword(class_name(name)):
        raise UsageError(f"'{name}' is no plugin name: lower-case letters and digits, words joined by '-', as best-of")
    taken = [entry for entry in discovery.entries(kind) if entry.name == name]
    if taken:
        raise UsageError(f"{taken[0].distribution} has a {kind} '{name}' already; take another name")


def main(args: Sequence[str]) -> int:
    """Run `genbench new-plugin`; returns the exit code."""
    flags, rest = options.split_flags(args, ("--help", "-h"))
    if flags or not rest:
        sys.stdout.write(HELP)
        return 0 if flags else 2
    names = [word for word in rest if "=" not in word]
    words = options.parse_words([word for word in rest if "=" in word])
    unknown = [word for word in words if word not in ("kind", "out")]
    if unknown:
        raise UsageError(f"new-plugin has no '{unknown[0]}='{did_you_mean(unknown[0], ('kind', 'out'))}")
    if len(names) != 1 or "kind" not in words:
        raise UsageError(f"write: genbench new-plugin NAME kind=KIND, with a kind of {', '.join(KINDS)}")
    made = write(names[0], words["kind"], Path(words["out"]) if "out" in words else None)
    _say(names[0], words["kind"], made)
    return 0


def _say(name: str, kind: str, made: Sequence[Path]) -> None:
    folder = made[0].parent
    lines = [str(path) for path in made]
    lines += ["", "next:", f"  cd {folder}", "  pip install -e .", "  pytest", f"  genbench plugins {name}"]
    lines += [f"  {COMMANDS[kind].replace('newname', name)}"] if kind in COMMANDS else []
    sys.stdout.write("\n".join(lines) + "\n")
