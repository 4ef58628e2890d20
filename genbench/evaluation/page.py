"""report.html: a comparison as one file that opens from anywhere, without a server or a network.

Tables, figures and small pictures are in the file; full-size pictures are linked by relative paths, so the folder may
be moved as a whole. Whatever a user wrote is escaped; the page's security policy lets no script run but its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from genbench import files, record
from genbench.evaluation import page_methods, page_scores, reproduce
from genbench.evaluation.chains import flattened, partners
from genbench.evaluation.gallery import Gallery, gallery
from genbench.evaluation.lines import Report
from genbench.evaluation.markup import Html, join, section, tag, text
from genbench.evaluation.numbers import styles
from genbench.evaluation.report import groups, labels
from genbench.evaluation.store import Made, Store
from genbench.evaluation.thumbnails import thumbnails

FILE = "report.html"
ASSETS = Path(__file__).parent / "assets"
HEADINGS = (
    ("summary", "Summary"), ("comparisons", "Comparisons"), ("cost", "Score against cost"), ("kinds", "Kinds"),
    ("failures", "Failed"), ("gallery", "Pictures"), ("settings", "Settings"), ("again", "Make it again"),
    ("methods", "Methods and licences"),
)  # fmt: skip


def save(store: Store, report: Report, by: Sequence[str]) -> Path:
    """Write the page and the prompt list that its commands name; returns the page's path. Raises OutputError."""
    made = store.pictures()
    small = _small(store, made)
    against = partners(store.settings())
    found = gallery(made, labels(store), groups(made, by), store.scores(), small, styles(report.lines), against)
    path = store.folder / FILE
    files.write_whole(path, page(store, report, made, found).encode())
    if made:
        files.write_whole(store.folder / reproduce.PROMPTS, reproduce.prompt_lines(made).encode())
    return path


def _small(store: Store, made: Sequence[Made]) -> dict[str, str]:
    with tqdm(desc="small pictures", disable=None, leave=False) as bar:

        def done(count: int) -> None:
            bar.update(count)

        return thumbnails(store.folder, made, done)


def page(store: Store, report: Report, made: Sequence[Made], found: Gallery) -> str:
    """Return the whole page."""
    parts = [*page_scores.sections(report), _gallery(found.data), *page_methods.sections(store, made, report.measured)]
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    blocks = [f'<script type="text/plain" id="b{i}">{block}</script>' for i, block in enumerate(found.blocks)]
    return filled(
        (ASSETS / "page.html").read_text(encoding="utf-8"),
        {
            "policy": policy(script),
            "generator": f"genbench {record.version('genbench')}",
            "title": text(f"{store.folder.resolve().name}: comparison of {_count(len(report.costs), 'chain')}"),
            "lead": text(_lead(store, made)),
            "contents": page_scores.headings(parts, HEADINGS),
            "style": (ASSETS / "page.css").read_text(encoding="utf-8"),
            "sections": join(parts),
            "blocks": "\n".join(blocks),
            "data": json_text(found.data),
            "script": script,
        },
    )


def filled(template: str, parts: Mapping[str, str]) -> str:
    """Fill `{{name}}` in one pass, so that a prompt that says {{name}} stays as it is."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def policy(script: str) -> str:
    """Return the page's content security policy: no network, no script but this one."""
    own = base64.b64encode(hashlib.sha256(f"{script}".encode()).digest()).decode()
    return f"default-src 'none'; img-src 'self' data: file:; style-src 'unsafe-inline'; script-src 'sha256-{own}'"


def json_text(data: Any) -> str:
    """Return JSON that no browser takes for markup."""
    packed = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return packed.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _lead(store: Store, made: Sequence[Made]) -> str:
    prompts, seeds = len({picture.pair for picture in made}), len({picture.seed for picture in made})
    models = dict.fromkeys(str(flattened(content).get("model", "")) for _, _, content in store.settings())
    counts = _count(prompts, "prompt"), _count(seeds, "seed"), _count(len(made), "picture")
    return " · ".join([", ".join(models), *counts])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


# --- the gallery's controls ---------------------------------------------------------------------------------------


def _gallery(data: Mapping[str, Any]) -> Html:
    if not data["rows"]:
        return Html("")
    tools = tag("div", *_tools(data), class_="tools")
    more = tag("button", "more rows", type="button", id="more")
    end = tag("div", more, tag("a", "on to what stands behind the numbers", href="#settings"), id="end")
    rest = tag("div", id="rows", style=f"--chains: {len(data['chains'])}"), end
    return section("gallery", "Pictures", _noscript(), tools, *rest)


def _noscript() -> Html:
    return tag("noscript", tag("p", "The gallery needs JavaScript; the pictures are in the folders beside this page."))


def _tools(data: Mapping[str, Any]) -> list[Html]:
    metrics, chains = data["metrics"], data["chains"]
    compared = bool(metrics) and len(chains) > 1
    kinds = [("", "all prompts"), *((str(i), name) for i, name in enumerate(data["kinds"]))]
    wide = [("range", "where chains disagree most")] if compared else []
    gains = [
        (f"{which} {i}", f"largest {which} of {chain} against {chains[other]}")
        for i, (chain, other) in enumerate(zip(chains, data["against"], strict=True))
        for which in ("gain", "loss")
        if other is not None and compared
    ]
    explained = "Scores of 0 and 1: where they differ. Other scores: the quarter of the rows with the widest range."
    return [
        _select("kind", "prompts", kinds, len(kinds) > 1),
        _select("metric", "score", [(str(i), each["name"]) for i, each in enumerate(metrics)], len(metrics) > 1),
        _select("order", "order", [("listed", "as listed"), *wide, *gains], compared),
        tag("label", _box("differ"), "only where chains disagree", title=explained, hidden=not compared),
        tag("input", id="find", type="search", placeholder="find in prompts", aria_label="find in prompts"),
        tag("span", id="count", aria_live="polite"),
    ]


def _box(name: str) -> Html:
    return tag("input", id=name, type="checkbox")


def _select(name: str, label: str, choices: Sequence[tuple[str, str]], useful: bool) -> Html:
    options = [tag("option", told, value=value) for value, told in choices]
    return tag("label", label, tag("select", *options, id=name), hidden=not useful)
