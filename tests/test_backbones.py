"""Adapters beyond parity: guidance, rows, sizes, gradients, long prompts, replaced parts, views, step caches."""

from __future__ import annotations

import gc
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from genbench.backbones import ADAPTERS, adapt, adapter_class
from genbench.backbones.base import check_multiple, to_uint8
from genbench.backbones.caches import cache_config, sharing_copy
from genbench.backbones.fitting import fit, fit_one
from genbench.backbones.unconditional import class_number
from genbench.errors import ModelError, UsageError
from genbench.kinds import Conditioning, Denoise, Ledger, Level
from tests.tiny import clip_tokenizer, t5_tokenizer, tiny

GUIDED = ("sd", "sdxl", "pixart_alpha", "pixart_sigma", "hunyuan", "sd3")
LATENT = (*GUIDED, "sd35", "flux")
PROMPT, AWAY = "a red cube", "a photo of a cat"


@cache
def model(family: str) -> Any:
    return adapt(tiny(family), Ledger())


def point(adapter: Any, rows: int = 1, size: tuple[int, int] = (32, 32)) -> tuple[Tensor, Level]:
    """A noisy x and the level of the sampler's second step."""
    shape = adapter.latent_shape(*size)
    schedule = adapter.sampler.schedule(4, adapter, shape)
    noise = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0))
    return noise, schedule.levels[1]


def conditioning(adapter: Any, prompts: list[str] | None = None) -> Conditioning:
    prompts = prompts or [PROMPT]
    return adapter.encode_prompt(prompts, [AWAY] * len(prompts), guidance=True, height=32, width=32)


# --- guidance -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", GUIDED)
@torch.no_grad()
def test_guidance_is_the_formula_at_any_scale(family: str) -> None:
    adapter, given = model(family), conditioning(model(family))
    x, level = point(adapter)
    cond = adapter.denoiser(given, 1.0)(x, level)
    uncond = adapter.denoiser(given, 0.0)(x, level)
    assert cond.cond is None
    assert (cond.raw - uncond.raw).abs().max() > 1e-3
    for scale in (3.0, 0.5, -1.0):
        guided = adapter.denoiser(given, scale)(x, level)
        assert torch.allclose(guided.raw, uncond.raw + scale * (cond.raw - uncond.raw), atol=1e-4)
        assert guided.cond is not None and guided.uncond is not None
        assert torch.allclose(guided.cond.raw, cond.raw, atol=1e-4)
        assert torch.allclose(guided.uncond.raw, uncond.raw, atol=1e-4)
        assert guided.type == adapter.prediction_type


@pytest.mark.parametrize("family", GUIDED)
@torch.no_grad()
def test_without_a_negative_half_there_is_one_evaluation(family: str) -> None:
    adapter = model(family).replace(ledger=Ledger())
    given = adapter.encode_prompt([PROMPT], guidance=False, height=32, width=32)
    assert given.negative is None
    x, level = point(adapter, rows=3)
    assert adapter.denoiser(given, 7.0)(x, level).uncond is None
    assert (adapter.ledger.evaluations, adapter.ledger.calls) == (3, 1)


@torch.no_grad()
def test_one_row_of_conditioning_serves_any_batch_and_other_numbers_are_refused() -> None:
    adapter = model("sd")
    x, level = point(adapter, rows=3)
    one, three = conditioning(adapter), conditioning(adapter, [PROMPT] * 3)
    assert torch.allclose(
        adapter.denoiser(one, 5.0)(x, level).raw, adapter.denoiser(three, 5.0)(x, level).raw, atol=1e-5
    )
    with pytest.raises(UsageError, match="2 rows and x has 3"):
        adapter.denoiser(conditioning(adapter, [PROMPT] * 2), 5.0)(x, level)


@torch.no_grad()
def test_the_networks_input_is_x_over_the_levels_scale() -> None:
    adapter = model("sdxl")
    x, level = point(adapter)
    assert float(level.scale) > 1
    plain = Level(level.t, level.alpha, level.sigma)
    given = conditioning(adapter)
    left = adapter.denoiser(given, 1.0)(x, level).raw
    assert torch.equal(left, adapter.denoiser(given, 1.0)(x / level.scale, plain).raw)


