"""`python -m genbench_solids.training STAGE [field=value ...]`: one stage of the recipe, run or continued."""

from __future__ import annotations

import sys
from dataclasses import fields, replace

import torch

from genbench_solids.training.recipe import Recipe, default_folder
from genbench_solids.training.stages import MORE, STAGES


def recipe_from(words: list[str]) -> Recipe:
    """The default recipe with `field=value` words applied to its numbers."""
    recipe = Recipe(default_folder())
    types = {field.name: type(getattr(recipe, field.name)) for field in fields(recipe)}
    changes = dict(word.split("=", 1) for word in words)
    return replace(recipe, **{name: types[name](value) for name, value in changes.items()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    {**STAGES, **MORE}[sys.argv[1]](recipe_from(sys.argv[2:]))
