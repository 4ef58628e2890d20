"""`genbench train plugin=sid`: a student of one or few steps by score identity distillation, without pictures.

    x_g = G(z)                                       the student, 1 to `steps` steps, gradients in the last
    x_t = alpha x_g + sigma noise
    fake score:  f_psi(x_t) learns to denoise x_g
    student:     w delta . ((f_phi - x_g) - alpha delta),  delta = f_phi(x_t) - f_psi(x_t)

f_phi is the teacher, and the gradient goes through both networks. At the best f_psi this is (1 - alpha) E |delta|^2,
so its value says nothing of progress; the curve `delta` does (SiD, arXiv:2404.04057; guidance, arXiv:2406.01561;
several steps and Zero-CFG, arXiv:2505.12674; flows, arXiv:2509.25127).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, ClassVar, Literal, Self

import torch
from torch import Tensor

from genbench.errors import UsageError
from genbench.kinds import About, Conditioning, Level, Model, TrainJob
from genbench.options import Range
from genbench.training.distilling import FAKE, STUDENT, Distillation, Play
from genbench.training.features import feature_names, features
from genbench.training.lab import Lab, name_of
from genbench.training.noising import noised, target_of
from genbench.training.optimise import Figures, Turn, Update
from genbench.training.reals import Reals
from genbench.training.students import Chance, alone, guidance_of, predicted, raw_at, x0_at
from genbench_sid.losses import Weight, fake_loss, fake_weight, logits, looks_real, student_loss, student_weight
from genbench_sid.plugin import SiD

Guidance = Literal["long_short", "long", "zero", "anti", "none"]


@dataclass(frozen=True)
class SiDTrainer(Distillation):
    """SiD: a one-step or few-step student that matches the teacher's scores at every noise level."""

    alpha: float = 1.0  # of the loss: 1 with guidance; 1.2 in the paper's unguided recipes
    guidance: Guidance = "long_short"  # which networks are guided, see kappa1 to kappa4
    guidance_scale: float | None = None  # of it; none: as the model recommends
    kappa1: float | None = None  # scale of the fake score while it learns
    kappa2: float | None = None  # of the fake score in delta
    kappa3: float | None = None  # of the fake score where it occurs the second time
    kappa4: float | None = None  # of the teacher
    dropout: Annotated[float, Range(0, 1)] = 0.1  # share of empty prompts for the fake score, where kappa1 is not 1
    weight: Weight | None = None  # of a level in the student's loss; none: mean_abs, flows 1_minus_sigma
    student_scale: Annotated[float, Range(0)] | None = None  # factor of its loss; none: 1, edm and flow 100
    fake_scale: Annotated[float, Range(0)] = 1.0  # factor of the fake score's loss
    ratio: Annotated[int, Range(1)] = 1  # updates of the fake score per update of the student
    adversarial: Annotated[float, Range(0)] = 0.0  # weight of SiDA's term, in the paper 0.01; 0: none
    adversarial_from: Annotated[float, Range(0)] = 200.0  # thousand samples after which it joins
    real: Annotated[int, Range(1)] = 2048  # pictures of the teacher that SiDA takes for real, without exemplars=

    about: ClassVar[About] = SiD.about
    usage: ClassVar[str] = 'genbench run model={model} plugin=sid sid.weights={made} prompt="..."'

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guidance_scale is not None and self.guidance in ("zero", "none") and not self.adversarial:
            raise UsageError(
                f"sid.guidance_scale= plays no part in sid.guidance={self.guidance}; leave one of them out"
            )

    def play(self, lab: Lab) -> Play:
        """The fake score first, then the student."""
        match_ = Match(self, lab, self.kappas(guidance_of(lab.teacher, self.guidance_scale)))
        fake = Update(FAKE, match_.fake, self.batch, self.micro)
        student = Update(STUDENT, match_.student, self.batch, self.micro)
        return Play(lambda step: [fake, student] if self.moves(step, self.ratio) else [fake], cycle=self.ratio)

    def check(self, job: TrainJob) -> None:
        """Refuse pictures that nothing looks at."""
        super().check(job)
        if job.exemplars is not None and not self.adversarial:
            raise UsageError(
                "sid learns without pictures; exemplars= is for its adversarial term, sid.adversarial=0.01"
            )

    def kappas(self, g: float) -> tuple[float, float, float, float]:
        """The four guidance scales of SiD-LSG at scale g: what `guidance` says, each of its own where it is given.

        long_short guides all four alike, long the teacher alone; zero leaves the teacher unguided and takes the prompt
        from the fake score, anti leads the fake score away from it (scale 1 - g).
        """
        fake, teacher = {
            "long_short": (g, g),
            "long": (1.0, g),
            "zero": (0.0, 1.0),
            "anti": (1.0 - g, 1.0),
            "none": (1.0, 1.0),
        }[self.guidance]
        own = (self.kappa1, self.kappa2, self.kappa3, self.kappa4)
        one, two, three, four = (
            value if given is None else given for value, given in zip((fake, fake, fake, teacher), own, strict=True)
        )
        return one, two, three, four

    def rehearsal(self) -> Self:
        """With the adversary from the first step on, and one picture for all."""
        return replace(super().rehearsal(), adversarial_from=0.0, real=1)

    def drawn_first(self, job: TrainJob) -> int:
        """SiDA's, where no folder has them."""
        return self.real if self.adversarial and job.exemplars is None else 0


