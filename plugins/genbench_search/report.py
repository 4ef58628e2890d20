"""Tables and a figure of what `genbench_search.measure` drew.

    python -m genbench_search.report out=outputs/search model=solids/weak figure=docs/images/search-weak.svg

Exact reading by the benchmark reader, over the prompts of two solids (`kinds=beside,stack`; `kinds=all` for every
prompt), with Wilson's interval, the paired difference to the plain picture, and the share of the gap to 100 % closed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import Any

from genbench.evaluation.statistics import clustered_rate, paired_rate_difference
from genbench.options import parse_words
from genbench_search.measure import JUDGES, WALK

EXACT = JUDGES[0]
NESTED = (1, 2, 4, 8, 16)
COLOURS = {"random": "#3b6fb6", "zero-order": "#2e8b57", "paths": "#b5562f", "none": "#777777"}
DASHES = {EXACT: "", "solids": "6 3", "solids-clip": "2 3", "": "1 4"}
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 320, 46, 40, 12
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """A rate at a cost in plain pictures, with its interval, and the paired gain over one plain picture."""

    curve: str
    walks: float
    n: int
    rate: float
    low: float
    high: float
    gain: tuple[float, float, float]
    plain: float

    @property
    def closed(self) -> float:
        """Share of the gap between plain and 1 that is closed."""
        return (self.rate - self.plain) / (1 - self.plain) if self.plain < 1 else 0.0


def leader(readings: Sequence[Mapping[str, float]], judge: str) -> float:
    """Exact reading of the first candidate that `judge` likes best."""
    best = max(range(len(readings)), key=lambda i: (readings[i][judge], -i))
    return readings[best][EXACT]


def points(rows: Sequence[Row], kinds: Sequence[str]) -> list[Point]:
    """Every point of every curve."""
    chosen = [row for row in rows if kinds == ["all"] or row["kind"] in kinds]
    plain = {_noise(r): r["readings"][0][EXACT] for r in chosen if r["task"].startswith("random")}
    found: list[Point] = []
    for task in dict.fromkeys(row["task"] for row in chosen):
        algorithm, verifier, _ = task.split(" ")
        mine = [row for row in chosen if row["task"] == task and _noise(row) in plain]
        if algorithm == "random":
            for judge in JUDGES:
                for n in NESTED:
                    found.append(_point(f"random {judge}", n, mine, plain, lambda r, j=judge, k=n: leader(r[:k], j)))
        elif algorithm == "zero-order":
            for n in range(1, len(mine[0]["readings"]) + 1, 2):
                found.append(
                    _point(f"{algorithm} {verifier}", n, mine, plain, lambda r, k=n, j=verifier: leader(r[:k], j))
                )
        else:
            found.append(_point(f"{algorithm} {verifier}".strip(), mine[0]["nfe"] / WALK, mine, plain, _chosen))
    return found


def _noise(row: Row) -> tuple[str, int]:
    """Prompt and seed: what a plain picture is made of."""
    return row["prompt"], row.get("seed", 0)


def _chosen(readings: Sequence[Mapping[str, float]]) -> float:
    return next((r[EXACT] for r in readings if r.get("chosen")), readings[0][EXACT])


def _point(curve: str, walks: float, rows: Sequence[Row], plain: Mapping[tuple[str, int], float], read: Any) -> Point:
    values, base = [read(row["readings"]) for row in rows], [plain[_noise(row)] for row in rows]
    prompts = [row["prompt"] for row in rows]
    gain, own = paired_rate_difference(base, values, prompts), clustered_rate(values, prompts)
    bounds = (gain.mean, gain.low, gain.high)
    return Point(curve, walks, len(values), own.mean, own.low, own.high, bounds, sum(base) / len(base))


def table(found: Sequence[Point]) -> list[str]:
    """Return the points as lines of Markdown."""
    lines = ["| | walks | n | exact | gain over plain | gap closed |", "|---|---|---|---|---|---|"]
    for p in found:
        gain = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * g for g in p.gain)) if p.walks > 1 else ""
        rate = f"{100 * p.rate:.1f} % [{100 * p.low:.1f}, {100 * p.high:.1f}]"
        closed = f"{100 * p.closed:.0f} %" if p.walks > 1 else ""
        lines.append(f"| {p.curve} | {p.walks:g} | {p.n} | {rate} | {gain} | {closed} |")
    return lines


def figure(found: Sequence[Point]) -> str:
    """Return an SVG: exact reading (0 to 100 %) against cost in plain pictures (logarithmic)."""
    x = lambda walks: LEFT + 12 + log2(walks) / 4 * (WIDTH - LEFT - 190)  # noqa: E731
    y = lambda rate: HEIGHT - BOTTOM - rate * (HEIGHT - BOTTOM - TOP)  # noqa: E731
    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for rate in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path d="M{LEFT} {y(rate):.1f}H{WIDTH - 170}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 6, y(rate) + 4, f"{100 * rate:g} %", "end"))
    parts += [_text(x(n), HEIGHT - BOTTOM + 16, str(n), "middle") for n in NESTED]
    parts.append(_text((LEFT + WIDTH - 170) / 2, HEIGHT - 8, "cost, in plain pictures of 15 steps", "middle"))
    for i, curve in enumerate(dict.fromkeys(p.curve for p in found)):
        parts += _curve([p for p in found if p.curve == curve], curve, i, x, y)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
    return f'{head} font-size="11">\n' + "\n".join(parts) + "\n</svg>\n"


def _curve(own: Sequence[Point], curve: str, i: int, x: Any, y: Any) -> list[str]:
    algorithm, _, verifier = curve.partition(" ")
    colour, dash = COLOURS[algorithm], DASHES[verifier]
    style = f'stroke="{colour}" stroke-dasharray="{dash}"' if dash else f'stroke="{colour}"'
    path = " ".join(f"{x(p.walks):.1f},{y(p.rate):.1f}" for p in own)
    dots = [f'<circle cx="{x(p.walks):.1f}" cy="{y(p.rate):.1f}" r="3" fill="{colour}"/>' for p in own]
    last = own[-1]
    bar = f'<path d="M{x(last.walks):.1f} {y(last.low):.1f}V{y(last.high):.1f}" stroke="{colour}" opacity="0.5"/>'
    at, label = (
        TOP + 12 + 18 * i,
        curve.replace("none", "more steps").replace(" ", ", ", 1) if verifier else "more steps",
    )
    alone = [_text(x(last.walks) - 6, y(last.rate) + 4, verifier, "end")] if len(own) == 1 else []
    key = f'<path d="M{WIDTH - 160} {at - 4}h26" {style} stroke-width="2"/>'
    return [
        f'<polyline points="{path}" fill="none" {style} stroke-width="2"/>',
        bar,
        *dots,
        *alone,
        key,
        _text(WIDTH - 128, at, label, "start"),
    ]


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#333">{words}</text>'


def main(words: Sequence[str]) -> None:
    """Print the table and write the figure."""
    given = parse_words(words)
    file = Path(given.get("out", "outputs/search")) / f"{given.get('model', 'solids').replace('/', '-')}.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found = points(rows, given.get("kinds", "beside,stack").split(","))
    print("\n".join(table(found)))  # noqa: T201  # its purpose
    if "figure" in given:
        Path(given["figure"]).write_text(figure(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
