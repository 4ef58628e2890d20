"""int8 on a GPU: the kernels compute the reference, and what a UNet of SDXL's shape costs against bfloat16."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genbench.backbones.caches import sharing_copy
from genbench_ptq4dm.layers import float_layers
from genbench_ptq4dm.network import quantized
from genbench_ptq4dm.plugin import run_by
from genbench_ptq4dm.quantizer import Grid, Rounded
from tests.plugins.test_ptq4dm_engines import LAYERS, layer_of, noise, off, rounded_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
@pytest.mark.parametrize("rows", [1, 3])
def test_kernels_compute_the_reference(layer: Any, shape: tuple[int, ...], rows: int) -> None:
    x = noise(rows, *shape[1:], seed=1).cuda() + 0.7
    made = layer_of(layer.cuda(), rounded_of(layer, x))
    wanted = made(x)
    run_by(nn.Sequential(made), "torch")
    assert off(made(x), wanted) < 2e-5 and made(x).shape == wanted.shape
    assert off(made(x.bfloat16()).float(), wanted) < 0.05


def sdxl() -> nn.Module:
    """A UNet of SDXL's shape with chance weights."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("cuda"):
        network = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    return network.to(torch.bfloat16).eval().requires_grad_(False)


def question(rows: int = 2) -> dict[str, Any]:
    chance = torch.Generator("cuda").manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=chance, device="cuda", dtype=torch.bfloat16)

    added = {"text_embeds": drawn(rows, 1280), "time_ids": torch.full((rows, 6), 1024.0, device="cuda").bfloat16()}
    return {
        "sample": drawn(rows, 4, 128, 128),
        "timestep": torch.tensor(500, device="cuda"),
        "encoder_hidden_states": drawn(rows, 77, 2048),
        "added_cond_kwargs": added,
        "return_dict": False,
    }


def integers(network: nn.Module, asked: dict[str, Any]) -> dict[str, Rounded]:
    """Every layer's integers, ranges from one call."""
    watched, seen = sharing_copy(network), {}
    for name, layer in float_layers(watched).items():
        layer.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.setdefault(name, [float(v) for v in torch.aminmax(inputs[0])])
        )
    watched(**asked)
    layers = float_layers(network)
    limits = {name: layers[name].weight.float().abs().flatten(1).amax(1) for name in seen}
    return {name: Rounded.of(layers[name].weight, limits[name], 8, Grid.over(*seen[name])) for name in seen}


def cost(ask: Callable[[], Any], repeats: int = 20) -> tuple[float, float]:
    """Median milliseconds of a call, and GB in use at most while it runs."""
    for _ in range(3):
        ask()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    times: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        ask()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 1000 * sorted(times)[repeats // 2], torch.cuda.max_memory_allocated() / 1e9


def costs(network: nn.Module, asked: dict[str, Any], name: str) -> dict[str, tuple[float, float]]:
    """The cost as it is and compiled."""
    eager = cost(lambda: network(**asked))
    network.compile()
    return {name: eager, f"{name} compiled": cost(lambda: network(**asked))}


def rounded_network(network: nn.Module, asked: dict[str, Any]) -> nn.Module:
    made = quantized(network, integers(network, asked))
    run_by(made, "torch")
    return made


@torch.no_grad()
@pytest.mark.timeout(1800)
def test_the_cost_of_a_unet_of_sdxls_shape(capsys: pytest.CaptureFixture[str]) -> None:
    plain, asked = [sdxl()], question()
    wanted = plain[0](**asked)[0]
    made = rounded_network(plain[0], asked)
    error = off(made(**asked)[0].float(), wanted.float())
    table = costs(plain[0], asked, "bfloat16")
    plain.clear()
    gc.collect()
    torch.cuda.empty_cache()
    table |= costs(made, asked, "int8")
    lines = [f"{name:<20} {ms:8.1f} ms {gigabytes:6.2f} GB" for name, (ms, gigabytes) in table.items()]
    with capsys.disabled():
        sys.stdout.write("\n".join(["", f"{torch.cuda.get_device_name()}, relative error {error:.3f}", *lines, ""]))
    assert error < 0.3
    assert table["int8 compiled"][1] < 0.8 * table["bfloat16 compiled"][1]
