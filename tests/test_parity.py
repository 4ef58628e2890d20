"""A run without plugins is the stock pipeline's own call: latents and pictures, bit for bit, at batch 1 in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from genbench import streams
from genbench.backbones import adapt
from genbench.backbones.base import to_uint8
from genbench.kinds import Conditioning, Context, Ledger, State
from genbench.schedulers import SchedulerSampler, named_sampler
from tests.tiny import saved, tiny


@dataclass(frozen=True)
class Call:
    """One picture, in the words of a stock call. `stock` are further arguments for the stock pipeline alone."""

    prompt: str = "a red cube"
    negative: str | None = None
    seed: int = 3
    guidance: float = 5.0
    height: int = 32
    width: int = 48
    steps: int = 4
    eta: float = 0.0
    stock: Mapping[str, Any] = field(default_factory=dict)


FIXED_SIZE = ("ddpm", "ddim", "class_conditional")
TEXT = ("sd", "sd_v", "sdxl", "pixart_alpha", "pixart_sigma", "hunyuan", "sd3", "sd35", "flux", "flux_schnell")
BINNED = ("pixart_alpha", "pixart_sigma", "hunyuan")


@cache
def pipeline(family: str) -> Any:
    return tiny(family)


def stock(family: str, call: Call, output: str = "latent", scheduler: Any = None) -> Any:
    """Run the stock pipeline: latents (1, ...) or 8-bit pictures (1, h, w, 3)."""
    pipe = pipeline(family)
    own = pipe.scheduler
    generator = torch.Generator("cpu").manual_seed(call.seed)
    shared = {"num_inference_steps": call.steps, "generator": generator}
    try:
        pipe.scheduler = scheduler or type(own).from_config(own.config)
        if family in FIXED_SIZE:
            images = pipe(**shared, **call.stock, output_type="np").images
            return torch.from_numpy(images) if output == "latent" else (images * 255).round().astype("uint8")
        size = {"height": call.height, "width": call.width}
        binning = {"use_resolution_binning": False} if family in BINNED else {}
        eta = {"eta": call.eta} if family in ("sd", "sd_v", "sd_lcm", "sdxl", *BINNED) else {}
        negative = {} if call.negative is None else {"negative_prompt": call.negative}
        words = {"prompt": call.prompt, "guidance_scale": call.guidance, **negative, **size, **binning, **eta}
        images = pipe(**shared, **words, **call.stock, output_type="latent" if output == "latent" else "pil").images
        return images if output == "latent" else numpy.stack([numpy.asarray(image) for image in images])
    finally:
        pipe.scheduler = own


def context(model: Any, sampler: Any, call: Call, conditioning: Conditioning, shape: tuple[int, ...]) -> Context:
    return Context(
        ledger=model.ledger,
        load_file=lambda source, build: None,
        open_model=lambda word: model,
        model=model,
        sampler=sampler,
        schedule=sampler.schedule(call.steps, model, shape),
        conditioning=conditioning,
        prompts=(call.prompt,),
        seeds=(call.seed,),
        guidance_scale=call.guidance,
    )


def walk(model: Any, call: Call, seeds: tuple[int, ...] = (), sampler: Any = None, changed: Any = None) -> Tensor:
    """Our own run: encode, draw, sample; `changed` may edit the conditioning. Latents (n, ...)."""
    height, width = (16, 16) if model.family == "unconditional" else (call.height, call.width)
    shape = model.latent_shape(height, width)
    negative = None if call.negative is None else [call.negative]
    guided = call.guidance > 1
    conditioning = model.encode_prompt([call.prompt], negative, guidance=guided, height=height, width=width)
    ctx = context(model, sampler or model.sampler, call, changed(conditioning) if changed else conditioning, shape)
    noise, rng = streams.normal(streams.seeded(seeds or (call.seed,)), shape, model.dtype)
    state = State(noise * ctx.schedule.init_scale, 0, {}, rng)
    denoise = ctx.denoiser()
    while state.index < ctx.schedule.steps:
        state = ctx.sampler.step(state, denoise, ctx)
    return state.x


def packed(family: str, latents: Tensor) -> Tensor:
    """Our latents in the stock pipeline's own layout."""
    if not family.startswith("flux"):
        return latents
    pipe = pipeline(family)
    return pipe._pack_latents(latents, *latents.shape)


def ours(family: str, call: Call, sampler: Any = None, ledger: Ledger | None = None, model: Any = None) -> Tensor:
    with torch.no_grad():
        return walk(model or adapt(pipeline(family), ledger or Ledger()), call, sampler=sampler)


