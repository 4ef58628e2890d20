"""`genbench train plugin=dragon`: rewards of pictures, or of whole sets of them, without gradients of the reward.

One round: draw two pictures of every prompt from the model that learns, build a positive and a negative set of them
(`sets.py`), and make the model denoise the positive ones better than the base does and the negative ones worse
(`losses.py`). Then they are discarded (DRAGON, arXiv:2504.15217; there is no public code, this is a reimplementation).

    reward=NAME                                      a scorer: the better picture of each prompt
    exemplars=FOLDER or FILE of texts                nearness of each picture to the exemplars
    metrics=frechet exemplars=..., metrics=vendi     a set metric: the better set
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from genbench.errors import TrainingError, UsageError
from genbench.kinds import About, Conditioning, Denoise, Level, SetMetric, TrainJob
from genbench.options import Range
from genbench.training.finetuning import Bench, Finetuning, Objective, told
from genbench.training.noising import drawn, levels_at, noised, target_of, train_levels
from genbench.training.optimise import Figures, Turn
from genbench_dragon import exemplars, losses, sets
from genbench_dragon.exemplars import Exemplars
from genbench_dragon.plugin import ABOUT
from genbench_dragon.sets import SetReward, Sets
from genbench_dragon.witness import Witness, nearness


@dataclass(frozen=True)
class DragonTrainer(Finetuning):
    """DRAGON: a LoRA by contrast of the sets that a reward prefers and rejects; it may be a reward of a whole set."""

    updates: Annotated[int, Range(1)] = 240  # optimiser steps
    lr: Annotated[float, Range(0)] = 2e-3  # of AdamW
    batch: Annotated[int, Range(2)] = 64  # prompts per round, each drawn twice: the size of the sets
    inner: Annotated[int, Range(1)] = 4  # updates on one round's pictures
    contrast: Literal["dpo", "kto"] = "dpo"  # Diffusion-DPO on pairs, or Diffusion-KTO on single pictures
    beta: Annotated[float, Range(0)] = 200.0  # of the contrast, for mean squared errors per number
    witness: Witness = "mahalanobis"  # nearness of one picture to exemplars: mahalanobis, mmd, cosine
    shrinkage: Annotated[float, Range(0)] = 0.1  # of the exemplars' covariance, in shares of its mean variance
    reward_weight: Annotated[float, Range(0)] = 1.0  # of reward= beside a set metric
    metric_weight: Annotated[float, Range(0)] = 1.0  # of the set metric, whose scale is its own

    about: ClassVar[About] = ABOUT

    def check(self, job: TrainJob) -> None:
        """Refuse a job that says no reward, or more than one of its kind."""
        super().check(job)
        if not job.metrics and job.exemplars is None and job.reward is None:
            raise UsageError("dragon follows reward=SCORER, exemplars=FOLDER, or metrics=frechet exemplars=FOLDER")
        if len(job.metrics) > 1:
            raise UsageError(f"dragon follows one set metric; metrics={','.join(job.metrics)} names {len(job.metrics)}")
        if (job.metrics or job.exemplars is not None) and job.encoder is None:
            raise UsageError("a set metric, and exemplars, are seen through an encoder; name one with encoder=")
        if job.exemplars is not None:
            exemplars.check(job.exemplars)
        if job.exemplars is not None and job.reward is not None and not job.metrics:
            raise UsageError("dragon follows exemplars=, and reward= beside them only with a set metric; see holdout=")
        if job.metrics and job.exemplars is None:
            name, metric = next(iter(job.metrics.items()))
            check_alone(name, cast(SetMetric, metric), self.batch)

    def settings(self, job: TrainJob) -> dict[str, object]:
        """What the result depends on."""
        more = {"metrics": ",".join(map(told, job.metrics.values())), "exemplars": str(job.exemplars or "")}
        return {**super().settings(job), **more, "encoder": told(job.encoder)}

    def objective(self, bench: Bench) -> Objective:
        """Pictures and sets first, then the contrast of what they hold."""
        round_ = Round(self, bench)
        return Objective(round_.loss, round_.begin, self.inner)


@dataclass
class Round:
    """One round's pictures: clean latents of both pictures of this process's prompts, and which of them is positive."""

    method: DragonTrainer
    bench: Bench
    rows: dict[int, Mapping[str, object]] = field(default_factory=dict[int, Mapping[str, object]])
    latents: tuple[dict[int, Tensor], dict[int, Tensor]] = ({}, {})
    first_wins: dict[int, bool] = field(default_factory=dict[int, bool])
    gain: Tensor | None = None  # mean of L_ref - L over all pictures of an update, for kto
    told: dict[str, float] = field(default_factory=dict[str, float])
    known: Exemplars | None = None
    levels: tuple[Level, ...] = ()

    # --- pictures and sets ----------------------------------------------------------------------------------------

    def begin(self, turn: Turn) -> None:
        """Draw pictures once per `inner` updates; for kto, ask before each how the model does on all of them."""
        if turn.step % self.method.inner == 0 or not self.first_wins:
            self.draw(turn)
        if self.method.contrast == "kto":
            self.gain = self._mean_gain(turn)

    def draw(self, turn: Turn) -> None:
        """Draw two pictures of every prompt of a turn and build the sets."""
        rows = self.bench.chosen(turn)
        prompts = [str(row["prompt"]) for row in rows]
        latents = [self.bench.rollout.latents(prompts, turn.seeds(which)) for which in ("first", "second")]
        with torch.no_grad():
            judged = [self._judged(clean, prompts, rows) for clean in latents]
        rewards = self._gathered(torch.stack([reward for reward, _ in judged], 1), turn).T
        features = self._gathered(torch.stack([seen for _, seen in judged], 1), turn).transpose(0, 1)
        found = self.sets(rewards, features.flatten(0, 1), turn)
        wins = [row < turn.batch for row in found.positive]
        self.rows = dict(zip(turn.items, rows, strict=True))  # later updates of the round would choose others
        self.latents = tuple(dict(zip(turn.items, clean, strict=True)) for clean in latents)  # type: ignore[assignment]
        self.first_wins = {item: wins[item] for item in turn.items}
        self.told = {"first_set": found.values[0], "second_set": found.values[1], "positive_set": found.value}

    def _judged(
        self, clean: Tensor, prompts: Sequence[str], rows: Sequence[Mapping[str, object]]
    ) -> tuple[Tensor, Tensor]:
        """Rewards (b,) and features (b, d) of pictures; zeros and no columns where nobody asks for them."""
        job = self.bench.job
        images = self.bench.rollout.decoded(clean)
        rewards = torch.zeros(len(clean))
        if job.reward is not None:
            rewards = job.reward.score(images=images, prompts=prompts, rows=rows).float().cpu()
        seen = torch.zeros(len(clean), 0) if job.encoder is None else job.encoder.embed_images(images).float().cpu()
        return rewards, seen

    def sets(self, rewards: Tensor, features: Tensor, turn: Turn) -> Sets:
        """Rewards (2, n), features (2n, d) of all processes: the sets, the same in each."""
        job, n = self.bench.job, turn.batch
        if not torch.isfinite(rewards).all() or not torch.isfinite(features).all():
            raise TrainingError("the reward, or an encoder's features, are no numbers; the weights before are kept")
        if job.metrics:
            order = torch.randperm(n, generator=turn.generator("order")).tolist()
            return sets.by_exchange(self._set_reward(rewards.flatten(), features), n, order)
        if job.exemplars is not None:
            exemplar = self._exemplars()
            near = nearness(exemplar.seen(features), exemplar.features, self.method.witness, self.method.shrinkage)
            return sets.by_pictures(near.reshape(2, n))
        return sets.by_pictures(rewards)

    def _set_reward(self, rewards: Tensor, features: Tensor) -> SetReward:
        metric: Any = next(iter(self.bench.job.metrics.values()))
        reference, seen = None, features
        if self.bench.job.exemplars is not None:
            exemplar = self._exemplars()
            reference, seen = exemplar.features, exemplar.seen(features)
        value = subset_values(metric, seen, reference)
        sign = 1.0 if getattr(metric, "larger_is_better", False) else -1.0
        mean, method = sets.mean_reward(rewards), self.method
        return lambda rows: sign * method.metric_weight * value(rows) + method.reward_weight * mean(rows)

    def _exemplars(self) -> Exemplars:
        if self.known is None:
            job = self.bench.job
            assert job.exemplars is not None and job.encoder is not None  # `check` refuses that
            texts = job.prompts[:256]
            base, seeds = self.bench.rollout.of(self.bench.base), range(len(texts))
            self.known = exemplars.read(job.exemplars, job.encoder, texts, lambda: base.pictures(texts, seeds))
        return self.known

    def _gathered(self, own: Tensor, turn: Turn) -> Tensor:
        """The rows of all processes in the order of samples."""
        accelerator = self.bench.accelerator
        if accelerator.num_processes == 1:
            return own
        if turn.batch % turn.world:
            raise UsageError(f"dragon.batch={turn.batch} cannot be shared evenly by {turn.world} processes")
        both = cast(Tensor, accelerator.gather(own.contiguous().to(accelerator.device))).cpu()
        parts = both.chunk(turn.world)
        return torch.stack(parts, 1).flatten(0, 1)  # process r holds samples r, r + world, ...

    # --- the contrast ---------------------------------------------------------------------------------------------

    def loss(self, turn: Turn) -> tuple[Tensor, Figures]:
        """The contrast of a turn's pairs; both pictures of a pair are noised alike."""
        ours, base = self._errors(turn)
        (plus, minus), (plus_ref, minus_ref) = ours.chunk(2), base.chunk(2)
        margin = (plus - minus) - (plus_ref - minus_ref)
        figures = {
            "accuracy": float((margin < 0).float().mean()),
            "positive_error": float((plus - plus_ref).detach().mean()),
            "negative_error": float((minus - minus_ref).detach().mean()),
            **self.told,
        }
        if self.method.contrast == "dpo":
            return losses.dpo(plus, minus, plus_ref, minus_ref, self.method.beta).mean(), figures
        labels = torch.tensor([True] * len(plus) + [False] * len(minus), device=ours.device)
        return losses.kto(ours, base, labels, self.method.beta, self.gain).mean(), figures

    @torch.no_grad()
    def _mean_gain(self, turn: Turn) -> Tensor:
        """The mean of L_ref - L over the pictures of all parts and processes."""
        size, accelerator = self.method.micro, self.bench.accelerator
        total = torch.zeros((), device=accelerator.device)
        for part in (turn.part(at, size) for at in range(0, len(turn.items), size)):
            with accelerator.autocast():
                ours, base = self._errors(part)
            total += (base - ours).sum().to(total)
        return cast(Tensor, accelerator.reduce(total, reduction="sum")) / (2 * turn.batch)

    def _errors(self, turn: Turn) -> tuple[Tensor, Tensor]:
        """Mean squared errors per picture (2b,), positive ones first, of the model that learns and of the base.

        Without guidance, and in the convention that the network was trained in: its own weighting of noise levels.
        """
        prompts = [str(self.rows[i]["prompt"]) for i in turn.items]
        pairs = [(self.latents[0][i], self.latents[1][i]) for i in turn.items]
        ordered = [pair if self.first_wins[i] else pair[::-1] for i, pair in zip(turn.items, pairs, strict=True)]
        positive, negative = (torch.stack(part) for part in zip(*ordered, strict=True))
        clean = torch.cat([positive, negative])
        model, levels = self.bench.adapted.model, self._levels(tuple(clean.shape[1:]))
        noise, chosen = drawn(turn, clean.shape[1:], len(levels))
        both = torch.cat([noise, noise]).to(clean)
        level = levels_at(levels, chosen * 2, clean.ndim, clean.device)
        x = noised(clean, both, level).to(model.dtype)
        ctx = self.bench.rollout.context(prompts, (0,) * len(prompts))
        alone = Conditioning(ctx.conditioning.rows([*range(len(prompts))] * 2).positive)
        target = target_of(model, clean, both, level)

        def error(denoise: Denoise) -> Tensor:
            return (denoise(x, level).raw.float() - target).square().flatten(1).mean(1)

        with torch.no_grad():
            base = error(self.bench.base.denoiser(alone, ctx.guidance_scale))
        return error(model.denoiser(alone, ctx.guidance_scale)), base

    def _levels(self, shape: tuple[int, ...]) -> tuple[Level, ...]:
        if not self.levels:
            self.levels = train_levels(self.bench.base, shape)
        return self.levels


def check_alone(name: str, metric: SetMetric, n: int) -> None:
    """Raise UsageError for a metric that compares with something, asked of chance features with nothing to compare."""
    try:
        subset_values(metric, torch.randn(2 * n, 4, generator=torch.Generator().manual_seed(0)), None)(range(n))
    except UsageError as error:
        raise UsageError(f"metrics={name}: {str(error).replace('reference=', 'exemplars=')}") from error


def subset_values(metric: SetMetric, features: Tensor, reference: Tensor | None) -> Callable[[Sequence[int]], float]:
    """The metric of subsets of rows: by its own short way where it has one, else by asking again."""
    prepared: Any = getattr(metric, "subsets", None)
    if prepared is not None:
        return prepared(features, reference)
    return lambda rows: float(metric.value(features[torch.as_tensor(rows)], reference))
