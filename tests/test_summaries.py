"""One sentence on a plugin, read from its source without importing it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from genbench import discovery, summaries

PACKAGE = {
    "__init__.py": "from .inner import Deep as Shown\nfrom far_away import Lost\nraise RuntimeError('imported')\n",
    "inner.py": "from summed.leaf import Leaf\nfrom summed.other import Deep\n",
    "leaf.py": "class Leaf:\n    'Said\\n    over two lines. And more.'\n",
    "other/__init__.py": "from ..leaf import Leaf as Deep\n",
    "silent.py": "class Positional:\n    about: ClassVar[About] = About('Glows. Much.')\n"
    "class Named:\n    about = About(summary='Named.')\nclass Nothing:\n    about = 1\n",
    "broken.py": "class (:\n",
    "circle.py": "from summed.circle import Round\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in PACKAGE.items():
        (tmp_path / "summed" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "summed" / name).write_text(source)
    (tmp_path / "alone.py").write_text('class One:\n    """A first paragraph without an end\n\n    More."""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    summaries._parsed.cache_clear()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("summed.leaf:Leaf", "Said over two lines."),
        ("summed:Shown", "Said over two lines."),
        ("summed.inner:Deep", "Said over two lines."),
        ("summed.silent:Positional", "Glows."),
        ("summed.silent:Named", "Named."),
        ("summed.silent:Nothing", ""),
        ("summed:Lost", ""),
        ("summed.broken:Class", ""),
        ("summed.circle:Round", ""),
        ("summed.absent:Class", ""),
        ("nowhere_at_all:Class", ""),
        ("alone:One", "A first paragraph without an end"),
    ],
)
def test_the_first_sentence_is_found_where_the_class_stands(value: str, says: str, package: None) -> None:
    assert summaries.summary(value) == says
    assert not any(name.partition(".")[0] in ("summed", "alone") for name in sys.modules)


def test_a_sentence_ends_at_a_stop_and_not_at_a_number() -> None:
    assert (
        summaries.first_sentence("About 0.2 to 0.35; larger is better. More.") == "About 0.2 to 0.35; larger is better."
    )
    assert summaries.first_sentence("") == ""


def test_every_shipped_plugin_has_one() -> None:
    lacking = [entry.name for entry in discovery.entries() if not summaries.summary(entry.value).endswith(".")]
    assert lacking == []
