"""The plugin `npnet`: neutral setting, every family, chains, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from genbench import generate
from genbench.chain import named_scorer
from genbench.discovery import build
from genbench.errors import GenbenchError, ModelError, PluginError
from genbench_npnet import weights
from genbench_npnet.network import SWIN_SMALL, NPNet, Shape
from tests.plugins import npnet_published as published
from tests.tiny import FAMILIES, saved

TINY: dict[str, Any] = {**SWIN_SMALL, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}
TEXT = {
    "sd": (77, 16), "sd_v": (77, 16), "sd_lcm": (77, 16), "sdxl": (77, 32), "pixart_alpha": (120, 16),
    "pixart_sigma": (300, 16), "hunyuan": (77, 16), "sd3": (333, 32), "sd35": (333, 32), "flux": (512, 16),
    "flux_schnell": (512, 16),
}  # fmt: skip
LATENTS = {"sd3": (16, 16), "sd35": (16, 16), "hunyuan": (4, 8)}


def made(path: Path, channels: int, size: int, tokens: int, width: int) -> str:
    """Weights of a network that changes its noise."""
    torch.manual_seed(0)
    network = NPNet(Shape(channels, size, tokens, width, TINY, fixed_signs=True))
    for parameter in (network.alpha, network.beta):
        torch.nn.init.constant_(parameter, 0.5)
    weights.save(network, path, {})
    return str(path)


def latents(**words: Any) -> torch.Tensor:
    return torch.stack([picture.latents for picture in generate(steps=2, **words)])


def test_neutral_is_bit_identical_and_the_default_is_not() -> None:
    words: dict[str, Any] = {"prompt": "a red cube", "seeds": "1,2", "batch_size": 2}
    plain = latents(**words)
    assert torch.equal(latents(plugin="npnet", options={"npnet": {"strength": 0}}, **words), plain)
    golden = latents(plugin="npnet", **words)
    assert not torch.equal(golden, plain) and torch.equal(latents(plugin="npnet", **words), golden)


def test_strength_is_the_share_of_the_way(tmp_path: Path) -> None:
    from genbench.generation import Session
    from genbench.kinds import Start
    from genbench.request import Item, resolve

    session = Session.open(resolve({"prompt": "a red cube", "plugin": "npnet"}))
    ctx, shape = session.context([Item(0, "a red cube", "", 1)], session.resolved)
    noise = torch.randn(1, *shape)
    npnet = type(session.chain.noise[0])
    with torch.no_grad():
        whole, half, twice = (npnet(strength=s).transform_noise(Start(noise), ctx).noise for s in (1.0, 0.5, 2.0))
    assert torch.allclose(half - noise, (whole - noise) / 2, atol=1e-6)
    assert torch.allclose(twice - noise, (whole - noise) * 2, atol=1e-6)


def test_a_picture_does_not_depend_on_its_batch() -> None:
    words: dict[str, Any] = {"prompts": None, "plugin": "npnet"}
    words.pop("prompts")
    alone = torch.cat([latents(prompt="a red cube", seed=seed, **words) for seed in (1, 2, 3)])
    together = latents(prompt="a red cube", seeds="1..3", batch_size=3, **words)
    assert (alone - together).abs().max() < 1e-4


def test_golden_noise_costs_no_evaluation_of_the_model() -> None:
    plain = generate(prompt="a red cube", steps=2)[0]
    assert generate(prompt="a red cube", steps=2, plugin="npnet")[0].nfe == plain.nfe


@pytest.mark.parametrize("family", list(TEXT))
def test_every_family(family: str, tmp_path: Path) -> None:
    folder = saved(family, tmp_path / family)
    channels, size = LATENTS.get(family, (4, 16))
    if family.startswith(("pixart_alpha",)):
        size = 128
    if family.startswith("flux"):
        size = 16
    file = made(tmp_path / "w.safetensors", channels, size, *TEXT[family])
    words: dict[str, Any] = {"model": str(folder), "prompt": "red cube", "seed": 3}
    words |= sizes(family, size)
    plain = latents(**words)
    neutral = latents(plugin="npnet", options={"npnet": {"strength": 0}}, **words)
    golden = latents(plugin="npnet", options={"npnet": {"weights": file}}, **words)
    assert torch.equal(neutral, plain)
    assert torch.isfinite(golden).all() and not torch.equal(golden, plain)


def sizes(family: str, size: int) -> dict[str, int]:
    factor = 8 if family == "hunyuan" else 2
    return {"height": size * factor, "width": size * factor}


@pytest.mark.parametrize("chain", ["npnet,search", "search,npnet", "redenoise,npnet", "npnet,redenoise,search"])
def test_chains(chain: str) -> None:
    words: dict[str, Any] = {"prompt": "a red cube", "seed": 1, "steps": 2}
    options = {"search": {"candidates": 2}} if "search" in chain else {}
    picture = generate(plugin=chain, options=options, **words)[0]
    per_candidate = 4 + (3 if "redenoise" in chain else 0)
    assert picture.nfe == per_candidate * (2 if "search" in chain else 1)
    if "search" in chain:
        assert len(picture.trace) == 2


def test_search_of_one_candidate_is_golden_noise_alone() -> None:
    words: dict[str, Any] = {"prompt": "a red cube", "seed": 1}
    both = latents(plugin="npnet,search", options={"search": {"candidates": 1}}, **words)
    assert torch.equal(both, latents(plugin="npnet", **words))


@pytest.mark.parametrize(
    "prompt", ["a green cylinder to the right of a red sphere", "a cyan cylinder right of a red cylinder"]
)
def test_it_helps_where_plain_noise_leaks_colours(prompt: str) -> None:
    """Two prompts on which the embedded model often gives one solid its neighbour's colour (docs/npnet.md)."""

    def right(**words: Any) -> int:
        pictures = generate(prompt=prompt, seeds="0..3", batch_size=4, **words)
        images = torch.stack([picture.image for picture in pictures])
        return int(named_scorer("solids-exact").score(images=images, prompts=[prompt] * 4).sum())

    assert right() <= 2 and right(plugin="npnet") == 4


