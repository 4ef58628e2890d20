"""`genbench train plugin=fdistill`: a one-step student by matching distributions under an f-divergence.

    x0 = G(z), x_t = alpha x0 + sigma noise
    fake score:     mu_psi(x_t) learns to denoise x0
    discriminator:  heads on the teacher's features tell x_t of the teacher's own pictures from the student's
    student:        d/dx0 = w (mu_psi - mu_phi),  w = h(r) / mean |x0 - mu_phi|,  r = exp(logit) ~ p_t / q_t
                    and the discriminator's softplus(-logit), `gan_weight` times

h(r) = r^2 f''(r) says which samples count (f-distill, arXiv:2502.15681); `divergence=rkl` has h = 1 and is DMD2
(arXiv:2405.14867).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor

from genbench.errors import UsageError
from genbench.kinds import About, Conditioning, Level, TrainJob
from genbench.options import Range
from genbench.training.distilling import FAKE, STUDENT, Distillation, Play
from genbench.training.features import feature_names, features
from genbench.training.lab import Lab, name_of
from genbench.training.noising import levels_at, noised
from genbench.training.optimise import Figures, Turn, Update
from genbench.training.reals import Reals
from genbench.training.roles import Role
from genbench.training.students import Chance, alone, guidance_of, predicted, x0_at
from genbench_fdistill import ratio
from genbench_fdistill.divergences import DIVERGENCES, Divergence
from genbench_fdistill.heads import R1_NOISE, Discriminator, approximate_r1, discriminator_loss, generator_loss
from genbench_fdistill.plugin import FDistill

DISCRIMINATOR = "discriminator"


@dataclass(frozen=True)
class FDistillTrainer(Distillation):
    """f-distill: a one-step student that matches the teacher's distribution under a divergence of your choice."""

    divergence: Divergence = "js"  # js, kl, rkl (= DMD2), jf, sh, sf, neyman
    initial: Annotated[float, Range(0, 1)] = 1.0  # time of its first level, as a share of the schedule
    guidance_scale: float | None = None  # of the teacher; none: as the model recommends
    ratio: Annotated[int, Range(1)] = 5  # updates of fake score and discriminator per update of the student
    gan_weight: Annotated[float, Range(0)] = 1e-3  # of the adversarial term in the student's loss
    discriminator_lr: Annotated[float, Range(0)] | None = None  # of its AdamW; none: as the student's
    r1: Annotated[float, Range(0)] = 0.0  # weight of the discriminator's approximate R1 penalty
    blocks: tuple[int, ...] = ()  # of the teacher, whose features the heads see; none: the middle one
    lowest: Annotated[float, Range(0)] = 0.1  # bounds of the density ratio
    highest: Annotated[float, Range(0)] = 20.0  # bounds of the density ratio
    bins: Annotated[int, Range(1)] = 10  # of time, in each of which the ratio is brought to mean 1
    bin_rate: Annotated[float, Range(0, 1)] = 0.9  # share of the old mean that a bin keeps
    real: Annotated[int, Range(1)] = 2048  # pictures of the teacher that the discriminator takes for real
    betas: tuple[float, ...] = (0.9, 0.999)  # of AdamW
    weight_decay: Annotated[float, Range(0)] = 0.01  # of AdamW
    clip: Annotated[float, Range(0)] | None = 10.0  # bound of a gradient's norm; none: no bound

    about: ClassVar[About] = FDistill.about
    usage: ClassVar[str] = 'genbench run model={model} plugin=fdistill fdistill.weights={made} prompt="..."'

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lowest > self.highest:
            raise UsageError(f"fdistill.lowest={self.lowest} is above fdistill.highest={self.highest}")
        if not self.gan_weight:
            raise UsageError("fdistill.gan_weight=0: the density ratio is the discriminator's; give it some weight")

    def play(self, lab: Lab) -> Play:
        """Fake score and discriminator at every step, the student at every `ratio`th (DMD2's count)."""
        match_ = Match.of(self, lab)
        fake = Update(FAKE, match_.fake, self.batch, self.micro)
        discriminator = Update(DISCRIMINATOR, match_.discriminate, self.batch, self.micro)
        student = Update(STUDENT, match_.student, self.batch, self.micro, match_.begin)
        role = Role.of(DISCRIMINATOR, match_.heads, self.optimiser(self._discriminator_lr))
        role.buffers = {**role.buffers, "bins": match_.bins}
        rivals = [fake, discriminator]
        return Play(lambda step: [*rivals, student] if self.moves(step, self.ratio) else rivals, [role], self.ratio)

    def rehearsal(self) -> Self:
        """With one picture for all that count as real."""
        return replace(super().rehearsal(), real=1)

    def drawn_first(self, job: TrainJob) -> int:
        """Those that count as real, where no folder has them."""
        return self.real if job.exemplars is None else 0

    @property
    def _discriminator_lr(self) -> float:
        return self.lr if self.discriminator_lr is None else self.discriminator_lr