def assert_parity(family: str, call: Call, scheduler: Any = None, model: Any = None) -> None:
    sampler = None if scheduler is None else SchedulerSampler(scheduler, call.eta)
    model = model or adapt(pipeline(family), Ledger())
    latents = ours(family, call, sampler, model=model)
    pictures = stock(family, call, "pil", scheduler)
    with torch.no_grad():
        images = model.decode(latents)
    if family in FIXED_SIZE:
        assert torch.equal(images.permute(0, 2, 3, 1), stock(family, call, "latent", scheduler))
    else:
        assert torch.equal(packed(family, latents), stock(family, call, "latent", scheduler))
    assert numpy.array_equal(to_uint8(images).permute(0, 2, 3, 1).numpy(), pictures)
    assert torch.isfinite(latents).all()
    assert images.std() > 0.02


CHANGES: Mapping[str, Call] = {
    "prompt": Call(prompt="the blue sphere, left of a cat"),
    "negative": Call(negative="a photo of a cat"),
    "seed": Call(seed=4),
    "guidance": Call(guidance=2.0),
    "steps": Call(steps=5),
}


@pytest.mark.parametrize("family", TEXT)
@pytest.mark.parametrize("change", [None, *CHANGES, "guidance 1", "square"])
def test_every_family_equals_its_stock_call(family: str, change: str | None) -> None:
    special = {"guidance 1": Call(guidance=1.0), "square": Call(height=32, width=32), None: Call()}
    call = CHANGES.get(change or "", special.get(change, Call()))
    assert_parity(family, call)


@pytest.mark.parametrize("family", TEXT)
@pytest.mark.parametrize("change", CHANGES)
def test_what_parity_rests_on_changes_the_stock_picture(family: str, change: str) -> None:
    """Without this, a pipeline that ignores its prompt would pass every test above."""
    same = torch.equal(stock(family, Call()), stock(family, CHANGES[change]))
    # FLUX ignores a negative prompt until true_cfg_scale is set, and schnell has no guidance input.
    ignored = (family.startswith("flux") and change == "negative") or (
        family == "flux_schnell" and change == "guidance"
    )
    assert same is ignored


@pytest.mark.parametrize("family", TEXT)
def test_size_changes_the_stock_picture(family: str) -> None:
    wide, tall = stock(family, Call(height=32, width=48)), stock(family, Call(height=48, width=32))
    assert wide.numel() == tall.numel()
    assert not torch.equal(wide.flatten(), tall.flatten())
    assert_parity(family, Call(height=48, width=32))


SAMPLERS = (
    "pndm",
    "ddpm",
    "ddim",
    "euler",
    "euler_a",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_2m_sde",
    "heun",
    "unipc",
    "lcm",
    "lms",
    "dpm2",
    "dpm2_a",
    "deis",
    "dpmpp_2s",
    "tcd",
)


