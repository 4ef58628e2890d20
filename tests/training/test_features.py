"""Reading a network's features during a call: every family, gradients, errors, hooks that go away."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genbench.backbones import adapt
from genbench.backbones.toy import ToyModel
from genbench.errors import ModelError
from genbench.kinds import Denoise, Ledger, Level
from genbench.training.features import feature_names, features, network_of
from genbench_fdistill.heads import Discriminator, generator_loss
from tests.tiny import tiny, unet

SIZE = 32
EXPECTED = {
    "sd": ("mid_block", (16, 8, 8)),
    "sdxl": ("mid_block", (16, 8, 8)),
    "ddpm": ("mid_block", (16, 8, 8)),
    "pixart_alpha": ("transformer_blocks.0", (64, 24)),
    "pixart_sigma": ("transformer_blocks.0", (64, 24)),
    "hunyuan": ("blocks.1", (4, 16)),
    "sd3": ("transformer_blocks.0", (64, 16)),
    "flux": ("single_transformer_blocks.0", (64, 32)),
}
"""Default block, and one picture's feature at 32 pixels."""


@cache
def model(family: str) -> Any:
    return adapt(tiny(family), Ledger())


def denoiser(family: str, guidance_scale: float = 1.0, prompts: tuple[str, ...] = ("red", "blue")) -> Denoise:
    each = model(family)
    conditioning = each.encode_prompt(prompts, guidance=guidance_scale != 1.0, height=SIZE, width=SIZE)
    return each.denoiser(conditioning, guidance_scale)


def latents(family: str, rows: int = 2) -> Tensor:
    shape = model(family).latent_shape(SIZE, SIZE) if family != "ddpm" else (3, 16, 16)
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0))


def level(family: str) -> Level:
    sampler = model(family).sampler
    return sampler.schedule(4, model(family), tuple(latents(family).shape[1:])).levels[1]


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


