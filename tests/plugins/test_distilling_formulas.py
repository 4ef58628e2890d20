"""What the trainers of students compute in an update, against the papers' formulas written out with bare networks.

Teacher, fake score and student differ, so that one in another's place, a stopped gradient or a wrong sign is seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from genbench.training.distilling import FAKE, STUDENT, Distillation
from genbench.training.features import features
from genbench.training.lab import Lab
from genbench.training.optimise import Training, Turn
from genbench.training.students import Chance
from genbench_fdistill.trainer import DISCRIMINATOR, FDistillTrainer
from genbench_sid.trainer import SiDTrainer
from tests.plugins.test_distilling import job

ITEMS = (0, 1, 2, 3)
SMALL: dict[str, Any] = {"batch": 4, "micro": 2, "updates": 1, "guidance_scale": 2.0}


def begun(trainer: Distillation, folder: Path) -> tuple[Training, Lab]:
    """A training whose networks have already gone apart, with a discriminator that says something."""
    training, lab, _ = trainer.prepare(job(folder))
    generator = torch.Generator().manual_seed(1)
    for role in training.roles:
        for name, tensor in role.parameters.items():
            wide = 2.0 if role.name == DISCRIMINATOR and name.endswith("weight") else 1.0
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.data.mul_(wide).add_(0.02 * noise)
    return training, lab


def gradients(training: Training, role: str, step: int = 0) -> tuple[float, dict[str, Tensor]]:
    """The loss of an update as the loop makes it, in parts, and the gradient by every weight of the role."""
    owner = training._role(role)
    for each in training.roles:
        each.adamw.zero_grad(set_to_none=True)
    update = next(update for update in training.updates(step) if update.role == role)
    told = training._backward(owner, update, step)
    return told["loss"], {name: p.grad.clone() for name, p in owner.parameters.items() if p.grad is not None}


class Plain:
    """A UNet that predicts noise, asked by hand, for the turn of all samples of a role's update."""

    def __init__(self, lab: Lab, role: str, name: str, purpose: str) -> None:
        turn = Turn(f"0 {name}", 0, role, ITEMS, len(ITEMS))
        self.lab, self.prompts = lab, lab.prompts(turn)
        told = lab.encoded(self.prompts)
        assert told.negative is not None
        self.text = {True: told.positive["encoder_hidden_states"], False: told.negative["encoder_hidden_states"]}
        chance = Chance.of(turn.seeds("walk"))
        z, first = chance.normal(lab.shape), lab.walk[0]
        self.x = (first.sigma * z - first.sigma * self.said("student", first.sigma * z, first.t)) / first.alpha
        chance = Chance.of(turn.seeds("noise"))
        self.noise = chance.normal(lab.shape)
        self.rows = lab.laws.rows(purpose, chance.generators)  # type: ignore[arg-type]
        levels = [lab.laws.levels[row] for row in self.rows]
        self.t = torch.stack([level.t for level in levels])
        self.alpha = torch.tensor([float(level.alpha) for level in levels]).reshape(-1, 1, 1, 1)
        self.sigma = torch.tensor([float(level.sigma) for level in levels]).reshape(-1, 1, 1, 1)
        self.x_t = self.alpha * self.x + self.sigma * self.noise

    def said(self, who: str, x: Tensor, t: Tensor, prompted: bool = True) -> Tensor:
        network: Any = getattr(self.lab, who).modules["unet"]
        return network(x, t, encoder_hidden_states=self.text[prompted]).sample

    def x0(self, who: str, scale: float) -> Tensor:
        c, u = (self.said(who, self.x_t, self.t, half) for half in (True, False))
        return (self.x_t - self.sigma * (u + scale * (c - u))) / self.alpha


def agree(found: dict[str, Tensor], training: Training, role: str, loss: Tensor) -> None:
    parameters = training._role(role).parameters
    expected = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    for (name, _), gradient in zip(parameters.items(), expected, strict=True):
        if gradient is not None:
            assert torch.allclose(found[name], gradient, rtol=2e-3, atol=2e-3 * float(gradient.abs().max())), name


# --- SiD ----------------------------------------------------------------------------------------------------------

SCALES: dict[str, dict[str, Any]] = {
    "long": {"guidance": "long"},
    "zero": {"guidance": "zero", "guidance_scale": None},
    "own": {"kappa1": 1.5, "kappa2": 0.5, "kappa3": 3.0, "kappa4": 2.5, "dropout": 0.0},
}


