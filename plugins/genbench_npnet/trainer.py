"""`genbench train plugin=npnet model=... scorer=... prompts=...`: pairs of noises first, then the network on them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from genbench.errors import UsageError
from genbench.kinds import About, Scorer, TrainJob
from genbench.models import model_hash
from genbench.training.checkpoints import load_weights
from genbench.training.curves import log
from genbench.training.loop import Stage, fit
from genbench.training.place import Place
from genbench.training.processes import spread
from genbench_npnet import pairs, weights
from genbench_npnet.network import SWIN_SMALL, SWIN_TINY, NPNet, Shape
from genbench_npnet.pairs import Pairs, Settings
from genbench_npnet.plugin import TEXT
from genbench_npnet.redenoise import PAPER, URL

SMALL = 32  # latents up to this size get the small transformer


@dataclass(frozen=True)
class NPNetTrainer:
    """Make an NPNet (arXiv:2411.09502): collect pairs that a scorer prefers, then fit the network to them.

    Without `scorer=` every pair is kept and none is drawn: the paper's ablation without filtering.
    """

    pairs: int = field(default=10_000, metadata={"range": (1, None)})  # pairs to make, in whole files of 64
    high: float = 5.5  # guidance scale w_l of the step down
    low: float = 1.0  # guidance scale w_w of the way back
    redenoise_steps: int = field(default=10, metadata={"range": (2, None)})  # the step is the first of so many
    rounds: int = field(default=1, metadata={"range": (1, None)})  # T_max: how often down and back
    steps: int = field(default=10, metadata={"range": (1, None)})  # of the pictures that are scored
    guidance_scale: float | None = None  # of the pictures that are scored; none: as the model recommends
    batch: int = field(default=8, metadata={"range": (1, None)})  # pairs per network call
    margin: float = 0.0  # m: a target has to score more than m better; -inf keeps every pair
    share: str = "1/1"  # part K/N of the pairs, for several machines; each names its own
    stage: Literal["all", "pairs", "fit"] = "all"  # both stages, or one
    join: tuple[Path, ...] = ()  # folders of other runs whose pairs are learnt from as well
    epochs: int = field(default=30, metadata={"range": (1, None)})  # times that every pair is seen
    fit_batch: int = field(default=64, metadata={"range": (1, None)})  # pairs per optimiser step
    lr: float = field(default=1e-4, metadata={"range": (0, None)})  # of AdamW at its peak; the paper's
    processes: int = field(default=1, metadata={"range": (1, None)})  # that share an optimiser step, one thread each

    about: ClassVar[About] = About(
        summary="trains golden noise for a model: noise pairs chosen by a scorer, then the network",
        paper=PAPER,
        url=URL,
        license="Apache-2.0",
        families=("sd", "sdxl", "pixart", "hunyuan", "sd3", "flux"),
    )

    def __post_init__(self) -> None:
        share_of(self.share)
        if self.fit_batch % self.processes:
            raise ValueError(f"fit_batch={self.fit_batch} has to be a multiple of processes={self.processes}")

    @property
    def usage(self) -> str:
        """How the weights are used."""
        fit = 'genbench run plugin=npnet npnet.weights={made} model={model} prompt="..."'
        return "" if self.stage == "pairs" else fit

    def train(self, job: TrainJob) -> Path:
        """Make or continue the pairs and the network; returns the folder of the pairs or the file of weights.

        Raises UsageError for what is missing, and where pairs that are already there were made otherwise.
        """
        if self.stage != "fit":
            self.collect(job)
        return job.run / "pairs" if self.stage == "pairs" else self.fit(job)

    def collect(self, job: TrainJob) -> None:
        """Make this machine's share of the shards that are not there yet."""
        settings = self.settings(job)
        part, parts = share_of(self.share)
        numbers = range(part, -(-self.pairs // pairs.SHARD), parts)
        for number in tqdm(numbers, f"shards of {pairs.SHARD} pairs", disable=None):
            before = pairs.shard_path(job.run, number).exists()
            path = pairs.make(job, settings, number, self.batch)
            if not before:
                better = len(Pairs.of([path], self.margin).rows)
                log(Place(job.run), "pairs", {"shard": number, "pairs": pairs.SHARD, "kept": better})

    def settings(self, job: TrainJob) -> Settings:
        """What the pairs depend on. Raises UsageError where model, scorer or prompts are missing or do not fit."""
        missing = [word for word, given in (("model=", job.model), ("prompts=FILE", job.prompts)) if not given]
        if job.model is None or missing:
            raise UsageError(f"npnet makes pairs with a model and prompts; give {' and '.join(missing)}")
        model, known = job.model, dict(job.model.recommended)
        if TEXT not in model.encode_prompt([""], guidance=False).positive:
            raise UsageError(f"model={model.name} ({model.family}) has no text to learn from")
        height, width = int(str(known["height"])), int(str(known["width"]))
        check_latents(model.latent_shape(height, width))
        return Settings(
            model=model.name,
            weights=model_hash(model)[:12],
            dtype=str(model.dtype).removeprefix("torch."),
            scorer="" if job.reward is None else version_of(job.reward),
            seed=job.seed,
            prompts=sha256("\n".join(job.prompts).encode()).hexdigest()[:12],
            high=self.high,
            low=self.low,
            redenoise_steps=self.redenoise_steps,
            rounds=self.rounds,
            steps=self.steps,
            guidance_scale=float(str(known["guidance_scale"])) if self.guidance_scale is None else self.guidance_scale,
            height=height,
            width=width,
        )

    def fit(self, job: TrainJob) -> Path:
        """Fit the network to the pairs of this run and of the folders joined; continues its checkpoint."""
        files = [file for run in (job.run, *self.join) for file in sorted((run / "pairs").glob("*.safetensors"))]
        if not files:
            raise UsageError(f"no pairs in {job.run} nor in npnet.join=; make some with npnet.stage=pairs")
        sources = pairs.joined_settings(files)
        learnt, held = Pairs.of(files, self.margin).split()
        if len(learnt.rows) < self.fit_batch:
            raise UsageError(
                f"{len(learnt.rows)} pairs are left to learn from ({len(held.rows)} more are held out, others not "
                f"preferred at npnet.margin={self.margin}), less than npnet.fit_batch={self.fit_batch}; make more with "
                "npnet.pairs=, or lower one of the two"
            )
        place = Place(job.run, job.seed, self.processes, job.device)
        fitting = self.fitting(learnt, sources)
        name = fitting.name(place)
        spread(partial(_work, fitting=fitting, name=name), place)
        network = NPNet(fitting.shape)
        network.load_state_dict(load_weights(place, name))
        made = {"pairs": len(learnt.rows), "margin": self.margin, "epochs": self.epochs, "lr": self.lr}
        made |= measured(network.eval(), held) | {"made": distinct(sources)}
        log(place, f"{name}-held-out", {key: float(made[key]) for key in ("error", "identity")})
        weights.save(network, job.run / weights.RESULT, made)
        tqdm.write(
            f"learnt from {made['pairs']} pairs; squared error to {made['held_out']} unseen targets {made['error']:.4f}"
            f", of leaving the noise as it is {made['identity']:.4f}",
            file=sys.stderr,
        )
        return job.run / weights.RESULT

    def fitting(self, learnt: Pairs, sources: Sequence[Mapping[str, Any]]) -> Fitting:
        """What the optimisation depends on."""
        steps = self.epochs * (len(learnt.rows) // self.fit_batch)
        return Fitting(shape_for(learnt.take([0])), learnt, tuple(map(str, sources)), steps, self.fit_batch, self.lr)


@dataclass(frozen=True)
class Fitting:
    """One optimisation: continued where it stopped if all of this is equal, else begun anew under another name."""

    shape: Shape
    learnt: Pairs
    sources: tuple[str, ...]  # settings of each shard
    steps: int
    batch: int
    lr: float

    def name(self, place: Place) -> str:
        """`npnet-` and a hash of what the result depends on: what checkpoints and curves are called."""
        kept = [(self.learnt.files[file].name, row) for file, row in self.learnt.rows]
        told = (
            asdict(self.shape),
            kept,
            list(self.sources),
            self.steps,
            self.batch,
            self.lr,
            place.seed,
            place.processes,
        )
        return f"npnet-{sha256(repr(told).encode()).hexdigest()[:8]}"


def share_of(text: str) -> tuple[int, int]:
    """`2/4` -> (1, 4): the second of four parts. Raises ValueError for anything else."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise ValueError(f"share={text} is no part of the pairs; write K/N, such as 1/4 on the first of four machines")
    return int(part) - 1, int(parts)


def version_of(scorer: Scorer) -> str:
    """The scorer's class, and what its own `version()` says where its weights lie elsewhere."""
    own = getattr(scorer, "version", None)
    return type(scorer).__name__ if own is None else f"{type(scorer).__name__} {own()}"


def distinct(settings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Different settings of shards, in order."""
    return [each for number, each in enumerate(settings) if each not in settings[:number]]


def check_latents(shape: Sequence[int]) -> None:
    """Raise UsageError for latents (channels, height, width) that the network cannot take."""
    channels, height, width = shape
    side = isqrt(channels) * height
    if height != width or isqrt(channels) ** 2 != channels or side % 8:
        raise UsageError(
            f"npnet takes square latents of 4, 9, 16 ... channels whose tiles make a side that 8 divides, "
            f"not {channels} x {height} x {width}"
        )


def shape_for(example: Mapping[str, Tensor]) -> Shape:
    """The network for pairs like this one (1, ...). Raises UsageError for latents that it cannot take."""
    channels, size, width = example["source"].shape[1:]
    check_latents((channels, size, width))
    tokens, wide = example["text"].shape[1:]
    return Shape(channels, size, tokens, wide, SWIN_SMALL if size <= SMALL else SWIN_TINY, fixed_signs=True)


def _work(rank: int, world: int, place: Place, *, fitting: Fitting, name: str) -> None:
    torch.manual_seed(place.seed)
    network = NPNet(fitting.shape)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = rows_of_step(step, fitting.batch, len(fitting.learnt.rows), place.seed)[rank::world]
        some = {name: tensor.to(place.device) for name, tensor in fitting.learnt.take(chosen).items()}
        error = (network(some["source"], some["text"]) - some["target"]).square().mean()
        identity = (some["source"] - some["target"]).square().mean()
        return error, {"identity": float(identity)}

    fit(place, Stage(name, network, loss, fitting.steps, fitting.lr, betas=(0.9, 0.999)), rank, world)


def rows_of_step(step: int, batch: int, rows: int, seed: int) -> list[int]:
    """The pairs of one optimiser step: every epoch is another order of all pairs, a function of (seed, epoch).

    What is left over when the batches are full waits for the next epoch.
    """
    epoch, place = divmod(step, rows // batch)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63))
    return order[place * batch : (place + 1) * batch].tolist()


def measured(network: NPNet, held: Pairs) -> dict[str, Any]:
    """Mean squared error to the held-out targets, of the network and of leaving the noise as it is."""
    error, identity = 0.0, 0.0
    with torch.no_grad():
        for some in held.batches(64):
            error += float((network(some["source"], some["text"]) - some["target"]).square().mean((1, 2, 3)).sum())
            identity += float((some["source"] - some["target"]).square().mean((1, 2, 3)).sum())
    count = max(1, len(held.rows))
    return {"held_out": len(held.rows), "error": error / count, "identity": identity / count}
