"""What training never sees, and the fixed prompt lists.

`python -m genbench_solids.holdout FOLDER` writes `solids.jsonl` (400 held-out prompts) and `solids-train.jsonl`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from zlib import crc32

from genbench_solids.captions import COLOUR_NAMES, KINDS, SHAPES, Attributes, sample, say

UNSEEN_SOLIDS = frozenset((("purple", "cone"), ("orange", "cylinder"), ("cyan", "torus")))
UNSEEN_SHARE = 8  # one in this many ordered pairs of solids is never seen together
LICENCE = "Apache-2.0"
SOURCE = "genbench_solids.holdout"
HELD_OUT_COUNTS = {  # kind -> (prompts of seen combinations, prompts of unseen combinations)
    "single": (34, 3),
    "two": (27, 3),
    "three": (20, 0),
    "beside": (84, 52),
    "stack": (56, 31),
    "row": (30, 0),
    "size": (30, 0),
    "view": (30, 0),
}


def unseen_solid(attributes: Attributes) -> bool:
    """Whether a colour-shape pair occurs that training never shows."""
    return any((COLOUR_NAMES[s.colour], SHAPES[s.shape]) in UNSEEN_SOLIDS for s in attributes.solids)


def unseen_pair(attributes: Attributes) -> bool:
    """Whether two different solids stand together in an order that training never shows."""
    if len(attributes.solids) != 2 or attributes.kind == "two":
        return False
    key = " ".join(f"{s.colour}/{s.shape}" for s in attributes.solids)
    return crc32(f"{attributes.arrangement} {key}".encode()) % UNSEEN_SHARE == 0


def seen(attributes: Attributes) -> bool:
    """Whether training may show these attributes."""
    return not (unseen_solid(attributes) or unseen_pair(attributes))


def held_out_prompts(seed: int = 2025) -> list[dict[str, object]]:
    """The 400 fixed prompts: `prompt`, `kind`, `unseen`, and `why` unseen ("", "solid" or "pair")."""
    rng = Random(seed)
    lines: list[dict[str, object]] = []
    for kind in KINDS:
        wanted = {False: HELD_OUT_COUNTS[kind][0], True: HELD_OUT_COUNTS[kind][1]}
        said: set[str] = set()
        while len(said) < sum(HELD_OUT_COUNTS[kind]):
            attributes = sample(kind, rng)
            prompt, unseen = say(attributes, rng), not seen(attributes)
            if attributes.kind != kind or prompt in said or wanted[unseen] == 0:
                continue
            if kind in ("beside", "stack") and unseen_solid(attributes):
                continue
            wanted[unseen] -= 1
            said.add(prompt)
            why = "solid" if unseen_solid(attributes) else "pair" if unseen_pair(attributes) else ""
            lines.append({"prompt": prompt, "kind": kind, "unseen": unseen, "why": why, "licence": LICENCE})
    return lines


def training_prompts(count: int = 3000, seed: int = 7) -> list[dict[str, object]]:
    """Different training captions, none of them held out, none in the list of 400."""
    rng = Random(seed)
    taken = {line["prompt"] for line in held_out_prompts()}
    lines: list[dict[str, object]] = []
    while len(lines) < count:
        attributes = sample(rng.choices(KINDS, (1, 1, 1, 5, 4, 2, 2, 2))[0], rng)
        prompt = say(attributes, rng)
        if seen(attributes) and prompt not in taken:
            taken.add(prompt)
            lines.append({"prompt": prompt, "kind": attributes.kind, "licence": LICENCE})
    return lines


def write_lists(folder: Path) -> None:
    """Write both lists as JSON lines; every line carries its licence."""
    for name, lines in (("solids", held_out_prompts()), ("solids-train", training_prompts())):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)


if __name__ == "__main__":
    write_lists(Path(sys.argv[1]))