@pytest.mark.parametrize("words", list(SCALES.values()), ids=list(SCALES))
@pytest.mark.parametrize("alpha", [1.0, 1.2])
def test_sids_student(words: dict[str, Any], alpha: float, tmp_path: Path) -> None:
    method = SiDTrainer(**{**SMALL, "alpha": alpha, **words})
    training, lab = begun(method, tmp_path)
    value, found = gradients(training, STUDENT)
    plain, (_, two, three, four) = Plain(lab, STUDENT, "sid", "student"), method.kappas(2.0)
    real, fake, again = plain.x0("teacher", four), plain.x0("fake", two), plain.x0("fake", three)
    weight = 1 / (plain.x - real).abs().mean((1, 2, 3), keepdim=True).detach()
    loss = (weight * (real - fake) * ((real - plain.x) - alpha * (real - again))).sum() / len(ITEMS)
    assert value == pytest.approx(float(loss.detach()), rel=1e-3, abs=1e-3 * found["conv_in.weight"].abs().max().item())
    agree(found, training, STUDENT, loss)


@pytest.mark.parametrize("words", list(SCALES.values()), ids=list(SCALES))
def test_sids_fake_score(words: dict[str, Any], tmp_path: Path) -> None:
    method = SiDTrainer(**{**SMALL, **words})
    training, lab = begun(method, tmp_path)
    value, found = gradients(training, FAKE)
    plain, kappa = Plain(lab, FAKE, "sid", "denoising"), method.kappas(2.0)[0]
    x_t = plain.x_t.detach()
    c, u = (plain.said("fake", x_t, plain.t, half) for half in (True, False))
    loss = (u + kappa * (c - u) - plain.noise).square().sum() / len(ITEMS)
    assert value == pytest.approx(float(loss.detach()), rel=1e-4)
    agree(found, training, FAKE, loss)


# --- f-distill ----------------------------------------------------------------------------------------------------


def spread(plain: Plain, training: Training, method: FDistillTrainer) -> tuple[Tensor, Tensor]:
    """The discriminator's logits of the student's noised pictures with their graph, and h by the sheet, both (b,)."""
    from genbench_fdistill.heads import Discriminator

    network = plain.lab.teacher.modules["unet"]
    with features(network, ["mid_block"]) as seen:
        plain.said("teacher", plain.x_t, plain.t)
    role = training._role(DISCRIMINATOR)
    heads = Discriminator([seen["mid_block"].shape[1:]], 0)
    heads.load_state_dict({name: tensor.detach() for name, tensor in role.parameters.items()})
    logits = heads([seen["mid_block"]])
    r = logits.mean(1).detach().clamp(-10, 10).exp().clamp(method.lowest, method.highest)
    rows = ((1 - torch.tensor(plain.rows) / 1000) * 10).long().clamp(max=9)
    means = torch.stack([r[rows == row].mean() for row in rows])
    r = r / (method.bin_rate * 1 + (1 - method.bin_rate) * means)
    h = r / (1 + r) if method.divergence == "js" else torch.ones_like(r)
    return logits, h / h.mean()


@pytest.mark.parametrize("divergence", ["js", "rkl"])
def test_f_distills_student(divergence: Any, tmp_path: Path) -> None:
    words = {**SMALL, "ratio": 1, "divergence": divergence, "gan_weight": 0.05, "initial": 0.9}
    method = FDistillTrainer(**words, lowest=1e-3, highest=1e3)
    training, lab = begun(method, tmp_path)
    value, found = gradients(training, STUDENT)
    plain = Plain(lab, STUDENT, "fdistill", "student")
    logits, h = spread(plain, training, method)
    assert divergence == "rkl" or float(h.std()) > 0.05  # else parts of a batch could be weighed apart, unseen
    with torch.no_grad():
        teacher, fake = plain.x0("teacher", 2.0), plain.x0("fake", 1.0)
        weight = h.reshape(-1, 1, 1, 1) / (plain.x - teacher).abs().mean((1, 2, 3), keepdim=True)
        pull = weight * (fake - teacher)
    matching = (pull * plain.x).sum() / plain.x.numel()  # its gradient by x is the pull's mean
    adversarial = softplus(-logits).mean()
    assert value == pytest.approx(0.5 * float(pull.square().mean()) + 0.05 * float(adversarial.detach()), rel=1e-3)
    agree(found, training, STUDENT, matching + 0.05 * adversarial)


def test_f_distills_fake_score_denoises_with_the_prompt_alone(tmp_path: Path) -> None:
    training, lab = begun(FDistillTrainer(**SMALL), tmp_path)
    value, found = gradients(training, FAKE)
    plain = Plain(lab, FAKE, "fdistill", "denoising")
    loss = (plain.said("fake", plain.x_t.detach(), plain.t) - plain.noise).square().mean()
    assert value == pytest.approx(float(loss.detach()), rel=1e-4)
    agree(found, training, FAKE, loss)


def test_the_weights_of_samples_are_those_of_the_whole_batch_however_it_is_cut(tmp_path: Path) -> None:
    told: list[dict[str, Tensor]] = []
    for micro in (4, 3, 1):
        words = {**SMALL, "ratio": 1, "micro": micro, "lowest": 1e-3, "highest": 1e3}
        training, _ = begun(FDistillTrainer(**words), tmp_path / str(micro))
        told.append(gradients(training, STUDENT)[1])
    for other in told[1:]:
        for name, gradient in told[0].items():
            assert torch.allclose(other[name], gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max())), name
