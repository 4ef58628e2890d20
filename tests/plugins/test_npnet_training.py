"""The trainer `npnet`: pairs are a function of their number, shards of several machines join, training goes on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from genbench import generate
from genbench.errors import PluginError, UsageError
from genbench.training.job import train
from genbench_npnet import pairs, trainer, weights
from genbench_npnet.network import SWIN_SMALL, NPNet
from genbench_npnet.pairs import Pairs
from tests.tiny import saved

PROMPTS = ("a red cube", "two green cones", "a blue sphere on top of a red cube")
WORDS: dict[str, Any] = {"plugin": "npnet", "model": "solids", "prompts": "p.txt", "scorer": "solids"}
QUICK: dict[str, Any] = {"pairs": 32, "steps": 2, "batch": 16, "high": 12.0, "redenoise_steps": 5}
FIT: dict[str, Any] = {"fit_batch": 8, "epochs": 2, "lr": 1e-3}


@pytest.fixture(autouse=True)
def _small(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "p.txt").write_text("\n".join(PROMPTS))
    monkeypatch.setattr(pairs, "SHARD", 16)
    tiny = {**SWIN_SMALL, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}
    monkeypatch.setattr(trainer, "SWIN_SMALL", tiny)


def run(folder: str, resume: bool = False, scorer: str | None = "solids", seed: int = 0, **options: Any) -> Path:
    words = {**WORDS, "run": folder, "resume": resume, "scorer": scorer, "seed": seed}
    if scorer is None:
        del words["scorer"]
    return train({**words, **{f"npnet.{name}": value for name, value in {**QUICK, **options}.items()}})


def tensors(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(file) for file in sorted(folder.glob("*.safetensors"))]


def same(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a
    )


def test_shards_of_two_machines_are_the_shards_of_one() -> None:
    whole = tensors(run("whole", stage="pairs"))
    assert [len(shard["source"]) for shard in whole] == [16, 16]
    parts = [run(f"part{k}", stage="pairs", share=f"{k}/2") for k in (1, 2)]
    joined = Path("joined/pairs")
    joined.mkdir(parents=True)
    for part in parts:
        for file in part.glob("*.safetensors"):
            shutil.copy(file, joined)
    assert same(tensors(joined), whole)


def test_a_stopped_collection_goes_on() -> None:
    whole = tensors(run("whole", stage="pairs"))
    folder = run("stopped", stage="pairs", share="1/2")
    kept = next(folder.glob("*.safetensors")).stat().st_mtime_ns
    assert same(tensors(run("stopped", resume=True, stage="pairs")), whole)
    assert min(file.stat().st_mtime_ns for file in folder.glob("*.safetensors")) == kept  # not made again
    with pytest.raises(UsageError, match="was made with high=12.0, not 7.0; name another folder with run="):
        run("stopped", resume=True, high=7.0)


def test_what_a_pair_holds() -> None:
    file = sorted(run("run", stage="pairs").glob("*.safetensors"))[1]
    shard, told = load_file(file), pairs.told(file)
    assert {name: tuple(tensor.shape) for name, tensor in shard.items()} == {
        "source": (16, 4, 16, 16), "target": (16, 4, 16, 16), "text": (16, 24, 128), "scores": (16, 2),
    }  # fmt: skip
    assert told["prompts"][:3] == [PROMPTS[16 % 3], PROMPTS[17 % 3], PROMPTS[18 % 3]]
    # The source is what any run with that seed starts from, and the target is what `redenoise` gives.
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(told["seeds"][0]))
    assert torch.equal(shard["source"][:1], noise.half())
    golden = generate(
        prompt=told["prompts"][0], seed=told["seeds"][0], steps=2, plugin="redenoise",
        options={"redenoise": {"high": 12.0, "steps": 5}},
    )[0]  # fmt: skip
    from genbench.chain import named_scorer

    score = named_scorer("solids").score(images=golden.image[None], prompts=[told["prompts"][0]])
    assert float(score) == pytest.approx(float(shard["scores"][0, 1]), abs=2e-2)


def test_the_margin_chooses() -> None:
    folder = run("run", stage="pairs")
    files = sorted(folder.glob("*.safetensors"))
    gains = torch.cat([shard["scores"][:, 1] - shard["scores"][:, 0] for shard in tensors(folder)])
    for margin in (0.0, 0.5, float("-inf")):
        assert len(Pairs.of(files, margin).rows) == int((gains > margin).sum())
    learnt, held = Pairs.of(files, float("-inf")).split()
    assert len(learnt.rows) + len(held.rows) == 32 and not set(learnt.rows) & set(held.rows)


def test_without_a_scorer_every_pair_is_kept() -> None:
    folder = run("run", scorer=None, stage="pairs")
    assert len(Pairs.of(sorted(folder.glob("*.safetensors")), 0.0).rows) == 32
    assert same([{"target": s["target"]} for s in tensors(folder)],
                [{"target": s["target"]} for s in tensors(run("scored", stage="pairs"))])  # fmt: skip


def test_weights_are_made_and_used(capsys: pytest.CaptureFixture[str]) -> None:
    path = run("run", scorer=None, **FIT)
    assert re.search(
        r"learnt from 28 pairs; squared error to 4 unseen targets 0\.\d+, of leaving", capsys.readouterr().err
    )
    assert path.stat().st_mode & 0o044 == 0o044  # others may read it, as the umask says
    loaded = weights.load(path)
    assert loaded.told["made"][0]["high"] == 12.0 and loaded.told["held_out"] == 4
    plain = generate(prompt="a red cube", steps=2)[0]
    golden = generate(prompt="a red cube", steps=2, plugin="npnet", options={"npnet": {"weights": str(path)}})[0]
    assert not torch.equal(plain.latents, golden.latents)


def state_of(folder: str) -> dict[str, torch.Tensor]:
    (checkpoint,) = (Path(folder) / "checkpoints").glob("npnet-*.pt")
    return torch.load(checkpoint, weights_only=True)["roles"]["module"]["weights"]


def test_a_stopped_training_ends_in_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    run("pairs", scorer=None, stage="pairs")
    for folder in ("whole", "parts"):
        shutil.copytree("pairs", folder)
    run("whole", resume=True, scorer=None, stage="fit", **FIT)

    from genbench.training import loop

    fit = loop.fit
    stops = iter((2, 5))
    monkeypatch.setattr(
        trainer, "fit", lambda place, stage, rank, world: fit(place, stage, rank, world, until=next(stops, None))
    )
    for _ in range(3):
        run("parts", resume=True, scorer=None, stage="fit", **FIT)
    whole, parts = state_of("whole"), state_of("parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_an_epoch_is_every_pair_once_but_for_what_is_left_over() -> None:
    steps = [trainer.rows_of_step(step, 8, 30, seed=1) for step in range(6)]
    assert [len(rows) for rows in steps] == [8] * 6
    epochs = [[row for rows in steps[at : at + 3] for row in rows] for at in (0, 3)]
    assert all(len(set(epoch)) == 24 for epoch in epochs) and set(epochs[0]) != set(epochs[1])


def test_other_settings_train_anew() -> None:
    first = weights.load(run("run", scorer=None, **FIT)).network.state_dict()
    again = weights.load(run("run", resume=True, scorer=None, **FIT)).network.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    loaded = weights.load(run("run", resume=True, scorer=None, **{**FIT, "lr": 1e-2}))
    assert loaded.told["lr"] == 1e-2 and not torch.equal(loaded.network.beta, first["beta"])


def test_a_new_folder_may_learn_from_other_runs() -> None:
    run("one", scorer=None, stage="pairs", share="1/2")
    run("two", stage="pairs", share="2/2", margin=-1e9)
    told = weights.load(run("new", stage="fit", join="one,two", margin=-1e9, **FIT)).told
    assert [each["scorer"] for each in told["made"]] == ["", "SolidsVerifier"]
    assert told["pairs"] + told["held_out"] == 32
    twice = weights.load(run("twice", stage="fit", join="one,two,one", margin=-1e9, **FIT)).told
    assert twice["pairs"] == told["pairs"]  # a pair that comes twice counts once
    run("other", scorer=None, stage="pairs", high=7.0)
    with pytest.raises(UsageError, match=r"was made with high=7.0, not 12.0"):
        run("mixed", stage="fit", join="one,other", **FIT)


def test_a_resume_with_other_prompts_is_refused() -> None:
    run("run", scorer=None, stage="pairs")
    Path("p.txt").write_text("\n".join(reversed(PROMPTS)))
    with pytest.raises(UsageError, match=r"was made with prompts=\w+, not \w+"):
        run("run", resume=True, scorer=None, stage="pairs")


def test_large_seeds() -> None:
    assert run("run", scorer=None, stage="pairs", share="1/2", seed=2**60).is_dir()


@pytest.mark.parametrize("family", ["sd3", "hunyuan", "sdxl", pytest.param("flux", marks=pytest.mark.slow)])
def test_other_families(family: str) -> None:
    folder = saved(family, Path("model"))
    words = {"plugin": "npnet", "model": str(folder), "prompts": "p.txt", "run": "run"}
    options = {"pairs": 16, "batch": 16, "fit_batch": 8, "epochs": 1, "redenoise_steps": 4}
    path = train({**words, **{f"npnet.{name}": value for name, value in options.items()}})
    golden = generate(
        model=str(folder), prompt="red", steps=2, plugin="npnet", options={"npnet": {"weights": str(path)}}
    )
    assert torch.isfinite(golden[0].latents).all()


def test_it_learns_a_toy_target() -> None:
    """Section (i) 6 of learnability: the error to the target falls below that of leaving the noise as it is."""
    torch.manual_seed(0)
    tiny = {**SWIN_SMALL, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}
    network = NPNet(trainer.Shape(4, 16, 1, 2, tiny, fixed_signs=True))
    shift = torch.randn(2, 4, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)  # four blocks of a picture
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    ratios: list[float] = []
    for _ in range(150):
        z = torch.randn(16, 4, 16, 16, generator=generator)
        classes = torch.randint(2, (16,), generator=generator)
        e = torch.nn.functional.one_hot(classes, 2)[:, None].float()
        target = z + 0.3 * shift[classes]
        loss = (network(z, e) - target).square().mean()
        ratios.append(float(loss.detach() / (z - target).square().mean()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert ratios[0] == pytest.approx(1, abs=1e-3) and sum(ratios[-10:]) / 10 < 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": "3/2"}, "share=3/2 is no part of the pairs; write K/N"),
        ({"stage": "fit"}, "no pairs in run nor in npnet.join="),
        (
            {"margin": 1e9, **FIT},
            "0 pairs are left to learn from (0 more are held out, others not preferred at npnet.margin=1000000000.0)",
        ),
        ({"margin": float("nan")}, "npnet.margin=nan is not a number"),
        ({"processes": 3}, "fit_batch=64 has to be a multiple of processes=3"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        run("run", **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_models_without_text_are_refused() -> None:
    with pytest.raises(PluginError, match="'npnet' does not hold for models of family 'toy', only for sd"):
        train({**WORDS, "model": "toy", "scorer": "toy", "run": "run"})
    with pytest.raises(UsageError, match="npnet makes pairs with a model and prompts; give model= and prompts=FILE"):
        train({"plugin": "npnet", "run": "other"})


def test_a_damaged_shard_is_named() -> None:
    folder = run("run", stage="pairs")
    file = sorted(folder.glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(Exception, match=r"000000.safetensors' is no shard of noise pairs .*; remove it"):
        run("run", resume=True, stage="pairs")


@pytest.mark.slow
def test_processes_share_a_step() -> None:
    run("one", scorer=None, **FIT)
    shutil.copytree("one/pairs", "two/pairs")
    run("two", resume=True, scorer=None, processes=2, **FIT)
    one, two = state_of("one"), state_of("two")
    assert all(torch.allclose(one[name], two[name], atol=1e-3) for name in one)  # the same rows, in two halves
