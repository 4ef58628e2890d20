"""IP-Adapter views against the stock pipelines, from files laid out as the published ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from genbench.backbones import adapt
from genbench.errors import ModelError
from genbench.kinds import Ledger
from tests.test_parity import Call, walk
from tests.tiny import tiny

CALL = Call(height=32, width=32, guidance=3.0)
SIZE, HIDDEN, PROJECTED = 28, 16, 12


def encoder(folder: Path, projected: int = PROJECTED) -> Path:
    config = CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=14,
        projection_dim=projected,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def tensors(unet: Any, plus: bool) -> dict[str, Tensor]:
    """An adapter's file: keys and values for every cross-attention, numbered as published, and the projection."""
    generator = torch.Generator().manual_seed(6)
    cross = unet.config.cross_attention_dim
    made: dict[str, Tensor] = {}
    for number, name in enumerate(name for name in unet.attn_processors if name.endswith("attn2.processor")):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for part in ("to_k_ip", "to_v_ip"):
            shape = (attention.to_k.weight.shape[0], cross)
            made[f"ip_adapter.{2 * number + 1}.{part}.weight"] = 0.5 * torch.randn(shape, generator=generator)
    shapes = resampler(cross) if plus else {"proj.weight": (4 * cross, PROJECTED), "proj.bias": (4 * cross,)}
    shapes |= {
        "norm_out.weight" if plus else "norm.weight": (cross,),
        "norm_out.bias" if plus else "norm.bias": (cross,),
    }
    return made | {f"image_proj.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def resampler(cross: int, width: int = 64) -> dict[str, tuple[int, ...]]:
    """Shapes of a "plus" adapter's resampler: always four layers, heads of 64 channels."""
    layer = {
        "0.norm1.weight": (width,),
        "0.norm1.bias": (width,),
        "0.norm2.weight": (width,),
        "0.norm2.bias": (width,),
        "0.to_q.weight": (width, width),
        "0.to_kv.weight": (2 * width, width),
        "0.to_out.weight": (width, width),
        "1.0.weight": (width,),
        "1.0.bias": (width,),
        "1.1.weight": (4 * width, width),
        "1.3.weight": (width, 4 * width),
    }
    ends = {"proj_in.weight": (width, HIDDEN), "proj_in.bias": (width,), "proj_out.weight": (cross, width)}
    layers = {f"layers.{number}.{name}": shape for number in range(4) for name, shape in layer.items()}
    return {"latents": (1, 3, width), **ends, "proj_out.bias": (cross,), **layers}


def adapter(folder: Path, pipe: Any, plus: bool = False) -> Path:
    file = folder / "ip-adapter.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors(pipe.unet, plus).items()}, file)
    return file


def picture() -> Tensor:
    """An 8-bit picture, so that it survives being shown."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (1, 3, 40, 30), generator=generator).float() / 255


@pytest.mark.parametrize("plus", [False, True], ids=["plain", "plus"])
@pytest.mark.parametrize("family", ["sd", "sdxl"])
@torch.no_grad()
def test_a_view_is_the_stock_pipeline(family: str, plus: bool, tmp_path: Path) -> None:
    pipe = tiny(family)
    file = adapter(tmp_path, pipe, plus)
    folder = encoder(tmp_path / "image_encoder")
    model = adapt(tiny(family), Ledger())
    ours = walk(model.view(ip_adapter=str(file), image=picture()), CALL)
    pipe.register_modules(
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(folder).eval(),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}),
    )
    pipe.load_ip_adapter(str(tmp_path), subfolder="", weight_name=file.name, image_encoder_folder=None)
    shown = Image.fromarray((picture()[0].permute(1, 2, 0).numpy() * 255).round().astype(numpy.uint8))
    expected = pipe(
        CALL.prompt,
        ip_adapter_image=shown,
        guidance_scale=CALL.guidance,
        num_inference_steps=CALL.steps,
        height=32,
        width=32,
        generator=torch.Generator().manual_seed(CALL.seed),
        output_type="latent",
    ).images
    assert torch.equal(ours, expected)
    assert (ours - walk(model, CALL)).abs().max() > 1e-2


@torch.no_grad()
def test_weights_are_shared_and_nothing_stays_behind(tmp_path: Path) -> None:
    pipe = tiny("sd")
    file = adapter(tmp_path, pipe)
    encoder(tmp_path / "image_encoder")
    model = adapt(pipe, Ledger())
    before = walk(model, CALL)
    one, other = (model.view(ip_adapter=str(file), image=each) for each in (picture(), 1 - picture()))
    assert one.network is other.network
    assert not torch.equal(walk(one, CALL), walk(other, CALL))
    assert torch.equal(walk(model, CALL), before)
    own = {parameter.data_ptr() for parameter in model.network.parameters()}
    added = [name for name, parameter in one.network.named_parameters() if parameter.data_ptr() not in own]
    assert added and all("_ip" in name or name.startswith("encoder_hid_proj") for name in added)
    with pytest.raises(ModelError, match="has one already"):
        one.view(ip_adapter=str(file), image=picture())


@torch.no_grad()
def test_the_encoder_is_the_one_that_fits(tmp_path: Path) -> None:
    """As published: some adapters of SDXL sit in a folder whose own encoder is larger and take that of ../models."""
    pipe = tiny("sd")
    file = adapter(tmp_path / "sdxl_models", pipe)
    encoder(tmp_path / "sdxl_models" / "image_encoder", projected=20)
    model = adapt(pipe, Ledger())
    with pytest.raises(ModelError, match=r"needs a CLIP image encoder of projection_dim 12.*projection_dim 20"):
        model.view(ip_adapter=str(file), image=picture())
    encoder(tmp_path / "models" / "image_encoder")
    assert torch.isfinite(walk(model.view(ip_adapter=str(file), image=picture()), CALL)).all()


def test_what_is_no_adapter_is_refused(tmp_path: Path) -> None:
    model = adapt(tiny("sd"), Ledger())
    of_sdxl = adapter(tmp_path / "sdxl", tiny("sdxl"))
    encoder(tmp_path / "sdxl" / "image_encoder")
    lora, face, pickle = (tmp_path / name for name in ("lora.safetensors", "face.safetensors", "adapter.bin"))
    save_file({"unet.lora_A.weight": torch.zeros(2)}, lora)
    save_file({"image_proj.norm.weight": torch.zeros(2), "ip_adapter.1.to_k_ip.weight": torch.zeros(2)}, face)
    pickle.write_bytes(b"x")
    for file, says in (
        (tmp_path / "none.safetensors", "does not exist"),
        (pickle, "is a pickle"),
        (lora, "is no IP-Adapter"),
        (face, "FaceID"),
        (of_sdxl, "was made for another model"),
    ):
        with pytest.raises(ModelError, match=says):
            model.view(ip_adapter=str(file), image=picture())