def test_the_shipped_weights_are_small_and_have_learnt() -> None:
    assert weights.SHIPPED.stat().st_size < 4_000_000
    loaded = weights.load(weights.SHIPPED)
    assert loaded.told["error"] < 0.6 * loaded.told["identity"]  # of pairs that it has not seen


def refused(**words: Any) -> str:
    with pytest.raises(GenbenchError) as caught:
        generate(prompt="a red cube", plugin="npnet", steps=2, **words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unknown_models_are_refused_before_their_weights_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genbench import models

    folder = saved("sd", tmp_path / "sd")
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("weights were loaded"))
    assert "genbench train plugin=npnet model=" in refused(model=str(folder))
    assert "neither a file nor a name" in refused(model=str(folder), options={"npnet": {"weights": "sdlx"}})
    assert "does not exist" in refused(options={"npnet": {"weights": str(tmp_path / "no.safetensors")}})
    assert "of family sd; leave npnet.weights= out" in refused(options={"npnet": {"weights": "sdxl"}})
    assert "genbench train" in refused(model=str(folder), options={"npnet": {"weights": "dit"}})
    save_file({"unet.lora_A.weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    assert "is a LoRA" in refused(options={"npnet": {"weights": str(tmp_path / "lora.safetensors")}})


def test_other_weights_in_the_same_file_are_another_version(tmp_path: Path) -> None:
    file = made(tmp_path / "w.safetensors", 4, 16, 24, 128)
    before = build("npnet", {"weights": file}).fingerprint
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes() + b" ")
    assert build("npnet", {"weights": file}).fingerprint != before


def test_families_without_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="'npnet' does not hold for models of family 'unconditional'"):
        generate(model=str(saved("ddpm", tmp_path / "ddpm")), plugin="npnet", steps=2)
    with pytest.raises(PluginError, match="'npnet' does not hold for models of family 'toy'"):
        generate(model="toy", prompt="red", plugin="npnet")


def test_weights_of_another_embedding_or_size(tmp_path: Path) -> None:
    other = made(tmp_path / "text.safetensors", 4, 16, 24, 64)
    assert "read text embeddings of 24 x 64, this model gives 24 x 128" in refused(
        options={"npnet": {"weights": other}}
    )
    small = made(tmp_path / "size.safetensors", 4, 8, 24, 128)
    assert "are for latents of 4 x 8 x 8, this run has 4 x 16 x 16; write height=32 width=32" in refused(
        options={"npnet": {"weights": small}}
    )
    assert "are for latents of 4 x 16 x 16, this run has 4 x 16 x 8; write height=64 width=64" in refused(width=32)


def test_published_weights_do_not_fit_another_model(tmp_path: Path) -> None:
    file = published.write("dit", "embeeding", tmp_path / "dit.safetensors")
    assert "77 x 1024, this model gives 24 x 128" in refused(options={"npnet": {"weights": str(file)}})


def test_published_weights_are_fetched_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from genbench import hub

    asked: list[str] = []

    def fetch(word: str, local_only: bool = False) -> Path:
        asked.append(word)
        raise ModelError("no network here")

    monkeypatch.setattr(hub, "fetch", fetch)
    folder = saved("sdxl", tmp_path / "sdxl")
    assert "no network here" in refused(model=str(folder), options={"npnet": {"weights": "sdxl"}})
    assert asked == ["hf:LucipherDev/Golden-Noise-NPNets/sdxl.safetensors"]


def test_every_family_is_listed() -> None:
    assert set(TEXT) == set(FAMILIES) - {"ddpm", "ddim", "class_conditional"}
