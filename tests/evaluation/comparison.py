"""A small real comparison on the toy model, with a prompt that no page may run, and a reader of the page it makes."""

from __future__ import annotations

import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from genbench.evaluation import cli_main

EVIL = 'blue <script>document.title=1</script></script><img src=x onerror="document.title=1"> {{script}} &amp; 猫'
ROWS = [
    {"prompt": "red", "kind": "one", "unseen": False, "licence": "CC0-1.0"},
    {"prompt": EVIL, "kind": "<b>one</b>", "unseen": True, "licence": "CC0-1.0"},
    {"prompt": "red green", "kind": "two", "unseen": False, "licence": "CC0-1.0"},
]
PLUGINS = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genbench.kinds import About


@dataclass(frozen=True)
class Fragile:
    """Raises for one prompt."""

    about: ClassVar[About] = About(
        "Raises for <i>red</i>.", paper="N. N., On <b>red</b>, 2020", url="javascript:alert(1)", license="CC0-1.0"
    )

    def transform_noise(self, start, ctx):
        if "red" in ctx.prompts:
            raise ValueError("no <i>red</i> here")
        return start
'''


def compare(folder: Path) -> Path:
    """Draw and judge four chains, two of them a curve over steps, one with failures; returns the store's folder."""
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "extra.py").write_text(PLUGINS)
    out = folder / "cmp"
    common = ["model=toy", f"prompts={folder / 'p.jsonl'}", "seeds=0..1", "metrics=toy", f"out={out}"]
    chains = f"chains=none; search; {folder / 'extra.py'}:Fragile"
    assert cli_main("eval", [*common, "steps=2", chains, "search.candidates=3"]) == 1
    assert cli_main("eval", [*common, "steps=4"]) == 0
    return out


class Reader(HTMLParser):
    """What a page holds: how many of each tag, ids, links, and the text of its scripts by id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.ids, self.links = Counter[str](), set[str](), list[str]()
        self.handlers, self.scripts, self.text = list[str](), dict[str, str](), ""
        self._script: str | None = None
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.tags[tag] += 1
        self.ids |= {str(told["id"])} if "id" in told else set()
        self.links += [str(told[name]) for name in ("href", "src") if told.get(name)]
        self.handlers += [name for name in told if name.startswith("on")]
        self._script = str(told.get("id") or "script") if tag == "script" else None
        if tag not in ("meta", "img", "input", "link", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, tag
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text += data
        else:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts["data"])
