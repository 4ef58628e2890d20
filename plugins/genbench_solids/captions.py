"""Captions of solids: what they can say, how it is worded, and how it is read back.

A picture is described by one integer row (see `Attributes.row`); a caption is one wording of that row.
Left and right are always meant in the picture. The order of solids is left to right, or top to bottom in a stack.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.07, 0.08),
    "orange": (1.00, 0.47, 0.02),
    "yellow": (0.98, 0.87, 0.08),
    "green": (0.08, 0.58, 0.14),
    "cyan": (0.10, 0.80, 0.86),
    "blue": (0.08, 0.18, 0.86),
    "purple": (0.48, 0.10, 0.70),
    "pink": (1.00, 0.52, 0.74),
}
COLOUR_NAMES = tuple(COLOURS)
SHAPES = ("sphere", "cube", "cylinder", "cone", "torus")
PLURALS = ("spheres", "cubes", "cylinders", "cones", "tori")
SIZES = ("small", "medium", "large")  # medium is what an unnamed size means; it is not a word of the grammar
ARRANGEMENTS = ("none", "single", "beside", "stack", "row")
AZIMUTHS = ("from the front", "from the side", "from behind")  # camera at 0, 90 and 180 degrees
ELEVATIONS = ("at eye level", "", "from above")  # the middle one is the default and has no word
KINDS = ("single", "two", "three", "beside", "stack", "row", "size", "view")

MEDIUM, FRONT, MIDDLE = 1, 0, 1
SLOTS = 3
ROW_WIDTH = 3 + 3 * SLOTS
LENGTH = {"none": 0, "single": 1, "beside": 2, "stack": 2, "row": 3}


@dataclass(frozen=True)
class Solid:
    """One solid: indices into `COLOUR_NAMES`, `SHAPES`, `SIZES`; a size of None was not named."""

    colour: int
    shape: int
    size: int | None = None

    def words(self) -> str:
        """Say it: "a red cube", "a small red cube", "an orange cube"."""
        size = "" if self.size in (None, MEDIUM) else SIZES[self.size] + " "
        words = f"{size}{COLOUR_NAMES[self.colour]} {SHAPES[self.shape]}"
        return f"{'an' if words.startswith('o') else 'a'} {words}"


@dataclass(frozen=True)
class Attributes:
    """What a caption says: an arrangement, its solids in picture order, and the view where it is named."""

    arrangement: str
    solids: tuple[Solid, ...]
    azimuth: int | None = None
    elevation: int | None = None

    @property
    def kind(self) -> str:
        """One of `KINDS`: the hardest thing the caption asks for."""
        if any(solid.size not in (None, MEDIUM) for solid in self.solids):
            return "size"
        if self.azimuth is not None or self.elevation is not None:
            return "view"
        if len(self.solids) > 1 and len(set(self.solids)) == 1 and self.arrangement != "stack":
            return "two" if len(self.solids) == 2 else "three"
        return self.arrangement

    def row(self) -> list[int]:
        """Twelve integers: arrangement, azimuth, elevation, then colour, shape, size per slot; -1 where empty."""
        azimuth = FRONT if self.azimuth is None else self.azimuth
        elevation = MIDDLE if self.elevation is None else self.elevation
        cells = [ARRANGEMENTS.index(self.arrangement), azimuth, elevation]
        for solid in self.solids:
            cells += [solid.colour, solid.shape, MEDIUM if solid.size is None else solid.size]
        return cells + [-1] * (ROW_WIDTH - len(cells))

    @staticmethod
    def from_row(row: list[int]) -> Attributes:
        """Inverse of `row`; everything it holds counts as named."""
        arrangement = ARRANGEMENTS[row[0]]
        cells = [row[3 + 3 * k : 6 + 3 * k] for k in range(LENGTH[arrangement])]
        return Attributes(arrangement, tuple(Solid(*cell) for cell in cells), row[1], row[2])


def sample(kind: str, rng: Random) -> Attributes:
    """Random attributes of one of `KINDS`, uniform over colours and shapes."""

    def solid(size: int | None = None) -> Solid:
        return Solid(rng.randrange(len(COLOURS)), rng.randrange(len(SHAPES)), size)

    def different(count: int) -> tuple[Solid, ...]:
        solids = tuple(solid() for _ in range(count))
        return solids if len(set(solids)) == count else different(count)

    if kind == "single":
        return Attributes("single", (solid(),), FRONT if rng.random() < 0.15 else None)
    if kind in ("two", "three"):
        return Attributes(*(("beside", (solid(),) * 2) if kind == "two" else ("row", (solid(),) * 3)))
    if kind in ("beside", "stack", "row"):
        front = kind == "stack" and rng.random() < 0.08
        return Attributes(kind, different(LENGTH[kind]), FRONT if front else None)
    if kind == "size":
        if rng.random() < 0.5:
            return Attributes("single", (solid(rng.choice((0, 2))),))
        first, second = different(2)
        sizes = rng.choice(((0, 2), (2, 0), (0, None), (2, None), (None, 0), (None, 2)))
        return Attributes(
            "beside", (Solid(first.colour, first.shape, sizes[0]), Solid(second.colour, second.shape, sizes[1]))
        )
    if kind == "view":
        base = rng.choices(("single", "stack", "beside", "two", "row"), (45, 25, 16, 7, 7))[0]
        plain = sample(base, rng)
        turns = plain.arrangement in ("single", "stack") and rng.random() < 0.7
        azimuth = rng.randrange(len(AZIMUTHS)) if turns else None
        elevation = rng.choice((0, 2)) if not turns or rng.random() < 0.3 else None
        return Attributes(plain.arrangement, plain.solids, azimuth, elevation)
    raise ValueError(f"unknown kind {kind!r}; choose one of {', '.join(KINDS)}")


def say(attributes: Attributes, rng: Random) -> str:
    """One wording of `attributes`; `parse` gives the attributes back."""
    solids = attributes.solids
    if attributes.arrangement == "none":
        scene = ""
    elif len(solids) == 1:
        scene = solids[0].words()
    elif attributes.arrangement == "stack":
        scene = f"{solids[0].words()} on top of {solids[1].words()}"
    elif len(set(solids)) == 1:
        count = "two" if len(solids) == 2 else "three"
        scene = f"{count} {COLOUR_NAMES[solids[0].colour]} {PLURALS[solids[0].shape]}"
    elif attributes.arrangement == "row":
        scene = "{}, {} and {}".format(*(solid.words() for solid in solids))
    else:
        scene = _beside(*solids, rng=rng)
    views = [ELEVATIONS[attributes.elevation]] if attributes.elevation is not None else []
    views += [AZIMUTHS[attributes.azimuth]] if attributes.azimuth is not None else []
    return ", ".join([scene, *filter(None, views)])


def _beside(left: Solid, right: Solid, *, rng: Random) -> str:
    to_the = "to the " if rng.random() < 0.2 else ""
    draw = rng.random()
    if draw < 0.45:
        return f"{left.words()} {to_the}left of {right.words()}"
    if draw < 0.9:
        return f"{right.words()} {to_the}right of {left.words()}"
    return f"{left.words()} and {right.words()}"


_SOLID = rf"an? (?:(small|large) )?({'|'.join(COLOUR_NAMES)}) ({'|'.join(SHAPES)})"
_COUNTED = rf"(two|three) ({'|'.join(COLOUR_NAMES)}) ({'|'.join(PLURALS)})"
_VIEWS = "".join(f"(?P<v{i}>, {view})?" for i, view in enumerate(("at eye level", "from above", *AZIMUTHS)))
_FORMS = tuple(
    (name, re.compile(f"{body}{_VIEWS}"))
    for name, body in (
        ("single", _SOLID),
        ("count", _COUNTED),
        ("stack", f"{_SOLID} on top of {_SOLID}"),
        ("left", f"{_SOLID} (?:to the )?left of {_SOLID}"),
        ("right", f"{_SOLID} (?:to the )?right of {_SOLID}"),
        ("left", f"{_SOLID} and {_SOLID}"),
        ("row", f"{_SOLID}, {_SOLID} and {_SOLID}"),
    )
)


def parse(caption: str) -> Attributes | None:
    """Read a caption of the grammar; None for any other text. Case, outer space and a final full stop are ignored."""
    text = re.sub(r"\s+", " ", caption.strip().lower().rstrip("."))
    for name, form in _FORMS:
        if match := form.fullmatch(text):
            return _attributes(name, match)
    return None


def _attributes(form: str, match: re.Match[str]) -> Attributes:
    words = [match.group(i) for i in range(1, match.re.groups - 4)]
    if form == "count":
        solid = Solid(COLOUR_NAMES.index(words[1]), PLURALS.index(words[2]))
        arrangement, solids = ("beside", (solid,) * 2) if words[0] == "two" else ("row", (solid,) * 3)
    else:
        solids = tuple(
            Solid(COLOUR_NAMES.index(colour), SHAPES.index(shape), SIZES.index(size) if size else None)
            for size, colour, shape in zip(words[0::3], words[1::3], words[2::3], strict=True)
        )
        solids = solids[::-1] if form == "right" else solids
        arrangement = {"left": "beside", "right": "beside"}.get(form, form)
    azimuth = next((i for i in range(3) if match.group(f"v{2 + i}")), None)
    elevation = 0 if match.group("v0") else 2 if match.group("v1") else None
    return Attributes(arrangement, solids, azimuth, elevation)