@dataclass
class Match:
    """The losses of the three roles on one lab; `h` holds the weights of the student's samples of this update."""

    method: FDistillTrainer
    lab: Lab
    heads: Discriminator
    names: tuple[str, ...]
    reals: Reals
    bins: Tensor
    h: dict[int, Tensor] = field(default_factory=dict[int, Tensor])

    @classmethod
    def of(cls, method: FDistillTrainer, lab: Lab) -> Match:
        """Heads of the shapes that the teacher's features have."""
        network = lab.teacher.modules[name_of(lab.teacher)]
        names = feature_names(network, method.blocks)
        reals, device = lab.reals(method.real, method.guidance_scale), lab.teacher.device
        bins = ratio.initial_bins(method.bins).to(device)
        blank = cls(method, lab, Discriminator([], lab.job.seed), names, reals, bins)
        shown = blank.seen(torch.zeros(1, *lab.shape, device=device), lab.encoded([""]), lab.laws.levels[0])
        return replace(blank, heads=Discriminator([feature.shape[1:] for feature in shown], lab.job.seed).to(device))

    # --- the student's rivals -------------------------------------------------------------------------------------

    def fake(self, turn: Turn) -> tuple[Tensor, Figures]:
        """How well the fake score denoises what the student makes now, in the network's own convention."""
        return self.lab.denoising(self.lab.fake, turn).mean(), {}

    def discriminate(self, turn: Turn) -> tuple[Tensor, Figures]:
        """Noised pictures of the teacher against noised ones of the student, each at a level of its own."""
        conditioning = self.lab.encoded(self.lab.prompts(turn))
        with torch.no_grad():
            made = self.lab.drawn(turn, conditioning)
        noise, level, _ = self.lab.noise(turn, "student")
        fake = self.heads(self.seen(noised(made, noise, level), conditioning, level))
        x_real, there, told = self._real(turn)
        shown = self.seen(x_real, told, there)
        real = self.heads(shown)
        figures = {"real": float(real.detach().mean()), "fake": float(fake.detach().mean())}
        return discriminator_loss(real, fake) + self._penalty(real, x_real, told, there, turn), figures

    def _penalty(self, real: Tensor, x: Tensor, told: Conditioning, level: Level, turn: Turn) -> Tensor | float:
        if not self.method.r1:
            return 0.0
        moved = x + R1_NOISE * Chance.of(turn.seeds("r1")).normal(self.lab.shape).to(x)
        return approximate_r1(real, self.heads(self.seen(moved, told, level)), self.method.r1)

    def _real(self, turn: Turn) -> tuple[Tensor, Level, Conditioning]:
        """Noised pictures of the teacher, one per sample of a turn."""
        chance = Chance.of(turn.seeds("real"))
        index = [int(torch.randint(self.reals.count, (1,), generator=g)) for g in chance.generators]
        latents, prompts = self.reals.drawn(index)
        noise = chance.normal(self.lab.shape).to(self.lab.teacher.device)
        rows = self.lab.laws.rows("student", chance.generators)
        level = levels_at(self.lab.laws.levels, rows, noise.ndim, noise.device)
        return noised(latents.to(noise), noise, level), level, self.lab.encoded(prompts)

    @torch.no_grad()
    def seen(self, x: Tensor, conditioning: Conditioning, level: Level) -> list[Tensor]:
        """The teacher's features of noised latents (b, ...); the rest of its network is spared."""
        teacher = self.lab.teacher
        with features(teacher.modules[name_of(teacher)], self.names, stop=True) as found:
            predicted(teacher, alone(conditioning), x, level)
        return [feature.float() for feature in found.values()]

    # --- the student ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin(self, turn: Turn) -> None:
        """The weight h of every sample of an update: both means are over all of them, in all processes."""
        logits, times = [], []
        size = self.method.micro or len(turn.items)
        for first in range(0, len(turn.items), size):
            part = turn.part(first, size)
            conditioning = self.lab.encoded(self.lab.prompts(part))
            noise, level, rows = self.lab.noise(part, "student")
            with self.lab.accelerator.autocast():  # as in the loss that they weigh
                x_t = noised(self.lab.drawn(part, conditioning), noise, level)
                logits.append(self.heads(self.seen(x_t, conditioning, level)))
            times += [1 - row / len(self.lab.laws.levels) for row in rows]
        r = ratio.density_ratio(torch.cat(logits), self.method.lowest, self.method.highest)
        t = torch.tensor(times, device=r.device)
        r, moved = ratio.over_time(r, t, self.bins, rate=self.method.bin_rate, reduce=self._sum)
        self.bins.copy_(moved)
        h = ratio.over_batch(DIVERGENCES[self.method.divergence].weight(r), self._sum)
        self.h = dict(zip(turn.items, h, strict=True))

    def student(self, turn: Turn) -> tuple[Tensor, Figures]:
        """Distribution matching, weighed by h, and the adversarial term; one noising serves both."""
        conditioning, teacher = self.lab.encoded(self.lab.prompts(turn)), self.lab.teacher
        x0 = self.lab.drawn(turn, conditioning)
        noise, level, _ = self.lab.noise(turn, "student")
        x_t = noised(x0, noise, level)
        with features(teacher.modules[name_of(teacher)], self.names) as found:
            (mu,) = x0_at(teacher, conditioning, x_t, level, 1.0)
        logits = self.heads([feature.float() for feature in found.values()])
        with torch.no_grad():
            mu_teacher = self._followed(turn, mu.detach(), conditioning, x_t, level)
            (mu_fake,) = x0_at(self.lab.judge, conditioning, x_t, level, 1.0)
        h = torch.stack([self.h[item] for item in turn.items])
        weight = ratio.matching_weight(h, x0, mu_teacher)
        adversarial = generator_loss(logits)
        matching = ratio.matching_loss(x0, mu_fake, mu_teacher, weight)
        figures = {
            "delta": float((mu_teacher - mu_fake).detach().square().mean()),
            "adversarial": float(adversarial.detach()),
            "h_square": float(h.square().mean()),
        }
        return matching + self.method.gan_weight * adversarial, figures

    def _followed(self, turn: Turn, mu: Tensor, conditioning: Conditioning, x_t: Tensor, level: Level) -> Tensor:
        """The guided x0 of the network that is followed; `mu` is what the teacher said with the prompt."""
        scale, target = guidance_of(self.lab.teacher, self.method.guidance_scale), self.lab.target(turn.step)
        if target is not self.lab.teacher:
            return x0_at(target, conditioning, x_t, level, scale)[0]
        if scale == 1:
            return mu
        (without,) = x0_at(target, conditioning, x_t, level, 0.0)
        return without + scale * (mu - without)

    def _sum(self, tensor: Tensor) -> Tensor:
        accelerator: Any = self.lab.accelerator
        return tensor if accelerator.num_processes == 1 else accelerator.reduce(tensor, reduction="sum")
