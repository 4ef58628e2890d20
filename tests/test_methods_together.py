"""Chains of two and three methods in every order: they run, cost what the formula says, and are neutral together."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from genbench import generate
from genbench.discovery import plugin_class
from genbench.generation import plan, resolve
from tests.tiny import saved

ACTIVE: Mapping[str, Mapping[str, object]] = {
    "redenoise": {"high": 3.0, "steps": 4},
    "lml": {"rank": 1},
    "w2sd": {},
    "search": {"candidates": 2},
}
"""Options at which each method does something on the toy model."""
CHAINS = [",".join(names) for n in (2, 3) for names in permutations(ACTIVE, n)]


def words(chain: str, options: Mapping[str, Mapping[str, object]], **more: object) -> dict[str, Any]:
    names = chain.split(",")
    chosen = {name: dict(options[name]) for name in names if options.get(name)}
    return {"model": "toy", "prompt": "red", "seed": 3, "steps": 5, "plugin": chain, "options": chosen, **more}


def neutral(names: str) -> dict[str, Mapping[str, object]]:
    return {name: plugin_class(name).cls.about.neutral for name in names.split(",")}


@pytest.mark.parametrize("chain", CHAINS)
def test_a_chain_runs_and_costs_what_it_says(chain: str) -> None:
    asked = words(chain, ACTIVE)
    told = plan(resolve(asked))
    made = generate(**asked)[0]
    assert torch.isfinite(made.latents).all()
    assert told["evaluations_per_picture"] == made.nfe and told["not_counted"] == []


@pytest.mark.parametrize("chain", CHAINS)
def test_a_neutral_chain_is_no_chain(chain: str) -> None:
    plain = generate(model="toy", prompt="red", seed=3, steps=5)[0]
    made = generate(**words(chain, neutral(chain)))[0]
    assert torch.equal(made.latents, plain.latents)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("sd", tmp_path_factory.mktemp("together") / "sd")


ON_A_PIPELINE = [
    *(",".join(names) for names in permutations(("redenoise", "lml", "w2sd", "search"), 2)),
    "redenoise,w2sd,lml",
    "search,lml,redenoise",
    "w2sd,search,lml",
]


@pytest.mark.parametrize("chain", ON_A_PIPELINE)
def test_a_chain_on_a_pipeline(pipeline: Path, chain: str) -> None:
    more = {"model": str(pipeline), "verifier": "toy", "steps": 3}
    asked = words(chain, ACTIVE, **more)
    made = generate(**asked)[0]
    assert torch.isfinite(made.latents).all() and plan(resolve(asked))["evaluations_per_picture"] == made.nfe
    plain = generate(**{**words("lml", {}, **more), "plugin": "", "options": {}})[0]
    assert torch.equal(generate(**words(chain, neutral(chain), **more))[0].latents, plain.latents)
    assert not torch.equal(made.latents, plain.latents)


@pytest.mark.parametrize("chain", ["npnet,lml", "npnet,w2sd,search", "w2sd,lml,npnet"])
def test_learnt_noise_joins_on_the_embedded_model(chain: str) -> None:
    asked = words(chain, ACTIVE, model="solids", prompt="a red cube", steps=2)
    made = generate(**asked)[0]
    assert torch.isfinite(made.latents).all() and plan(resolve(asked))["evaluations_per_picture"] == made.nfe
    plain = generate(model="solids", prompt="a red cube", seed=3, steps=2)[0]
    made = generate(**{**asked, "options": neutral(chain)})[0]
    assert torch.equal(made.latents, plain.latents)