# --- pictures and sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*LATENT, "ddpm"])
def test_decode_and_encode_are_differentiable(family: str) -> None:
    adapter = model(family)
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    latents = adapter.encode_image(image)
    assert latents.shape == (2, *adapter.latent_shape(32, 32))
    again = adapter.decode(latents)
    assert again.shape == image.shape
    assert again.min() >= 0 and again.max() <= 1
    again.sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0


@pytest.mark.parametrize("family", LATENT)
def test_scaling_of_latents_has_an_inverse(family: str) -> None:
    adapter = model(family)
    z = torch.randn(1, adapter.latent_channels, 4, 4)
    assert torch.allclose(adapter.scale_latents(adapter.unscale_latents(z)), z, atol=1e-5)


def test_sdxl_statistics_of_latents() -> None:
    pipe = tiny("sdxl")
    pipe.vae.register_to_config(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.0, 2.0, 0.5, 1.5])
    adapter = adapt(pipe, Ledger())
    z = torch.randn(1, 4, 4, 4)
    expected = z[0, 1] * 2.0 / pipe.vae.config.scaling_factor - 0.2
    assert torch.allclose(adapter.unscale_latents(z)[0, 1], expected, atol=1e-6)
    assert torch.allclose(adapter.scale_latents(adapter.unscale_latents(z)), z, atol=1e-5)


@pytest.mark.parametrize("family", ["sd", "sdxl", "pixart_sigma", "hunyuan", "sd3", "flux"])
def test_sizes_that_do_not_fit_name_the_nearest(family: str) -> None:
    adapter = model(family)
    multiple = adapter.multiple
    with pytest.raises(UsageError, match=f"height={5 * multiple + 1} .* {5 * multiple} or {6 * multiple}"):
        adapter.latent_shape(5 * multiple + 1, 2 * multiple)
    with pytest.raises(UsageError, match="width=-8"):
        adapter.latent_shape(multiple, -8)


def test_nearest_sizes() -> None:
    check_multiple("height", 512, 8)
    with pytest.raises(UsageError, match="nearest: 512 or 520"):
        check_multiple("height", 513, 8)
    with pytest.raises(UsageError, match="nearest: 8$"):
        check_multiple("height", 0, 8)


@pytest.mark.parametrize(
    ("family", "steps", "guidance"), [("sd", 50, 7.5), ("sdxl", 50, 5.0), ("pixart_sigma", 20, 4.5)]
)
def test_recommended_settings_are_the_stock_calls(family: str, steps: int, guidance: float) -> None:
    side = 32
    told = {"steps": steps, "guidance_scale": guidance, "height": side, "width": side}
    assert dict(model(family).recommended) == told


def test_eight_bits_are_those_of_the_stock_pictures() -> None:
    exact = torch.tensor([0.0, 0.5 / 255, 1.5 / 255, 2.5 / 255, 100.49 / 255, 100.51 / 255, 1.0])
    images = exact.view(1, 1, 1, -1).expand(1, 3, 2, -1)
    arrays = images.permute(0, 2, 3, 1).numpy()
    stock = diffusers.image_processor.VaeImageProcessor.numpy_to_pil(arrays)[0]
    assert isinstance(stock, Image.Image)
    assert numpy.array_equal(to_uint8(images)[0].permute(1, 2, 0).numpy(), numpy.asarray(stock))


@pytest.mark.parametrize("family", ["sd", "sd3", "flux"])
def test_gradients_reach_x_through_the_network(family: str) -> None:
    adapter = model(family)
    x, level = point(adapter)
    x.requires_grad_()
    adapter.denoiser(conditioning(adapter), 3.0)(x, level).x0.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


# --- prompts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", [clip_tokenizer(), t5_tokenizer()], ids=["clip", "t5"])
@pytest.mark.parametrize("words", ["a red cube left of the blue sphere ", "x", "漢字🙂 ", " "])
def test_a_cut_prompt_reads_as_the_whole_one_would(tokenizer: Any, words: str) -> None:
    limit = 77
    for repeats in (1, 3, 200, 5000):
        prompt = words * repeats
        whole = tokenizer(prompt, truncation=True, max_length=limit).input_ids
        cut = fit_one(prompt, tokenizer, limit)
        assert tokenizer(cut.text, truncation=True, max_length=limit).input_ids == whole
        assert bool(cut.lost) is (len(tokenizer(prompt, verbose=False).input_ids) > limit)


