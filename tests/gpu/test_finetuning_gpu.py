"""Gradients through sampling at the size of SDXL: peak memory and seconds of an update, against a naive loop.

Random weights: what a network says does not matter for what it costs. `pytest -m gpu -s` shows the figures.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextModelWithProjection

from genbench.backbones import adapt
from genbench.kinds import Ledger, Model, TrainJob
from genbench.training.finetuning import Bench
from genbench.training.optimise import Training, Turn
from genbench_alignprop import AlignPropTrainer
from genbench_dragon import DragonTrainer
from tests.tiny import SD_SCHEDULE, clip_encoder, clip_tokenizer
from tests.training.rolling import Redness, resources

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800)]
ROWS = ({"prompt": "a red cube"}, {"prompt": "a blue sphere"})
MODES: dict[str, dict[str, Any]] = {
    "last": {"truncation": "last", "last": 1},
    "per_rollout": {"truncation": "per_rollout"},
    "per_step_random": {"truncation": "per_step_random"},
    "full": {"truncation": "full"},
    "draws": {"draws": 2},
}


def sdxl() -> Any:
    """SDXL's network and autoencoder at their sizes; text encoders of its widths with one layer each."""
    diffusers: Any = import_module("diffusers")
    unet = diffusers.UNet2DConditionModel(
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
    vae = diffusers.AutoencoderKL(
        sample_size=1024,
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        scaling_factor=0.13025,
        force_upcast=False,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=clip_encoder(hidden=768, layers=1),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection, projection=1280, hidden=1280, layers=1),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(**SD_SCHEDULE, timestep_spacing="leading"),
        add_watermarker=False,
    )


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    torch.manual_seed(0)
    with torch.device("cuda"):  # 2.6 billion numbers are drawn there in seconds
        pipeline = sdxl()
    pipeline = pipeline.to("cuda", torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    adapted: Any = adapt(pipeline, Ledger())
    yield adapted.replace(name="sdxl-shaped", recommended={"height": 1024, "width": 1024})
    del pipeline, adapted
    freed()


def freed() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def job_of(model: Model, folder: Path) -> TrainJob:
    prompts = tuple(str(row["prompt"]) for row in ROWS)
    told: dict[str, Any] = {"rows": ROWS, "prompts": prompts, "reward": Redness(), "device": str(model.device)}
    return TrainJob(folder, resources(model), model, **told)


def prepared(model: Model, folder: Path, steps: int, **words: Any) -> tuple[Training, Bench]:
    small: dict[str, Any] = {"batch": 1, "micro": 1, "updates": 3, "steps": steps, "precision": "bf16"}
    training, bench, _ = AlignPropTrainer(**{**small, **words}).prepare(job_of(model, folder))
    training.watcher = None
    return training, bench


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """GB that a call adds at its peak to what is there before, and its seconds."""
    freed()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e9, time.perf_counter() - began


def updates(training: Training, count: int = 2) -> tuple[float, float]:
    """Peak GB and mean seconds of updates after the first, which also warms up."""
    training._step(0)
    found = [measured(lambda step=step: training._step(step)) for step in range(1, count + 1)]
    return max(gb for gb, _ in found), sum(seconds for _, seconds in found) / count


def naive(bench: Bench) -> None:
    """The loop without truncation and without checkpointing: the graph of every network call is kept."""
    turn = Turn("0 alignprop", 1, "model", (0,))
    with bench.accelerator.autocast():
        ctx = bench.rollout.context((str(ROWS[0]["prompt"]),), turn.seeds())
        state, own = bench.rollout.begin(ctx), ctx.denoiser()
        while state.index < ctx.schedule.steps:
            state = ctx.sampler.step(state, own, ctx)
        images = bench.adapted.model.decode(state.x)
        loss = -Redness().score(images=images, prompts=ctx.prompts).mean()
    loss.backward()


def shown(name: str, figures: tuple[float, float]) -> None:
    sys.stdout.write(f"\n{name}: {figures[0]:.1f} GB, {figures[1]:.1f} s an update")


@pytest.mark.parametrize("mode", list(MODES))
def test_what_an_update_costs(mode: str, model: Model, tmp_path: Path) -> None:
    training, bench = prepared(model, tmp_path, 8, **MODES[mode])
    before = {name: tensor.detach().clone() for name, tensor in bench.adapted.parameters.items()}
    figures = updates(training)
    shown(f"{mode}, 8 steps", figures)
    moved = [not torch.equal(before[name], tensor) for name, tensor in bench.adapted.parameters.items()]
    assert any(moved) and all(torch.isfinite(tensor).all() for tensor in bench.adapted.parameters.values())


def test_memory_is_flat_in_the_steps_that_are_not_kept(model: Model, tmp_path: Path) -> None:
    peaks = [updates(prepared(model, tmp_path / str(n), n, truncation="last", last=1)[0], 1)[0] for n in (4, 16)]
    assert peaks[1] == pytest.approx(peaks[0], rel=0.02)


def test_against_a_naive_loop(model: Model, tmp_path: Path) -> None:
    """All of two steps: the same gradient for less memory; the naive loop of eight does not fit or takes far more."""
    training, bench = prepared(model, tmp_path / "ours", 2, truncation="full", clip=None, lr=0.0)
    ours = measured(lambda: training._backward(training.roles[0], training.updates(1)[0], 1))
    gradients = {name: p.grad.clone() for name, p in bench.adapted.parameters.items() if p.grad is not None}
    training.roles[0].adamw.zero_grad(set_to_none=True)
    plain = measured(lambda: naive(bench))
    shown("full, 2 steps", ours)
    shown("naive loop, 2 steps", plain)
    assert ours[0] < 0.8 * plain[0]
    one, two = (torch.cat([each.flatten() for each in values]) for values in (gradients.values(), _gradients(bench)))
    assert torch.nn.functional.cosine_similarity(one, two, dim=0) > 0.98
    training.roles[0].adamw.zero_grad(set_to_none=True)
    _, longer = prepared(model, tmp_path / "longer", 8)
    try:
        eight = measured(lambda: naive(longer))
    except torch.cuda.OutOfMemoryError:
        eight = (float("inf"), float("nan"))
    shown("naive loop, 8 steps", eight)
    assert eight[0] > 2 * plain[0]


def _gradients(bench: Bench) -> list[torch.Tensor]:
    return [p.grad for p in bench.adapted.parameters.values() if p.grad is not None]


@pytest.mark.parametrize("contrast", ["dpo", "kto"])
def test_what_a_round_of_pairs_costs(contrast: Any, model: Model, tmp_path: Path) -> None:
    trainer = DragonTrainer(batch=2, micro=1, steps=4, precision="bf16", contrast=contrast, updates=3)
    training, bench, _ = trainer.prepare(job_of(model, tmp_path))
    training.watcher = None
    figures = updates(training, 1)
    shown(f"{contrast}, 2 prompts, 4 steps", figures)
    assert all(torch.isfinite(tensor).all() for tensor in bench.adapted.parameters.values())
