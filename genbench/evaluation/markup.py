"""HTML from text: everything a user wrote (prompts, chain names, errors) passes through `text` and is shown, never run.

`Html` marks what is markup already; `html` builds it from pieces and escapes those that are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

VOID = ("input",)  # elements without an end


class Html(str):
    """Text that is HTML already."""


def text(value: object) -> Html:
    """Escape text for use between tags or inside a quoted attribute; HTML stays as it is."""
    return value if isinstance(value, Html) else Html(escape(str(value), quote=True))


def join(parts: Iterable[object], between: str = "\n") -> Html:
    """Join pieces, escaping those that are text."""
    return Html(between.join(text(part) for part in parts))


def tag(name: str, *inside: object, **attributes: object) -> Html:
    """Return an element. `class_` is the attribute class; attributes that are None or False are left out."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text("" if value is True else value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{told}>" if name in VOID else f"<{name}{told}>{join(inside, '')}</{name}>")


def table(
    head: Sequence[object], rows: Iterable[Iterable[object]], caption: str = "", left: int = 1, cards: bool = False
) -> Html:
    """Return a table that scrolls sideways where it is too wide; the first `left` columns are text, others numbers.

    A cell may be a `tag("td", ...)` of its own. With `cards` a row is a card on a phone, a line per cell.
    """
    names = [tag("th", cell, scope="col", class_="left" if i < left else None) for i, cell in enumerate(head)]
    labels = [str(cell) if cards else "" for cell in head]
    lines = [tag("tr", *(_cell(cell, i, left, labels[i]) for i, cell in enumerate(row))) for row in rows]
    title = [tag("caption", caption)] if caption else []
    whole = tag("table", *title, tag("thead", tag("tr", *names)), tag("tbody", join(lines)))
    kind = "scroll cards" if cards else "scroll"
    return tag("div", whole, class_=kind, tabindex="0", role="region", aria_label=caption or str(head[0]))


def _cell(cell: object, column: int, left: int, label: str) -> Html:
    if isinstance(cell, Html) and cell.startswith("<td"):
        return Html(f'<td data-label="{text(label)}"{cell[3:]}') if label else cell
    if column == 0:
        return tag("th", cell, scope="row")
    return tag("td", cell, class_="left" if column < left else None, data_label=label or None)


def section(name: str, title: str, *inside: object) -> Html:
    """Return a section with its heading; empty without content."""
    kept = [part for part in inside if part]
    return tag("section", tag("h2", title), join(kept), id=name) if kept else Html("")


def note(*inside: object) -> Html:
    """Return a small paragraph."""
    return tag("p", *inside, class_="note")


def code_block(lines: str) -> Html:
    """Return text as it is to be typed."""
    return tag("pre", tag("code", lines))


def folded(title: object, *inside: object, open: bool = False) -> Html:
    """Return something that is shown on a click."""
    return tag("details", tag("summary", title), join(inside), open=open)