@pytest.mark.parametrize("family", ["sd", "sdxl", "pixart_sigma", "hunyuan", "sd3", "flux"])
@torch.no_grad()
def test_a_hundred_thousand_characters_are_cut_quickly_and_said(family: str) -> None:
    prompt = ("a red cube left of the blue sphere " * 3000)[:100_000]
    began = time.process_time()
    with pytest.warns(UserWarning, match=r"cut at character \d+ of 100000: .* reads \d+ tokens; lost from '"):
        given = model(family).encode_prompt([prompt], guidance=False)
    assert time.process_time() - began < 5
    short = prompt[:6000]
    with pytest.warns(UserWarning, match="cut at character"):
        same = model(family).encode_prompt([short], guidance=False)
    for name, tensor in given.positive.items():
        assert torch.allclose(tensor, same.positive[name], atol=1e-5), name


def test_prompts_that_fit_are_left_alone_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(["", "a red cube", "é" * 20], clip_tokenizer(), 77, "the encoder") == ["", "a red cube", "é" * 20]


def test_an_empty_prompt_is_a_prompt() -> None:
    given = model("sd").encode_prompt([""], guidance=True)
    assert given.negative is not None
    assert torch.equal(given.positive["encoder_hidden_states"], given.negative["encoder_hidden_states"])


def test_classes_are_prompts() -> None:
    adapter = model("class_conditional")
    x, level = point(adapter, size=(16, 16))
    with torch.no_grad():
        three, four = (adapter.denoiser(adapter.encode_prompt([word]), 1.0)(x, level).raw for word in ("3", "4"))
        guided = adapter.denoiser(adapter.encode_prompt(["3"], ["4"]), 2.0)(x, level).raw
    assert torch.equal(three, adapter.network(x, level.t, class_labels=torch.tensor([3])).sample)
    assert torch.allclose(guided, four + 2.0 * (three - four), atol=1e-5)
    assert class_number(" 7 ", 10) == 7
    for wrong in ("10", "cat", "-1", ""):
        with pytest.raises(UsageError, match="number from 0 to 9"):
            class_number(wrong, 10)


# --- parts --------------------------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """A network without a config that notes what it is asked; what a recorder or a quantised network may look like."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[float] = []

    def forward(self, x: Tensor, t: Tensor, **keywords: Any) -> Any:
        self.seen.append(float(t))
        return self.inner(x, t, **keywords)


@torch.no_grad()
def test_replaced_modules_leave_the_original_alone() -> None:
    adapter = model("sd")
    recorder = Recorder(adapter.network)
    other = adapter.replace(modules={"unet": recorder}, recommended={"steps": 1})
    x, level = point(other)
    given = conditioning(other)
    assert torch.equal(other.denoiser(given, 5.0)(x, level).raw, adapter.denoiser(given, 5.0)(x, level).raw)
    assert recorder.seen == [float(level.t)]
    assert other.recommended["steps"] == 1 and adapter.recommended["steps"] == 50
    assert other.latent_shape(32, 32) == adapter.latent_shape(32, 32)
    assert adapter.modules["unet"] is adapter.network is not other.network
    with pytest.raises(ModelError, match="no module 'transformer'; it has text_encoder, unet, vae"):
        adapter.replace(modules={"transformer": recorder})


def test_a_float16_vae_that_overflows_is_kept_in_float32() -> None:
    pipe = tiny("sdxl").to(dtype=torch.float16)
    adapter = adapt(pipe, Ledger())
    assert adapter.dtype == torch.float16
    assert adapter.modules["vae"].dtype == torch.float32
    assert pipe.vae.dtype == torch.float16


# --- views --------------------------------------------------------------------------------------------------------


def write_lora(family: str, folder: Path, seed: int = 5) -> Path:
    """A LoRA of rank 2 with weights large enough to see."""
    from peft import LoraConfig, get_peft_model_state_dict

    pipe = tiny(family)
    network = pipe.unet if family.startswith("sd") and hasattr(pipe, "unet") else pipe.transformer
    network.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v"]))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    state = get_peft_model_state_dict(network)
    layers = {"unet_lora_layers" if hasattr(pipe, "unet") else "transformer_lora_layers": state}
    type(pipe).save_lora_weights(folder, **layers)
    return folder / "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
