"""Exact reading against evaluations: `python -m genbench_search.measure out=outputs/search model=solids/weak`.

Draws prompts with every algorithm at the cost of 16 candidates, every verifier followed and the others watching, and
appends one line of JSON per prompt, so that a killed run goes on; `genbench_search.report` reads them.
The candidates of random search are nested: one search of 16 shows those of 1, 2, 4 and 8, by any of its verifiers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import genbench
from genbench.generation import Session, resolve
from genbench.options import parse_words

JUDGES = ("solids-exact", "solids", "solids-clip")
STEPS, CANDIDATES = 15, 16
WALK = 2 * STEPS  # guidance
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """One curve: an algorithm following a verifier, on so many prompts; `walks` is its budget in plain pictures."""

    algorithm: str
    verifier: str
    prompts: int
    walks: int = CANDIDATES

    @property
    def words(self) -> dict[str, object]:
        """The words of its run."""
        if self.algorithm == "none":
            return {"steps": STEPS * self.walks}
        held = ",".join(name for name in JUDGES if name != self.verifier)
        options = {"algorithm": self.algorithm, "budget": f"{self.walks * WALK}nfe"}
        return {"plugin": "search", "verifier": self.verifier, "holdout": held, "steps": STEPS, "search": options}

    @property
    def name(self) -> str:
        return f"{self.algorithm} {self.verifier} {self.walks}"


TASKS = (
    Task("random", "solids", 200),
    *(Task(algorithm, "solids", 100) for algorithm in ("zero-order", "paths")),
    *(Task("none", "", 100, walks) for walks in (4, 16)),
    *(
        Task(algorithm, judge, 100)
        for judge in ("solids-clip", "solids-exact")
        for algorithm in ("zero-order", "paths")
    ),
)


def chosen_prompts(path: Path, n: int) -> list[Row]:
    """Return n prompts of a list, taken evenly; a shorter choice is the first part of a longer."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [*rows[::4], *rows[2::4], *rows[1::2]][:n]


def drawn(model: str, task: Task, rows: Sequence[Row], seed: int) -> Iterator[dict[str, object]]:
    """Draw prompts and yield what was read off each candidate."""
    words = {"model": model, "seed": seed, "batch_size": CANDIDATES, **task.words}
    session = Session.open(resolve(words, rows=tuple(rows)))
    for picture in session.pictures(session.resolved.items()):
        told = {"prompt": picture.prompt, "seed": seed, "kind": picture.item.row["kind"], "nfe": picture.nfe}
        yield {"model": model, "task": task.name, **told, "readings": readings(task, picture)}


def readings(task: Task, picture: Any) -> list[dict[str, float]]:
    """Return the scores of each finished candidate by judge, and which won."""
    if task.algorithm == "none":
        return [asked(picture)]
    rows = [row for row in picture.trace if not row.get("preview")]
    return [{task.verifier: row["score"], **row["holdout"], "chosen": float("chosen" in row)} for row in rows]


def asked(picture: Any) -> dict[str, float]:
    """Ask the benchmark reader about one picture."""
    build: Any = genbench.build  # the package's front says no types
    scorer = build("solids-exact", {}, ("scorer",))
    return {JUDGES[0]: float(scorer.object.score(images=picture.image[None], prompts=[picture.prompt])[0])}


def main(words: Sequence[str]) -> None:
    """Draw what is missing, in the order of TASKS; `kinds=`, `seed=` and `n=` choose which prompts, and how many."""
    given = parse_words(words)
    seed, kinds = int(given.get("seed", "0")), given.get("kinds", "all").split(",")
    model, out = given.get("model", "solids"), Path(given.get("out", "outputs/search"))
    prompts = Path(given.get("prompts", "prompts/solids.jsonl"))
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{model.replace('/', '-')}.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    done = {(row["task"], row["prompt"], row.get("seed", 0)) for row in map(json.loads, lines)}
    wanted = given.get("tasks", "").split(";") if given.get("tasks") else [task.name for task in TASKS]
    for task in (task for task in TASKS if task.name in wanted):
        chosen = chosen_prompts(prompts, int(given.get("n", str(task.prompts))))
        rows = [row for row in chosen if kinds == ["all"] or row["kind"] in kinds]
        rows = [row for row in rows if (task.name, row["prompt"], seed) not in done]
        with file.open("a", encoding="utf-8") as stream:
            for row in drawn(model, task, rows, seed) if rows else ():
                stream.write(json.dumps(row) + "\n")
                stream.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
