"""`genbench train plugin=alignprop model=... reward=... prompts=...`: a reward's gradient, through sampling.

One update: sample pictures from the model that learns, ask the reward, follow its gradient back through decoder and
sampling steps into the LoRA (arXiv:2310.03739). With `draws` it is DRaFT-LV, with truncation=last DRaFT-K
(arXiv:2309.17400).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from genbench.errors import UsageError
from genbench.kinds import About, Context, Scorer, State, TrainJob
from genbench.options import Range
from genbench.training.finetuning import Bench, Finetuning, Objective
from genbench.training.optimise import Figures, Turn
from genbench_alignprop import objective
from genbench_alignprop.backprop import Divergence, last_steps, walk
from genbench_alignprop.plugin import ABOUT
from genbench_alignprop.truncation import Mode, kept_steps


@dataclass(frozen=True)
class AlignPropTrainer(Finetuning):
    """AlignProp, DRaFT and DRaFT-LV: a LoRA by the gradient of a reward through the sampling chain."""

    truncation: Mode = "per_rollout"  # which steps pass gradients; see docs/alignprop.md
    last: Annotated[int, Range(1)] = 1  # K of truncation=last
    draws: Annotated[int, Range(0)] = 0  # DRaFT-LV: noises of the last step per picture; 0: the chain itself
    target: float | None = None  # reward to come close to; none: as high as it goes
    kl: Annotated[float, Range(0)] = 0.0  # weight of the distance to the base model's predictions

    about: ClassVar[About] = ABOUT

    def check(self, job: TrainJob) -> None:
        """Refuse a job without a reward, a reward without a gradient, and words that would play no part."""
        super().check(job)
        self._check_words(job)
        if job.reward is None or job.model is None:
            raise UsageError("alignprop follows a reward; name a scorer with reward=")
        side = int(str(self.height or job.model.recommended["height"]))
        objective.check_gradient(job.reward, type(job.reward).__name__, job.rows[0], side)

    def _check_words(self, job: TrainJob) -> None:
        if self.draws and self.kl:
            raise UsageError("alignprop.kl= is summed over a chain's kept steps; alignprop.draws= keeps none of them")
        if self.last > 1 and self.truncation != "last":
            raise UsageError(f"alignprop.last={self.last} belongs to alignprop.truncation=last")
        if job.metrics or job.exemplars is not None:
            raise UsageError("metrics= and exemplars= play no part in alignprop; plugin=dragon follows them")

    def objective(self, bench: Bench) -> Objective:
        """The mean over pictures of reward loss + kl x divergence."""
        reward = bench.job.reward
        assert reward is not None  # `check` refuses that

        def loss(turn: Turn) -> tuple[Tensor, Figures]:
            rows = bench.chosen(turn)
            prompts = [str(row["prompt"]) for row in rows]
            ctx = bench.rollout.context(prompts, turn.seeds())
            divergence = Divergence(ctx.denoiser(model=bench.base)) if self.kl else None
            finished = self.pictures(ctx, bench.rollout.begin(ctx), turn, divergence)
            asked = rows * max(1, self.draws)
            return self.value(bench, reward, finished, asked, divergence)

        return Objective(loss)

    def pictures(self, ctx: Context, state: State, turn: Turn, divergence: Divergence | None) -> State:
        """Walk to the end with the gradients that are kept; one draw of what is kept for the whole batch."""
        steps = ctx.schedule.steps
        if self.draws:
            return last_steps(ctx, walk(ctx, state, (False,) * steps), self.draws)
        kept = kept_steps(self.truncation, steps, min(self.last, steps), turn.generator("truncation"))
        return walk(ctx, state, kept, divergence if any(kept) else None)

    def value(
        self,
        bench: Bench,
        reward: Scorer,
        finished: State,
        rows: list[Mapping[str, object]],
        divergence: Divergence | None,
    ) -> tuple[Tensor, Figures]:
        """The loss of finished latents (b, ...), and the mean reward."""
        images = bench.adapted.model.decode(finished.x)
        rewards = objective.rewards(reward, images, [str(row["prompt"]) for row in rows], rows)
        loss = objective.reward_loss(rewards, self.target).mean()
        figures = {"reward": float(rewards.detach().mean())}
        if divergence is not None and divergence.total:
            kl = divergence.sum().mean()
            loss, figures["kl"] = loss + self.kl * kl, float(kl.detach())
        if not loss.requires_grad:  # nothing of the chain was kept: a gradient of zero
            loss = loss + 0 * torch.stack([p.sum() for p in bench.adapted.parameters.values()]).sum()
        return loss, figures
