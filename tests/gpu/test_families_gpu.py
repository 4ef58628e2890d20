"""On a GPU: bf16 families against stock diffusers, xformers, compilation, what our loop costs beyond the network."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genbench import streams
from genbench.backbones import adapt
from genbench.errors import GenbenchError
from genbench.kinds import Conditioning, Context, Ledger, State
from genbench.models import ModelOptions, open_model
from tests.tiny import saved, tiny

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

FAMILIES = ("sd", "sd_v", "sdxl", "pixart_alpha", "pixart_sigma", "hunyuan", "sd3", "sd35", "flux")
BINNED = ("pixart_alpha", "pixart_sigma", "hunyuan")
PROMPT = "a red cube"
OPTIONS = ModelOptions(device="cuda", dtype="bfloat16", offline=True)


def context(model: Any, conditioning: Conditioning, shape: tuple[int, ...], steps: int, scale: float) -> Context:
    return Context(
        ledger=model.ledger,
        load_file=lambda source, build: None,
        open_model=lambda word: model,
        model=model,
        sampler=model.sampler,
        schedule=model.sampler.schedule(steps, model, shape),
        conditioning=conditioning,
        prompts=(PROMPT,),
        seeds=(3,),
        guidance_scale=scale,
    )


@torch.no_grad()
def ours(model: Any, steps: int = 4, scale: float = 5.0, size: tuple[int, int] = (32, 48)) -> Tensor:
    shape = model.latent_shape(*size)
    conditioning = model.encode_prompt([PROMPT], guidance=True, height=size[0], width=size[1])
    ctx = context(model, conditioning, shape, steps, scale)
    noise, rng = streams.normal(streams.seeded([3]), shape, model.dtype, model.device)
    state = State(noise * ctx.schedule.init_scale, 0, {}, rng)
    denoise = ctx.denoiser()
    while state.index < ctx.schedule.steps:
        state = ctx.sampler.step(state, denoise, ctx)
    return state.x


def stock(pipe: Any, family: str, steps: int = 4, scale: float = 5.0, size: tuple[int, int] = (32, 48)) -> Tensor:
    binning = {"use_resolution_binning": False} if family in BINNED else {}
    return pipe(
        prompt=PROMPT,
        num_inference_steps=steps,
        guidance_scale=scale,
        height=size[0],
        width=size[1],
        generator=torch.Generator("cpu").manual_seed(3),
        output_type="latent",
        **binning,
    ).images


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_equals_the_stock_call(family: str) -> None:
    pipe = tiny(family).to("cuda", torch.bfloat16)
    latents = ours(adapt(pipe, Ledger()))
    if family.startswith("flux"):
        latents = pipe._pack_latents(latents, *latents.shape)
    reference = stock(pipe, family)
    assert torch.isfinite(reference).all()
    assert latents.dtype == reference.dtype
    # The same kernels in the same order: equal up to what non-deterministic kernels leave.
    assert (latents.float() - reference.float()).abs().max() <= 0.02 * reference.float().abs().max()


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
def test_xformers_stays_near_native_attention(family: str, tmp_path: Path) -> None:
    pytest.importorskip("xformers")
    folder = str(saved(family, tmp_path))
    native = ours(open_model(folder, OPTIONS, Ledger()))
    fast = ours(open_model(folder, replace(OPTIONS, attention="xformers"), Ledger()))
    assert (native.float() - fast.float()).abs().mean() < 0.1 * native.float().abs().mean()


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_compiled_networks_stay_near_eager_ones(family: str, tmp_path: Path) -> None:
    folder = str(saved(family, tmp_path))
    options = replace(OPTIONS, dtype="float32")
    eager = ours(open_model(folder, options, Ledger()))
    compiled = ours(open_model(folder, replace(options, compile=True), Ledger()))
    assert (eager - compiled).abs().max() < 0.02 * eager.abs().max()


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloaded_models_draw_the_same(offload: str, tmp_path: Path) -> None:
    folder = str(saved("sd", tmp_path))
    resident = ours(open_model(folder, OPTIONS, Ledger()))
    offloaded = ours(open_model(folder, replace(OPTIONS, offload=offload), Ledger()))
    assert torch.allclose(resident.float(), offloaded.float(), atol=0.05, rtol=0.05)


def test_a_device_that_is_not_here() -> None:
    with pytest.raises(GenbenchError, match="is not here"):
        open_model("x", replace(OPTIONS, device="cuda:63"), Ledger())


def sdxl_shaped() -> Any:
    """SDXL's own UNet configuration with random weights (2.6 billion parameters); text and VAE stay tiny."""
    import diffusers

    pipe = tiny("sdxl")
    with torch.device("cuda"):
        unet = diffusers.UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=32,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=6 * 256 + 16,
        )
    pipe.unet = unet.eval()
    return pipe.to("cuda", torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 8])
@torch.no_grad()
def test_the_loop_costs_little_beyond_the_network(batch: int) -> None:
    """Wall time of a walk over (evaluations x bare forward) stays below 1.1."""
    model = adapt(sdxl_shaped(), Ledger())
    size, steps = (256, 256), 20  # the tiny VAE halves: latents of 128 x 128, as at 1024 pixels
    shape = model.latent_shape(*size)
    conditioning = model.encode_prompt([PROMPT], height=256, width=256)
    ctx = context(model, conditioning, shape, steps, 5.0)
    noise, rng = streams.normal(streams.seeded(range(batch)), shape, model.dtype, model.device)
    denoise = ctx.denoiser()
    start = State(noise * ctx.schedule.init_scale, 0, {}, rng)

    def walk() -> float:
        state = start
        torch.cuda.synchronize()
        began = time.perf_counter()
        while state.index < ctx.schedule.steps:
            state = ctx.sampler.step(state, denoise, ctx)
        torch.cuda.synchronize()
        return time.perf_counter() - began

    def bare() -> float:
        x, level = torch.cat([noise] * 2), ctx.schedule.levels[0]
        halves = {name: torch.cat([conditioning.negative[name]] * batch + [value] * batch) for name, value in items}
        evaluate = model.evaluator(5.0)
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            evaluate(x, level.t, halves)
        torch.cuda.synchronize()
        return time.perf_counter() - began

    items = list(conditioning.positive.items())
    assert conditioning.negative is not None
    bare(), walk()
    ratio = min(walk() for _ in range(3)) / min(bare() for _ in range(3))
    assert ratio < 1.1, f"batch {batch}: wall time over (evaluations x bare forward) = {ratio:.3f}"
