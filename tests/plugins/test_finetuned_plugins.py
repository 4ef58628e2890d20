"""The plugins `alignprop` and `dragon` in a run: shipped files, trained folders, chains, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from genbench import generate
from genbench.discovery import build
from genbench.errors import ModelError, PluginError
from genbench.finetuned import Finetuned
from genbench.generation import Session
from genbench.kinds import Ledger
from genbench.models import ModelOptions, open_model
from genbench.prompts import read_rows
from genbench.request import Item, resolve
from genbench.training import adapters
from genbench.training.job import train
from genbench_alignprop import AlignProp
from genbench_dragon import Dragon
from genbench_solids.scorers import SolidsVerifier
from tests.tiny import saved
from tests.training.test_adapters import moved

PLUGINS: dict[str, type[Finetuned]] = {"alignprop": AlignProp, "dragon": Dragon}
WORDS: dict[str, Any] = {"prompt": "a red cube", "seed": 7, "steps": 2}


def latents(**words: Any) -> torch.Tensor:
    return generate(**{**WORDS, **words})[0].latents


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small LoRA of `solids` that changes something, as it would be shipped."""
    adapted = moved(adapters.with_adapter(open_model("solids", ModelOptions(), Ledger()), rank=2))
    file = adapters.save_adapter(adapted, adapted.parameters, tmp_path_factory.mktemp("lora"), torch.float16)
    return file.rename(file.with_name("solids.safetensors"))


@pytest.mark.parametrize("name", list(PLUGINS))
def test_the_shipped_file_is_drawn_with(name: str, lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PLUGINS[name], "shipped", lora.parent)
    plain = latents()
    assert torch.equal(latents(plugin=name, options={name: {"strength": 0}}), plain)
    assert torch.equal(latents(plugin=name), latents(lora=str(lora)))
    assert torch.equal(latents(plugin=name, options={name: {"strength": 0.5}}), latents(lora=f"{lora}:0.5"))
    assert generate(plugin=name, **WORDS)[0].nfe == generate(**WORDS)[0].nfe


def test_what_ships_is_small_and_changes_pictures() -> None:
    plain = latents()
    for name in PLUGINS:
        assert not torch.allclose(latents(plugin=name), plain, atol=1e-2)
    sizes = [file.stat().st_size for plugin in PLUGINS.values() for file in plugin.shipped.glob("*.safetensors")]
    assert len(sizes) >= len(PLUGINS) and sum(sizes) < 2e6


@pytest.mark.parametrize("name", list(PLUGINS))
def test_what_is_not_shipped_is_said_before_weights_load(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genbench import models

    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(ModelError, match=f"no {name} weights are known for model='tiny'.*genbench train plugin={name}"):
        monkeypatch.chdir(saved("sd", tmp_path / "tiny").parent)
        latents(model="tiny", plugin=name)
    with pytest.raises(PluginError, match=f"'{name}' does not hold for models of family 'toy'"):
        latents(model="toy", plugin=name)


def test_two_plugins_add_their_loras(lora: Path) -> None:
    options = {
        name: {"weights": str(lora), "strength": share} for name, share in (("alignprop", 0.5), ("dragon", 0.25))
    }
    both = latents(plugin="alignprop,dragon", options=options)
    assert torch.allclose(both, latents(lora=f"{lora}:0.75"), atol=1e-4)


def test_other_weights_are_another_version(lora: Path, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(lora.read_bytes())
    before = build("dragon", {"weights": str(file)}).fingerprint
    file.write_bytes(lora.read_bytes() + b" ")
    assert build("dragon", {"weights": str(file)}).fingerprint != before


@pytest.mark.parametrize("name", list(PLUGINS))
def test_what_was_trained_is_drawn_with_by_both_words(name: str, work: Path) -> None:
    saved("sd", work / "sd")
    Path("p.txt").write_text("red\nblue cube\n")
    small = {"updates": "1", "batch": "2", "steps": "2", "rank": "2", "look_prompts": "1", "look_seeds": "1"}
    own = {f"{name}.{key}": value for key, value in small.items()}
    made = train({"plugin": name, "model": "sd", "prompts": "p.txt", "reward": "toy", "run": "run", **own})
    assert made == Path("run/lora")
    expected = latents(model="sd", lora=str(made))
    for word in ("run", "run/lora", f"run/lora/{adapters.FILE}"):
        assert torch.equal(latents(model="sd", plugin=name, options={name: {"weights": word}}), expected)


def test_alignprops_own_lora_raises_what_it_was_trained_for() -> None:
    """Without guidance, on prompts that it knows and noises that it does not: the reading's log-probability."""
    rows = list(read_rows("prompts/solids-train.jsonl"))[:192]
    prompts, seeds = [str(row["prompt"]) for row in rows], list(range(len(rows)))
    words: dict[str, Any] = {"steps": 6, "guidance_scale": 1.0, "batch_size": 16, "verifier": "solids"}

    def reading(**more: Any) -> torch.Tensor:
        session = Session.open(resolve({**words, **more}))
        items = [Item(i, p, "", s) for i, (p, s) in enumerate(zip(prompts, seeds, strict=True))]
        made = [picture.image for picture in session.pictures(items)]
        return SolidsVerifier().score(images=torch.stack(made), prompts=prompts).clamp(min=-10)

    plain, tuned = reading(), reading(plugin="alignprop")
    assert tuned.mean() > plain.mean() + 0.1


def test_dragons_own_lora_draws_more_of_the_picture() -> None:
    """Towards exemplars that are drawn large, on prompts and noises that it does not know."""
    from genbench_dragon.measure import share_drawn

    rows = list(read_rows("prompts/solids.jsonl"))[::10]
    items = [Item(i, str(row["prompt"]), "", i) for i, row in enumerate(rows)]
    words: dict[str, Any] = {"steps": 6, "batch_size": 20}

    def drawn(**more: Any) -> torch.Tensor:
        return share_drawn(torch.stack([p.image for p in Session.open(resolve({**words, **more})).pictures(items)]))

    gain = drawn(plugin="dragon") - drawn()
    assert gain.mean() > 3 * gain.std() / len(rows) ** 0.5 > 0