@pytest.mark.parametrize("family", list(EXPECTED))
def test_the_middle_block_of_every_family(family: str) -> None:
    """Shapes, gradients to x and to the network, and an output that is untouched."""
    network, denoise, x = network_of(model(family)), denoiser(family), latents(family).requires_grad_()
    name, shape = EXPECTED[family]
    names = feature_names(network)
    assert names == (name,)
    plain = denoise(x, level(family)).raw
    with features(network, names) as found:
        told = denoise(x, level(family)).raw
    assert torch.equal(told, plain) and hooks(network) == 0
    assert list(found) == [name] and tuple(found[name].shape) == (2, *shape)
    loss = generator_loss(Discriminator([shape], seed=0)(list(found.values())))
    (gradient,) = torch.autograd.grad(loss, x)
    assert torch.isfinite(gradient).all() and (gradient.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("family", list(EXPECTED))
def test_a_call_that_ends_early_has_the_same_features_and_gradients(family: str) -> None:
    network, denoise, x = network_of(model(family)), denoiser(family), latents(family).requires_grad_()
    after: list[Tensor] = []
    with features(network, feature_names(network)) as whole:
        denoise(x, level(family))
    with features(network, feature_names(network), stop=True) as early:
        after.append(denoise(x, level(family)).raw)
    assert not after and hooks(network) == 0
    (name,) = whole
    assert torch.equal(early[name], whole[name])
    pulls = [torch.autograd.grad(found[name].square().sum(), x)[0] for found in (early, whole)]
    assert torch.equal(*pulls)


@pytest.mark.parametrize("family", ["sd", "sdxl", "pixart_sigma", "sd3"])
def test_rows_of_guidance_are_the_halves_in_their_order(family: str) -> None:
    """One call for both halves: [without the prompt, with it]."""
    network, x = network_of(model(family)), latents(family)
    names = feature_names(network)
    with torch.no_grad(), features(network, names) as both:
        denoiser(family, 5.0)(x, level(family))
    with torch.no_grad(), features(network, names) as prompted:
        denoiser(family, 1.0)(x, level(family))
    assert len(both[names[0]]) == 4
    assert torch.allclose(both[names[0]][2:], prompted[names[0]], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(both[names[0]][:2], prompted[names[0]], rtol=1e-2, atol=1e-2)


# --- which blocks -------------------------------------------------------------------------------------------------


def test_blocks_by_number() -> None:
    assert feature_names(network_of(model("sd")), (0, 1)) == ("down_blocks.0", "down_blocks.1")
    flux = network_of(model("flux"))
    assert feature_names(flux, (0, 1)) == ("transformer_blocks.0", "single_transformer_blocks.0")
    assert feature_names(network_of(model("hunyuan")), (1, 0)) == ("blocks.1", "blocks.0")


@pytest.mark.parametrize(("family", "shapes"), [("sd", [(8, 8, 8), (16, 8, 8)]), ("flux", [(64, 32)] * 2)])
def test_several_blocks_come_in_the_order_of_the_call(family: str, shapes: list[tuple[int, ...]]) -> None:
    network, x = network_of(model(family)), latents(family)
    names = feature_names(network, (0, 1))
    with torch.no_grad(), features(network, names[::-1]) as found:
        denoiser(family)(x, level(family))
    assert tuple(found) == names and [tuple(each.shape[1:]) for each in found.values()] == shapes
    assert Discriminator(shapes, seed=0)(list(found.values())).shape == (2, 2)


def test_the_published_middle_of_flux() -> None:
    """Block 28 of 19 and 38 is the single block 9, as in FastGen."""
    network = nn.Module()
    network.transformer_blocks = nn.ModuleList(nn.Identity() for _ in range(19))
    network.single_transformer_blocks = nn.ModuleList(nn.Identity() for _ in range(38))
    assert feature_names(network) == ("single_transformer_blocks.9",)


def test_a_unet_without_a_middle_block() -> None:
    assert feature_names(unet(mid_block_type=None)) == ("down_blocks.1",)


@pytest.mark.parametrize("blocks", [(2,), (0, -1)])
def test_blocks_that_are_not_there_are_refused(blocks: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="has 0 to 1"):
        feature_names(network_of(model("sd")), blocks)


def test_networks_without_blocks_are_refused() -> None:
    with pytest.raises(ModelError, match="Mixture has no blocks"):
        feature_names(network_of(ToyModel()))
    with pytest.raises(ModelError, match="no denoising network"):
        network_of(ToyModel(modules={}))
    with pytest.raises(ModelError, match="no submodule attic"), features(network_of(model("sd")), ("attic",)):
        pass


# --- hooks --------------------------------------------------------------------------------------------------------


def test_hooks_go_away_after_an_error() -> None:
    network = network_of(model("sd"))
    with pytest.raises(ZeroDivisionError), features(network, ("mid_block",)):
        assert hooks(network) == 1
        raise ZeroDivisionError
    assert hooks(network) == 0
    with pytest.raises(ModelError, match="was not called"), features(network, ("mid_block",)):
        pass
    assert hooks(network) == 0


def test_a_name_given_twice_hooks_once_and_a_missing_one_leaves_no_hook() -> None:
    network = network_of(model("sd"))
    with torch.no_grad(), features(network, ("mid_block", "mid_block")) as found:
        assert hooks(network) == 1
        denoiser("sd")(latents("sd"), level("sd"))
    assert list(found) == ["mid_block"]
    with pytest.raises(ModelError), features(network, ("mid_block", "attic")):
        pass
    assert hooks(network) == 0


def test_the_first_call_counts() -> None:
    """Also where blocks are computed again in the backward pass, within."""
    network, denoise, x = network_of(model("sd")), denoiser("sd"), latents("sd")
    with torch.no_grad(), features(network, ("mid_block",)) as alone:
        denoise(x, level("sd"))
    with torch.no_grad(), features(network, ("mid_block",)) as first:
        denoise(x, level("sd"))
        denoise(2 * x, level("sd"))
    assert torch.equal(first["mid_block"], alone["mid_block"])
    with torch.no_grad(), features(network, ("mid_block",)) as outer, features(network, ("mid_block",)) as inner:
        denoise(x, level("sd"))
    assert outer["mid_block"] is inner["mid_block"]


def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    own = adapt(tiny("sd"), Ledger())
    network = own.modules["unet"]
    denoise = own.denoiser(own.encode_prompt(("red", "blue"), guidance=False), 1.0)

    def gradient(within: bool) -> Tensor:
        x = latents("sd").requires_grad_()
        with features(network, ("mid_block",)) as found:
            denoise(x, level("sd"))
            if within:
                return torch.autograd.grad(found["mid_block"].square().sum(), x)[0]
        return torch.autograd.grad(found["mid_block"].square().sum(), x)[0]

    plain = gradient(False)
    network.train()
    network.enable_gradient_checkpointing()  # type: ignore[operator]
    for within in (False, True):
        assert torch.allclose(gradient(within), plain, atol=1e-6)
