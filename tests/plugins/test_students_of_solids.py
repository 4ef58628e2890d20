"""The students that come with the plugins draw the embedded model's pictures, in one step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genbench.errors import ModelError, UsageError
from genbench.generation import Session
from genbench.prompts import read_rows
from genbench.request import Item, resolve
from genbench_solids.scorers import SolidsExact

STUDENTS = ("sid", "fdistill")


def read(**words: Any) -> float:
    """Share of 80 held-out prompts that are read right, a noise each."""
    rows = list(read_rows("prompts/solids.jsonl"))[::5]
    session = Session.open(resolve({"batch_size": 20, **words}))
    made = list(session.pictures([Item(i, str(row["prompt"]), "", i) for i, row in enumerate(rows)]))
    assert {picture.nfe for picture in made} == {words.get("steps", 1) * (1 if "plugin" in words else 2)}
    prompts = [str(row["prompt"]) for row in rows]
    return float(SolidsExact().score(images=torch.stack([p.image for p in made]), prompts=prompts).mean())


@pytest.mark.parametrize("plugin", STUDENTS)
def test_one_evaluation_reads_as_many_of_the_teacher_do(plugin: str) -> None:
    one = read(plugin=plugin)
    assert one > 0.9 and one > read(steps=1) + 0.05  # the teacher with its guidance: two evaluations


def test_sid_answers_in_one_to_four_steps() -> None:
    assert read(plugin="sid", steps=2) > 0.9 and read(plugin="sid", steps=4) > 0.9
    with pytest.raises(UsageError, match="made for"):
        Session.open(resolve({"model": "solids", "plugin": "sid", "steps": 5}))


@pytest.mark.parametrize("plugin", STUDENTS)
def test_a_student_is_of_one_model(plugin: str) -> None:
    with pytest.raises(ModelError, match="solids.weak"):
        Session.open(resolve({"model": "solids/weak", "plugin": plugin}))
