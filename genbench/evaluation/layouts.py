"""Pictures in the folder layouts of published scorers, so that those run unchanged.

geneval   00000/metadata.jsonl, 00000/samples/0000.png: one folder per prompt, as `evaluate_images.py` of GenEval
          (arXiv:2310.11513) reads them; the prompts must be GenEval's own, read from evaluation_metadata.jsonl
edm       000000/000123.png: a thousand pictures per folder, as `generate.py --subdirs` of EDM (arXiv:2206.00364) writes
          and its `fid.py` reads them; numbered by prompt, then seed

Several chains become one such folder each. Pictures are hard links to the store's files where the file system has them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from genbench import files
from genbench.errors import UsageError
from genbench.evaluation.store import Made, Store

PER_FOLDER = 1000
GENEVAL = ("tag", "include")
"""Columns without which GenEval's scorer cannot judge a prompt."""
Placed = Iterator[tuple[Path, Made]]


def write(store: Store, chosen: Mapping[str, str], layout: str, out: Path) -> str:
    """Lay out the pictures of the chosen chains ({settings id: name}) under `out`; returns where they are.

    Raises UsageError where `out` is not empty, or the prompts are not those that the layout is for.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"out={out} exists and is not empty; give a new folder")
    made = [picture for picture in store.pictures() if picture.settings in chosen]
    drawn = {settings: name for settings, name in chosen.items() if any(p.settings == settings for p in made)}
    order, told = {pair: number for number, pair in enumerate(store.pairs())}, list[str]()
    for settings, name in drawn.items():
        mine = sorted((p for p in made if p.settings == settings), key=lambda p: (order[p.pair], p.seed))
        folder = out if len(drawn) == 1 else out / _folder_name(name)
        if layout == "geneval":
            _metadata(mine, folder)
        for path, picture in LAYOUTS[layout](mine):
            _link(store.folder / picture.path, folder / path)
        told.append(f"{folder}: {len(mine)} pictures of {name}")
    return "\n".join(told) or f"{out}: no pictures"


def geneval(made: Sequence[Made]) -> Placed:
    """Yield where each picture goes: one folder per prompt, its pictures numbered by seed."""
    for number, pictures in enumerate(_by_prompt(made)):
        yield from ((Path(f"{number:05d}/samples/{i:04d}.png"), picture) for i, picture in enumerate(pictures))


def edm(made: Sequence[Made]) -> Placed:
    """Yield where each picture goes: a running number, a thousand per folder."""
    yield from (
        (Path(f"{number - number % PER_FOLDER:06d}/{number:06d}.png"), picture) for number, picture in enumerate(made)
    )


LAYOUTS: Mapping[str, Callable[[Sequence[Made]], Placed]] = {"geneval": geneval, "edm": edm}


def _by_prompt(made: Sequence[Made]) -> list[list[Made]]:
    prompts: dict[str, list[Made]] = {}
    for picture in made:
        prompts.setdefault(picture.pair, []).append(picture)
    return list(prompts.values())


def _metadata(made: Sequence[Made], folder: Path) -> None:
    """Write each prompt's row where its pictures go, as GenEval's own generator does."""
    rows = [pictures[0].row for pictures in _by_prompt(made)]
    for row in rows:
        missing = [name for name in GENEVAL if name not in row]
        if missing:
            raise UsageError(
                f"the prompt '{str(row['prompt'])[:60]}' has no '{missing[0]}': layout=geneval is for prompts that "
                "were read from GenEval's evaluation_metadata.jsonl"
            )
    for number, row in enumerate(rows):
        text = json.dumps({name: value for name, value in row.items() if name != "kind"})
        (folder / f"{number:05d}").mkdir(parents=True, exist_ok=True)
        files.write_whole(folder / f"{number:05d}" / "metadata.jsonl", text.encode())


def _link(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
    except OSError as error:
        raise files.failed(target, error) from error


def _folder_name(name: str) -> str:
    """Return a chain's name as a folder's: letters, digits and `=.-` stay."""
    return re.sub(r"[^\w=.-]+", "_", name).strip("_.") or "chain"