@dataclass(frozen=True)
class Match:
    """The losses of both roles on one lab."""

    method: SiDTrainer
    lab: Lab
    kappas: tuple[float, float, float, float]

    def fake(self, turn: Turn) -> tuple[Tensor, Figures]:
        """How well the fake score denoises what the student makes now; guidance is inside the regression."""
        model, kappa = self.lab.fake, self.kappas[0]
        prompts = self.lab.prompts(turn)
        conditioning = self.lab.encoded(prompts)
        with torch.no_grad():
            x = self.lab.drawn(turn, conditioning)
        noise, level, _ = self.lab.noise(turn, "denoising")
        told = self._dropped(prompts, turn) if kappa not in (0.0, 1.0) else prompts
        raw = raw_at(model, self.lab.encoded(told), noised(x, noise, level), level, kappa)
        losses = fake_loss(raw, target_of(model, x, noise, level), level, model.prediction_type)
        figures = {"error": float(losses.detach().mean()) / x[0].numel()}
        if not self.method.adversarial:
            return self.method.fake_scale * losses.mean(), figures
        telling = self._telling(turn, x, conditioning, noise, level)
        return self.method.fake_scale * losses.mean() + telling, {**figures, "telling": float(telling.detach())}

    def student(self, turn: Turn) -> tuple[Tensor, Figures]:
        """The student's loss: the same noise for teacher and fake score, gradients through both."""
        _, two, three, four = self.kappas
        conditioning = self.lab.encoded(self.lab.prompts(turn))
        x = self.lab.drawn(turn, conditioning)
        noise, level, _ = self.lab.noise(turn, "student")
        x_t = noised(x, noise, level)
        (real,) = x0_at(self.lab.target(turn.step), conditioning, x_t, level, four)
        fake, again = x0_at(self.lab.judge, conditioning, x_t, level, two, three)
        weight = student_weight(x, real, level, self._weight)
        loss = self._scale * student_loss(x, real, fake, again, self.method.alpha, weight).mean()
        figures = {"delta": float((real - fake).detach().square().mean())}
        if not self.method.adversarial or turn.step * turn.batch < 1000 * self.method.adversarial_from:
            return loss, figures
        fooling = looks_real(self._logits(self.lab.judge, x_t, conditioning, level), True)
        term = self.method.adversarial * (fooling * weight.flatten() * x[0].numel()).mean()
        return 0.5 * loss + 0.5 * term, {**figures, "fooling": float(fooling.detach().mean())}

    @property
    def _scale(self) -> float:
        """The factor of the student's loss in the recipe that the levels are of."""
        own = 1.0 if self.lab.laws.law == "sd" else 100.0
        return own if self.method.student_scale is None else self.method.student_scale

    @property
    def _weight(self) -> Weight:
        own: Weight = "1_minus_sigma" if self.lab.laws.law == "flow" else "mean_abs"
        return self.method.weight or own

    def _dropped(self, prompts: Sequence[str], turn: Turn) -> list[str]:
        """A share of the prompts made empty."""
        empty = Chance.of(turn.seeds("dropout")).chosen(self.method.dropout)
        return ["" if drop else prompt for prompt, drop in zip(prompts, empty, strict=True)]

    # --- SiDA: the fake score as its own discriminator ----------------------------------------------------------------

    def _telling(self, turn: Turn, x: Tensor, conditioning: Conditioning, noise: Tensor, level: Level) -> Tensor:
        """How badly it tells real pictures from the student's, at the same levels and noises."""
        chance = Chance.of(turn.seeds("real"))
        index = [int(torch.randint(self._reals.count, (1,), generator=g)) for g in chance.generators]
        latents, prompts = self._reals.drawn(index)
        there, shown = noised(latents.to(noise), noise, level), self.lab.encoded(prompts)
        real = looks_real(self._logits(self.lab.fake, there, shown, level), True)
        fake = looks_real(self._logits(self.lab.fake, noised(x, noise, level), conditioning, level), False)
        return (fake_weight(level, self.lab.fake.prediction_type) * (real + fake) / 2).mean() * x[0].numel()

    def _logits(self, model: Model, x_t: Tensor, conditioning: Conditioning, level: Level) -> Tensor:
        """What the middle of a network says, (b, k), with the prompt; the rest of it is spared."""
        network = model.modules[name_of(model)]
        with features(network, feature_names(network), stop=True) as found:
            predicted(model, alone(conditioning), x_t, level)
        return logits(next(iter(found.values())))

    @cached_property
    def _reals(self) -> Reals:
        return self.lab.reals(self.method.real, self.method.guidance_scale)
