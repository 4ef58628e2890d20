"""What an installed plugin is, in one sentence: the first of its class's docstring, else what its `about` says.

Read from the source; imports nothing.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

MOST_HOPS = 5
"""How often a name may be imported from elsewhere before its class stands there."""
_SENTENCE = re.compile(r"(.+?\.)(?=\s|$)", re.DOTALL)


def summary(value: str) -> str:
    """Return the first sentence on the class that `module:Class` names, on one line; empty where none can be read."""
    module, _, name = value.partition(":")
    return first_sentence(_docstring(module, name.strip(), MOST_HOPS))


def first_sentence(docstring: str) -> str:
    """Return the first sentence of a docstring, all of its first paragraph where that has none."""
    paragraph = " ".join(docstring.strip().partition("\n\n")[0].split())
    found = _SENTENCE.match(paragraph)
    return found[1] if found else paragraph


def _docstring(module: str, name: str, hops: int) -> str:
    tree = _parsed(module)
    for node in tree.body if tree and hops else ():
        if isinstance(node, ast.ClassDef) and node.name == name:
            return ast.get_docstring(node) or _about(node)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _docstring(_absolute(node, module), alias.name, hops - 1)
    return ""


def _about(node: ast.ClassDef) -> str:
    """Return the text that `about = About("...")` begins with, or its `summary=`."""
    values = [
        each.value for each in node.body if isinstance(each, ast.Assign | ast.AnnAssign) and _names(each, "about")
    ]
    for call in (value for value in values if isinstance(value, ast.Call)):
        named = [keyword.value for keyword in call.keywords if keyword.arg == "summary"]
        for text in (*call.args[:1], *named):
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                return text.value
    return ""


def _names(node: ast.Assign | ast.AnnAssign, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    source = _source(module)
    above = module.split(".") if source and source.name == "__init__.py" else module.split(".")[:-1]
    return ".".join([*above[: len(above) - node.level + 1], *([node.module] if node.module else [])])


@cache
def _parsed(module: str) -> ast.Module | None:
    source = _source(module)
    try:
        return ast.parse(source.read_bytes()) if source else None
    except (OSError, SyntaxError, ValueError):
        return None


def _source(module: str) -> Path | None:
    """Return a module's file. Only its top-level package is looked up; to look up what lies in it would import it."""
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not below and not spec.submodule_search_locations:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    return _first([Path(folder, *below) for folder in spec.submodule_search_locations or ()])


def _first(places: Sequence[Path]) -> Path | None:
    files = [file for place in places for file in (place / "__init__.py", place.with_suffix(".py"))]
    return next((file for file in files if file.is_file()), None)
