"""The gallery's data: one row per prompt and seed, one cell per chain, as the page's script reads them.

Small pictures are kept apart, in blocks of rows, so that the page unpacks only what is on the screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from genbench.evaluation.compared import Values
from genbench.evaluation.numbers import Style
from genbench.evaluation.statistics import is_rate
from genbench.evaluation.store import Made

BLOCK = 50  # rows whose small pictures are unpacked together
DIGITS = 5

Key = tuple[str, int]
Groups = Mapping[str, Callable[[Made], bool]]
Scores = Mapping[tuple[str, str], Values]
PLAIN = Style()
NO_STYLE: Mapping[str, Style] = {}
NO_PARTNER: Mapping[str, str] = {}


@dataclass(frozen=True)
class Gallery:
    """`data` goes into the page as JSON, `blocks` as one text each: a small picture per line, in the order of cells."""

    data: dict[str, Any]
    blocks: list[str]


def gallery(
    made: Sequence[Made],
    chains: Mapping[str, str],
    groups: Groups,
    scores: Scores,
    small: Mapping[str, str],
    style: Mapping[str, Style] = NO_STYLE,
    partner: Mapping[str, str] = NO_PARTNER,
) -> Gallery:
    """Arrange pictures in rows of the same prompt and seed; `small` is {image: base64}.

    data: chains [name], against [the chain that each is compared with, null for the first], metrics [{name, rate,
    power: values are shown times 10^power}], kinds [name], rows [[prompt, seed, [kind], cells]] with one cell per
    chain, null or [path, evaluations, [value of each metric or null], line in its block or -1].
    """
    metrics = {name: values for (name, detail), values in scores.items() if not detail}
    drawn = [settings for settings in chains if any(picture.settings == settings for picture in made)]
    kinds = [name for name in groups if name != "all"]
    rows = _rows(made)
    blocks = [list(rows.values())[first : first + BLOCK] for first in range(0, len(rows), BLOCK)]
    packed = [_packed(block, drawn, small) for block in blocks]
    data = {
        "chains": [chains[settings] for settings in drawn],
        "against": [_against(settings, drawn, partner) for settings in drawn],
        "metrics": [_metric(name, values, style.get(name, PLAIN)) for name, values in metrics.items()],
        "kinds": kinds,
        "block": BLOCK,
        "rows": [
            _row(row, drawn, [groups[kind] for kind in kinds], list(metrics.values()), lines)
            for block, (_, lines) in zip(blocks, packed, strict=True)
            for row in block
        ],
    }
    return Gallery(data, [text for text, _ in packed])


def _against(settings: str, drawn: Sequence[str], partner: Mapping[str, str]) -> int | None:
    other = partner.get(settings, "")
    place = drawn.index(other) if other in drawn else 0
    return None if drawn[place] == settings else place


def _metric(name: str, values: Values, style: Style) -> dict[str, Any]:
    return {"name": style.label(name), "rate": is_rate(list(values.values())), "power": style.power}


def _rows(made: Sequence[Made]) -> dict[Key, dict[str, Made]]:
    """Pictures by (pair, seed), then by chain; prompts in the order first drawn, seeds in order."""
    order = {pair: i for i, pair in enumerate(dict.fromkeys(picture.pair for picture in made))}
    rows: dict[Key, dict[str, Made]] = {}
    for picture in sorted(made, key=lambda picture: (order[picture.pair], picture.seed)):
        rows.setdefault((picture.pair, picture.seed), {})[picture.settings] = picture
    return rows


def _row(
    row: Mapping[str, Made],
    drawn: Sequence[str],
    kinds: Sequence[Callable[[Made], bool]],
    metrics: Sequence[Values],
    lines: Mapping[str, int],
) -> list[Any]:
    one = next(iter(row.values()))
    cells = [_cell(row[settings], metrics, lines) if settings in row else None for settings in drawn]
    return [one.text, one.seed, [i for i, belongs in enumerate(kinds) if belongs(one)], cells]


def _cell(picture: Made, metrics: Sequence[Values], lines: Mapping[str, int]) -> list[Any]:
    values = [_value(each.get((picture.image, picture.asked))) for each in metrics]
    return [picture.path, picture.nfe, values, lines.get(picture.image, -1)]


def _value(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) else float(f"{value:.{DIGITS}g}")


def _packed(
    block: Sequence[Mapping[str, Made]], drawn: Sequence[str], small: Mapping[str, str]
) -> tuple[str, dict[str, int]]:
    """Return the small pictures of a block of rows, one per line, and each one's line."""
    lines = {image: i for i, image in enumerate(dict.fromkeys(_images(block, drawn, small)))}
    return "\n".join(small[image] for image in lines), lines


def _images(block: Sequence[Mapping[str, Made]], drawn: Sequence[str], small: Mapping[str, str]) -> Iterator[str]:
    yield from (row[s].image for row in block for s in drawn if s in row and row[s].image in small)