@torch.no_grad()
def test_a_lora_view_shares_weights_and_leaves_nothing_behind(family: str, tmp_path: Path) -> None:
    path = write_lora(family, tmp_path)
    adapter = model(family)
    x, level = point(adapter)
    given = conditioning(adapter)
    before = adapter.denoiser(given, 1.0)(x, level).raw
    view = adapter.view(lora=str(path), lora_scale=0.7)
    steered = view.denoiser(given, 1.0)(x, level).raw
    assert (steered - before).abs().max() > 1e-3
    assert torch.equal(adapter.denoiser(given, 1.0)(x, level).raw, before)
    own = {parameter.data_ptr() for parameter in adapter.network.parameters()}
    added = [name for name, parameter in view.network.named_parameters() if parameter.data_ptr() not in own]
    assert added and all("lora_" in name for name in added)
    stock = tiny(family)
    stock.load_lora_weights(str(path), adapter_name="stock")
    stock.set_adapters(["stock"], [0.7])
    assert torch.equal(adapt(stock, Ledger()).denoiser(given, 1.0)(x, level).raw, steered)


@torch.no_grad()
def test_two_loras_add_up_and_a_scale_of_zero_is_none(tmp_path: Path) -> None:
    first, second = (write_lora("sd", tmp_path / str(seed), seed) for seed in (5, 6))
    adapter = model("sd")
    x, level = point(adapter)
    given = conditioning(adapter)
    ask = lambda m: m.denoiser(given, 1.0)(x, level).raw  # noqa: E731
    both = adapter.view(lora=str(first), lora_scale=0.7).view(lora=str(second), lora_scale=0.3)
    alone = adapter.view(lora=str(first), lora_scale=0.7)
    assert not torch.allclose(ask(both), ask(alone), atol=1e-3)
    muted = adapter.view(lora=str(first), lora_scale=0.7).view(lora=str(second), lora_scale=0.0)
    assert torch.allclose(ask(muted), ask(alone), atol=1e-5)


def test_what_a_view_cannot_do_is_said(tmp_path: Path) -> None:
    pickle = tmp_path / "lora.bin"
    pickle.write_bytes(b"x")
    for family, words, says in (
        ("pixart_sigma", {"lora": "x"}, "loads no LoRA for pixart"),
        ("sd", {"lora": "./missing.safetensors"}, "does not exist"),
        ("sd", {"lora": str(pickle)}, "is a pickle"),
        ("sd", {"ip_adapter": "x"}, "attends to a picture"),
        ("sd3", {"ip_adapter": "x"}, "IP-Adapters are not supported for sd3"),
        ("hunyuan", {"controlnet": "x"}, "ControlNets are not supported for hunyuan"),
        ("sd", {"image": torch.rand(1, 3, 8, 8)}, "an image is followed by one adapter"),
        ("sd", {"controlnet": str(tmp_path)}, "cannot be opened"),
    ):
        with pytest.raises(ModelError, match=says):
            model(family).view(**words)


@torch.no_grad()
def test_a_controlnet_view_equals_the_stock_pipeline(tmp_path: Path) -> None:
    adapter = model("sd")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = diffusers.ControlNetModel.from_unet(adapter.network, conditioning_channels=3)
        for parameter in net.parameters():
            if parameter.abs().max() == 0:
                nn.init.normal_(parameter, std=0.1)
    net.save_pretrained(tmp_path)
    picture = torch.rand(1, 3, 256, 256)  # a ControlNet shrinks its picture by 8
    view = adapter.view(controlnet=str(tmp_path))
    given = conditioning(adapter)
    followed = {name: {**half, "controlnet_cond": picture} for name, half in vars(given).items()}
    x, level = point(adapter, size=(64, 64))
    steered = view.denoiser(Conditioning(**followed), 5.0)(x, level).raw
    halves = torch.cat([given.negative["encoder_hidden_states"], given.positive["encoder_hidden_states"]])  # type: ignore[index]
    down, middle = net.eval()(
        torch.cat([x] * 2), level.t, halves, controlnet_cond=picture.repeat(2, 1, 1, 1), return_dict=False
    )
    uncond, cond = adapter.network(
        torch.cat([x] * 2),
        level.t,
        halves,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    ).sample.chunk(2)
    assert torch.equal(steered, uncond + 5.0 * (cond - uncond))
    assert (steered - adapter.denoiser(given, 5.0)(x, level).raw).abs().max() > 1e-3
    with pytest.raises(ModelError, match="controlnet_cond"):
        view.denoiser(given, 5.0)(x, level)


