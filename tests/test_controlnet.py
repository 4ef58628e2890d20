"""ControlNet views against the stock ControlNet pipelines, on every family that has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from genbench.backbones import adapt
from genbench.backbones.flux import pack
from genbench.errors import ModelError
from genbench.kinds import Ledger
from tests.test_parity import Call, walk
from tests.tiny import tiny

CALL = Call(height=32, width=32, guidance=3.0)
PIPELINES = {
    "sd": diffusers.StableDiffusionControlNetPipeline,
    "sdxl": diffusers.StableDiffusionXLControlNetPipeline,
    "sd3": diffusers.StableDiffusion3ControlNetPipeline,
    "flux": diffusers.FluxControlNetPipeline,
}


def wide(net: Any) -> Any:
    """Give the zero-initialised outputs of a new ControlNet a size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for parameter in net.parameters():
            if parameter.abs().max() == 0:
                nn.init.normal_(parameter, std=0.3)
    return net.eval()


def controlnet(family: str, pipe: Any) -> Any:
    if family in ("sd", "sdxl"):
        # The tiny autoencoder shrinks by 2, so the picture does as well.
        return wide(diffusers.ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 16)))
    if family == "sd3":
        # Its last block is of another shape than the transformer's own, so no weights are taken over.
        return wide(diffusers.SD3ControlNetModel.from_transformer(pipe.transformer, 1, 0, False))
    net = diffusers.FluxControlNetModel.from_transformer(
        pipe.transformer, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2
    )
    return wide(net)


def tiny_of(family: str) -> Any:
    """A tiny pipeline; of the tiny SD3 the only block is the last, which takes no residuals, so here it has two."""
    pipe = tiny(family)
    if family == "sd3":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(8)
            pipe.transformer = type(pipe.transformer).from_config({**pipe.transformer.config, "num_layers": 2}).eval()
            for parameter in pipe.transformer.parameters():
                nn.init.normal_(parameter, std=0.2)
    return pipe


def certain(pipe: Any) -> None:
    """Make the autoencoder's posterior as good as a point, for stock pipelines draw from it."""
    vae = pipe.vae
    last = vae.quant_conv if vae.quant_conv is not None else vae.encoder.conv_out
    half = len(last.bias) // 2
    with torch.no_grad():
        last.weight[half:] = 0
        last.bias[half:] = -30


def picture() -> Tensor:
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("family", PIPELINES)
@torch.no_grad()
def test_a_view_is_the_stock_pipeline(family: str, tmp_path: Path) -> None:
    pipe = tiny_of(family)
    certain(pipe)
    net = controlnet(family, pipe)
    net.save_pretrained(tmp_path)
    model = adapt(pipe, Ledger())
    view = model.view(controlnet=str(tmp_path), image=picture())
    ours = walk(view, CALL)
    noise = torch.randn(1, *model.latent_shape(32, 32), generator=torch.Generator().manual_seed(CALL.seed))
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    stock = PIPELINES[family](**parts, controlnet=net)
    stock.set_progress_bar_config(disable=True)
    # The stock pipelines of the flow models take tensors as they go into the autoencoder.
    image = {"image": picture()} if family in ("sd", "sdxl") else {"control_image": 2 * picture() - 1}
    words = {"prompt": CALL.prompt, "guidance_scale": CALL.guidance, "num_inference_steps": CALL.steps}
    given = pack(noise) if family == "flux" else noise
    expected = stock(**words, **image, height=32, width=32, latents=given, output_type="latent").images
    assert torch.allclose(pack(ours) if family == "flux" else ours, expected, atol=1e-4)
    assert (ours - walk(model, CALL)).abs().max() > 1e-2


@torch.no_grad()
def test_an_sd3_controlnet_without_pooled_text_reads_unshifted_latents(tmp_path: Path) -> None:
    pipe = tiny("sd3")
    net = controlnet("sd3", pipe)
    net.register_to_config(force_zeros_for_pooled_projection=True)
    net.save_pretrained(tmp_path)
    model: Any = adapt(pipe, Ledger())
    view = model.view(controlnet=str(tmp_path), image=picture())
    config = pipe.vae.config
    shifted = model.encode_image(picture())
    difference = view.bound.positive["controlnet_cond"] - shifted
    assert torch.allclose(
        difference, torch.full_like(difference, config.shift_factor * config.scaling_factor), atol=1e-5
    )


@torch.no_grad()
def test_a_view_leaves_the_model_alone_and_is_opened_once(tmp_path: Path) -> None:
    pipe = tiny("sd")
    controlnet("sd", pipe).save_pretrained(tmp_path)
    model = adapt(pipe, Ledger())
    before = walk(model, CALL)
    one, other = (model.view(controlnet=str(tmp_path), image=each) for each in (picture(), 1 - picture()))
    assert torch.equal(walk(model, CALL), before)
    assert one.network is other.network
    assert not torch.equal(walk(one, CALL), walk(other, CALL))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    controlnet("sdxl", tiny("sdxl")).save_pretrained(tmp_path / "sdxl")
    with pytest.raises(ModelError, match="cross_attention_dim is 32, not 16"):
        adapt(tiny("sd"), Ledger()).view(controlnet=str(tmp_path / "sdxl"))
    with pytest.raises(ModelError, match="is a ControlNetModel; this model takes a SD3ControlNetModel"):
        adapt(tiny("sd3"), Ledger()).view(controlnet=str(tmp_path / "sdxl"))