@pytest.mark.parametrize("family", ["sd", "sd_v", "sdxl"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_equals_the_stock_call(family: str, name: str) -> None:
    call = Call(negative="a cat", steps=6)
    scheduler = named_sampler(name, pipeline(family).scheduler).scheduler
    assert_parity(family, call, scheduler)


@pytest.mark.parametrize("family", ["pixart_sigma", "hunyuan"])
@pytest.mark.parametrize("name", ["ddim", "euler", "euler_a", "dpmpp_2m", "heun", "unipc", "pndm"])
def test_transformers_with_other_samplers_equal_the_stock_call(family: str, name: str) -> None:
    scheduler = named_sampler(name, pipeline(family).scheduler).scheduler
    assert_parity(family, Call(steps=5), scheduler)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("name", ["ddim", "tcd"])
def test_eta_equals_the_stock_call(name: str, eta: float) -> None:
    scheduler = named_sampler(name, pipeline("sd").scheduler).scheduler
    assert_parity("sd", Call(eta=eta), scheduler)
    assert not torch.equal(
        stock("sd", Call(eta=eta), scheduler=scheduler), stock("sd", Call(eta=0.0), scheduler=scheduler)
    )


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_flow_samplers_on_sd3_equal_the_stock_call(name: str) -> None:
    scheduler = named_sampler(name, pipeline("sd3").scheduler).scheduler
    assert_parity("sd3", Call(steps=5), scheduler)


@pytest.mark.parametrize("family", ["sd3", "sd35", "flux"])
@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
def test_solvers_on_flow_sigmas_equal_the_stock_call(family: str, name: str) -> None:
    scheduler = named_sampler(name, pipeline(family).scheduler).scheduler
    assert_parity(family, Call(steps=5), scheduler)


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_one_step_and_many_steps(family: str) -> None:
    assert_parity(family, Call(steps=1))
    assert_parity(family, Call(steps=20))


@pytest.mark.parametrize("family", ["ddpm", "ddim"])
def test_unconditional_pipelines_equal_their_stock_call(family: str) -> None:
    assert not torch.equal(stock(family, Call(seed=1)), stock(family, Call(seed=2)))
    for call in (Call(guidance=1.0, steps=6), Call(guidance=1.0, seed=9, steps=11)):
        assert_parity(family, call)


def test_ddim_pipeline_with_eta() -> None:
    scheduler = pipeline("ddim").scheduler
    call = Call(guidance=1.0, eta=0.5, steps=6, stock={"eta": 0.5})
    assert_parity("ddim", call, scheduler)


def test_flux_distilled_guidance_is_one_evaluation_and_true_cfg_two() -> None:
    ledger = Ledger()
    ours("flux", Call(negative="a cat"), ledger=ledger)
    assert (ledger.evaluations, ledger.calls) == (4, 4)
    model = adapt(pipeline("flux"), Ledger()).with_true_cfg(3.0)
    call = Call(negative="a cat", stock={"true_cfg_scale": 3.0})
    assert_parity("flux", call, model=model)
    model.ledger.evaluations = 0
    ours("flux", call, model=model)
    assert model.ledger.evaluations == 8
    assert not torch.equal(stock("flux", call), stock("flux", Call(negative="a cat")))


def test_sdxl_micro_conditioning() -> None:
    told = {"original_size": (512, 256), "crops_coords_top_left": (16, 8), "target_size": (64, 96)}
    call = Call(stock=told)
    assert not torch.equal(stock("sdxl", call), stock("sdxl", Call()))
    model = adapt(pipeline("sdxl"), Ledger())
    with torch.no_grad():
        latents = walk(model, call, changed=lambda conditioning: model.with_size(conditioning, **told))
    assert torch.equal(latents, stock("sdxl", call))


def test_empty_negative_prompt_of_sdxl_is_not_no_negative_prompt() -> None:
    assert not torch.equal(stock("sdxl", Call(negative="")), stock("sdxl", Call()))
    assert_parity("sdxl", Call(negative=""))


def test_distilled_unets_with_embedded_guidance() -> None:
    assert pipeline("sd_lcm").unet.config.time_cond_proj_dim == 8
    assert_parity("sd_lcm", Call(guidance=7.0))
    assert not torch.equal(stock("sd_lcm", Call(guidance=7.0)), stock("sd_lcm", Call(guidance=2.0)))


@pytest.mark.parametrize("family", TEXT)
def test_a_picture_does_not_depend_on_its_batch(family: str) -> None:
    # Wide random weights amplify the last bit from step to step far more than trained ones: few steps, mild guidance.
    call = Call(negative=None if family.startswith("flux") else "a cat", guidance=2.0, steps=3)
    model = adapt(pipeline(family), Ledger())
    with torch.no_grad():
        together = model.decode(walk(model, call, seeds=(7, 8, 9)))
        alone = torch.cat([model.decode(walk(model, call, seeds=(seed,))) for seed in (7, 8, 9)])
    assert (together - alone).abs().max() < 1e-4
    assert (alone[0] - alone[1]).abs().max() > 0.05


@pytest.mark.parametrize("family", [family for family in TEXT if not family.startswith("flux")])
def test_the_ledger_counts_guidance_as_two(family: str) -> None:
    guided, plain = Ledger(), Ledger()
    ours(family, Call(steps=4), sampler=None, ledger=guided)
    ours(family, Call(steps=4, guidance=1.0), ledger=plain)
    evaluations = 5 if family in ("sd", "sd_v") else 4  # PNDM makes n + 1
    assert (guided.evaluations, guided.calls) == (2 * evaluations, evaluations)
    assert (plain.evaluations, plain.calls) == (evaluations, evaluations)


@pytest.mark.parametrize("family", ["sd", "sdxl", "pixart_sigma", "sd3", "flux"])
def test_a_whole_run_equals_the_stock_call(family: str, tmp_path: Path) -> None:
    """From the words of a run to the picture: the same folder opened by genbench and by diffusers."""
    import genbench

    folder = saved(family, tmp_path / family)
    words = {"prompt": "a red cube", "seed": 3, "steps": 4, "guidance_scale": 5.0, "height": 32, "width": 48}
    (picture,) = genbench.generate(model=str(folder), device="cpu", dtype="float32", offline=True, **words)
    pipe = type(pipeline(family)).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    binning = {"use_resolution_binning": False} if family in BINNED else {}
    reference = pipe(
        prompt="a red cube",
        num_inference_steps=4,
        guidance_scale=5.0,
        height=32,
        width=48,
        generator=torch.Generator("cpu").manual_seed(3),
        output_type="pil",
        **binning,
    ).images[0]
    assert numpy.array_equal(numpy.asarray(picture.pil), numpy.asarray(reference))
    assert picture.nfe == {"sd": 10, "flux": 4}.get(family, 8)