# --- step caches --------------------------------------------------------------------------------------------------


def trajectory(denoise: Denoise, adapter: Any, seed: int) -> list[Tensor]:
    shape = adapter.latent_shape(32, 32)
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))
    levels = adapter.sampler.schedule(6, adapter, shape).levels[:-1]
    return [denoise(x, level).raw for level in levels]


def remembered(network: nn.Module) -> int:
    from diffusers.hooks.hooks import StateManager

    managers = {
        id(value): value
        for part in network.modules()
        for hook in getattr(getattr(part, "_diffusers_hook", None), "hooks", {}).values()
        for value in vars(hook).values()
        if isinstance(value, StateManager)
    }
    return sum(len(manager._state_cache) for manager in managers.values())


@pytest.mark.parametrize("word", ["first_block:0.9", "taylorseer:3"])
@torch.no_grad()
def test_a_step_cache_belongs_to_one_trajectory(word: str) -> None:
    plain = adapt(tiny("flux"), Ledger())
    pipe = tiny("flux")
    pipe.transformer.enable_cache(cache_config(word))
    adapter = adapt(pipe, Ledger())
    given = plain.encode_prompt([PROMPT])
    alone = {seed: trajectory(adapter.denoiser(given, 3.5), adapter, seed) for seed in (1, 2)}
    first, second = adapter.denoiser(given, 3.5), adapter.denoiser(given, 3.5)
    levels = adapter.sampler.schedule(6, adapter, adapter.latent_shape(32, 32)).levels[:-1]
    noises = [
        torch.randn(1, *adapter.latent_shape(32, 32), generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)
    ]
    for index, level in enumerate(levels):  # interleaved, as reflection or a search would
        assert torch.equal(first(noises[0], level).raw, alone[1][index])
        assert torch.equal(second(noises[1], level).raw, alone[2][index])
    uncached = trajectory(plain.denoiser(given, 3.5), plain, 1)
    assert torch.equal(uncached[0], alone[1][0])
    assert not torch.equal(uncached[-1], alone[1][-1])
    assert remembered(adapter.network) > 0
    del first, second
    gc.collect()
    assert remembered(adapter.network) == 0


@pytest.mark.parametrize("word", ["first_block:0.9", "taylorseer:3"])
@torch.no_grad()
def test_a_copy_with_a_step_cache_runs_its_own_blocks(word: str) -> None:
    pipe = tiny("flux")
    pipe.transformer.enable_cache(cache_config(word))
    adapter = adapt(pipe, Ledger())
    given = adapter.encode_prompt([PROMPT])
    own = sharing_copy(adapter.network)
    assert all(theirs is ours for theirs, ours in zip(adapter.network.parameters(), own.parameters(), strict=True))
    copied: Any = adapter.replace(modules={"transformer": own})
    plain = trajectory(adapter.denoiser(given, 3.5), adapter, 1)
    assert all(map(torch.equal, trajectory(copied.denoiser(given, 3.5), copied, 1), plain))
    for block in own.transformer_blocks:  # type: ignore[union-attr]
        block.attn.to_q = torch.nn.Linear(block.attn.to_q.in_features, block.attn.to_q.out_features)
    assert not torch.equal(trajectory(copied.denoiser(given, 3.5), copied, 1)[0], plain[0])


def test_unknown_caches_and_strengths_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'first_block'"):
        cache_config("first_blok")
    for word in ("taylorseer:often", "taylorseer:0", "first_block:nan", "first_block:2"):
        with pytest.raises(UsageError, match="does not fit"):
            cache_config(word)


def test_unsupported_pipelines_name_the_supported() -> None:
    assert {adapter_class(name).__name__ for name in ADAPTERS}
    with pytest.raises(ModelError, match="did you mean 'FluxPipeline'"):
        adapter_class("FluxPipelin")
