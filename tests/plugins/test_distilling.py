"""The trainers of students on tiny pipelines: all roles learn, stops change nothing, students draw as they learnt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from genbench.backbones import adapt
from genbench.distilled import StudentFile, save_student
from genbench.errors import ModelError, UsageError
from genbench.fewstep import FewStep
from genbench.hashes import file_hash
from genbench.kinds import Ledger, Model, TrainJob
from genbench.training import curves
from genbench.training.checkpoints import checkpoint_path, read_checkpoint
from genbench.training.distilling import FAKE, STUDENT, Distillation
from genbench.training.lab import Lab, still
from genbench.training.optimise import Turn
from genbench.training.place import Place
from genbench.training.rollouts import Rollout
from genbench_fdistill.plugin import FDistill
from genbench_fdistill.trainer import FDistillTrainer
from genbench_sid.plugin import SiD
from genbench_sid.trainer import SiDTrainer
from tests.tiny import tiny
from tests.training.rolling import Pixels, Redness, resources

ROWS = tuple({"prompt": text} for text in ("red cube", "blue", "a cat", "photo of the sphere"))
SMALL: dict[str, Any] = {"batch": 4, "micro": 4, "updates": 3, "lr": 1e-3, "look_prompts": 2, "look_seeds": 2}
TRAINERS: tuple[tuple[type[Distillation], dict[str, Any]], ...] = (
    (SiDTrainer, SMALL),
    (FDistillTrainer, {**SMALL, "ratio": 1, "real": 6}),
)
FAMILIES = ("sd", "sd_v", "sdxl", "pixart_alpha", "hunyuan", "sd3", "flux")


def model_of(family: str = "sd", dtype: torch.dtype = torch.float32) -> Model:
    opened: Any = adapt(tiny(family).to(dtype), Ledger())
    return opened.replace(name="tiny", recommended={"height": 16, "width": 16, "steps": 3, "guidance_scale": 2.0})


def job(folder: Path, model: Model | None = None, **more: Any) -> TrainJob:
    model = model or model_of()
    told = {"rows": ROWS, "prompts": tuple(str(row["prompt"]) for row in ROWS), **more}
    return TrainJob(folder, resources(model), model, **told)


def roles(folder: Path, trainer: Distillation) -> Mapping[str, Any]:
    return read_checkpoint(checkpoint_path(Place(folder), trainer.name))["roles"]


def lab_of(trainer: Distillation, folder: Path) -> Lab:
    return trainer.prepare(job(folder))[1]


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("trainer", "words"), TRAINERS)
def test_a_student_is_made_and_used(trainer: type[Distillation], words: dict[str, Any], tmp_path: Path) -> None:
    model = model_of()
    before = {name: value.clone() for name, value in model.modules["unet"].state_dict().items()}
    method = trainer(**words, steps=2, keep_every=2)
    made = method.train(job(tmp_path, model, holdout=Redness(), encoder=Pixels()))
    assert made == tmp_path and (made / "student.safetensors").is_file()
    assert (made / "snapshots" / "000002.safetensors").is_file()
    card = (made / "README.md").read_text()
    assert f"# Student for tiny by {method.name}" in card and "arxiv.org" in card and "| 3 |" in card
    assert same(before, model.modules["unet"].state_dict())  # the teacher stays
    plugin = (SiD if trainer is SiDTrainer else FDistill)(weights=str(made))
    student = plugin.transform_model(model, resources(model))
    assert student.recommended["steps"] == 1 and student.recommended["guidance_scale"] == 1.0
    one = Rollout(resources(model), student, 2, 1.0, 16, 16).pictures(["red cube"], [3])
    assert not torch.allclose(one, Rollout(resources(model), model).pictures(["red cube"], [3]), atol=1e-3)


def test_a_training_starts_from_another_student(tmp_path: Path) -> None:
    words: dict[str, Any] = {"batch": 2, "look_prompts": 1, "ema": 0.0, "steps": 2}
    first = SiDTrainer(**words, updates=2, lr=1e-2).train(job(tmp_path / "first"))
    start = load_file(first / "student.safetensors")
    second = FDistillTrainer(**words, updates=1, lr=0.0, real=2, ratio=1, weight_decay=0.0, start=str(first))
    made = load_file(second.train(job(tmp_path / "second")) / "student.safetensors")
    assert same(start, made)
    kept = torch.load(checkpoint_path(Place(tmp_path / "second"), "fdistill"), weights_only=True)
    assert kept["settings"]["start"] == [file_hash(first / "student.safetensors")]
    save_student(tmp_path / "odd.safetensors", start, StudentFile("sid", "tiny", "another hash", "unet", (0.6,)))
    with pytest.raises(ModelError, match=r"sid.start=.*odd.safetensors is a student of .*other weights"):
        SiDTrainer(**words, start=str(tmp_path / "odd.safetensors")).prepare(job(tmp_path / "third"))
    with pytest.raises(ModelError, match="sid.start=nothing is no student"):
        SiDTrainer(**words, start="nothing").prepare(job(tmp_path / "third"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("trainer", "words"), TRAINERS)
def test_every_family(trainer: type[Distillation], words: dict[str, Any], family: str, tmp_path: Path) -> None:
    told = {**words, "updates": 1, "batch": 2, "micro": 2, "look_prompts": 1, "ema": 0.0}
    method = trainer(**told, guidance_scale=1.0) if family == "flux" else trainer(**told)
    model = model_of(family)
    training, lab, _ = method.prepare(job(tmp_path, model))
    first = {role.name: {k: v.clone() for k, v in role.weights().items()} for role in training.roles}
    training.watcher = None
    training.run()
    for role in training.roles:
        moved = [name for name in role.parameters if not torch.equal(first[role.name][name], role.weights()[name])]
        assert moved, f"{role.name} did not learn"
    line = curves.read(Place(tmp_path), method.name)[-1]
    assert all(value == value for value in line.values())
    assert not any(p.grad is not None for p in lab.teacher.modules[next(iter(lab.teacher.modules))].parameters())


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # FLUX's norms, under autocast
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("family", ["sd", "sdxl", "pixart_alpha", "hunyuan", "sd3", "flux"])
@pytest.mark.parametrize(("trainer", "words"), TRAINERS)
def test_a_teacher_of_half_precision_as_a_gpu_opens_it(
    trainer: type[Distillation], words: dict[str, Any], family: str, precision: Any, tmp_path: Path
) -> None:
    """What learns is float32 throughout, and is drawn with texts and noises of half precision."""
    told = {**words, "batch": 2, "micro": 2, "steps": 2, "precision": precision, "real": 2, "look_prompts": 1}
    training, _, looks = trainer(**told, guidance_scale=1.0).prepare(job(tmp_path, model_of(family, torch.bfloat16)))
    looks.look(0)
    figures = training._step(0) | training._step(1)
    assert all(value == value for value in figures.values()) and figures["student/gradient"] > 0
    assert {p.dtype for role in training.roles for p in role.parameters.values()} == {torch.float32}


@pytest.mark.parametrize(("trainer", "words"), TRAINERS)
def test_a_stopped_training_ends_in_the_same_bits(
    trainer: type[Distillation], words: dict[str, Any], tmp_path: Path
) -> None:
    method = trainer(**words, steps=2)
    method.train(job(tmp_path / "whole"))
    training, _, _ = method.prepare(job(tmp_path / "parts"))
    training.run(until=1)
    method.train(job(tmp_path / "parts"))
    whole, parts = (roles(tmp_path / name, method) for name in ("whole", "parts"))
    assert set(whole) >= {STUDENT, FAKE}
    for name in whole:
        assert same(whole[name]["weights"], parts[name]["weights"]), name
        assert same(whole[name]["average"], parts[name]["average"]), name


@pytest.mark.parametrize(("trainer", "words"), TRAINERS)
def test_parts_of_a_batch_change_nothing(trainer: type[Distillation], words: dict[str, Any], tmp_path: Path) -> None:
    gradients: list[dict[str, float]] = []
    for micro in (4, 1):
        training, _, _ = trainer(**{**words, "micro": micro}, steps=3).prepare(job(tmp_path / str(micro)))
        gradients.append(training._step(0))
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-2, abs=1e-4)


def test_the_checkpoint_of_other_words_is_refused(tmp_path: Path) -> None:
    SiDTrainer(**SMALL).train(job(tmp_path))
    with pytest.raises(ModelError, match=r"made with alpha=1.0; give the same words again"):
        SiDTrainer(**SMALL, alpha=1.2).train(job(tmp_path))
    assert (tmp_path / "student.safetensors").is_file()


def test_what_is_missing_is_said_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give prompts=FILE"):
        SiDTrainer().train(job(tmp_path, rows=(), prompts=()))
    with pytest.raises(UsageError, match="give model="):
        SiDTrainer().train(replace(job(tmp_path), model=None))
    for words, said in (({"initial": 0.0}, "initial"), ({"betas": (0.9,)}, "two numbers")):
        with pytest.raises(UsageError, match=said):
            SiDTrainer(**words)
    with pytest.raises(UsageError, match="density ratio is the discriminator's"):
        FDistillTrainer(gan_weight=0.0)
    with pytest.raises(UsageError, match="above fdistill.highest"):
        FDistillTrainer(lowest=3.0, highest=2.0)


def test_what_nothing_looks_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="patience= waits for a held-out score; name a scorer with holdout="):
        SiDTrainer(**SMALL, patience=2).train(job(tmp_path))
    with pytest.raises(UsageError, match="metrics= play no part in fdistill"):
        FDistillTrainer(**SMALL).train(job(tmp_path, metrics={"frechet": object()}))
    for guidance in ("zero", "none"):
        with pytest.raises(UsageError, match=f"guidance_scale= plays no part in sid.guidance={guidance}"):
            SiDTrainer(guidance=guidance, guidance_scale=2.0)  # type: ignore[arg-type]
        SiDTrainer(guidance=guidance, guidance_scale=2.0, adversarial=0.01)  # type: ignore[arg-type]  # of real pictures
    assert not any(tmp_path.iterdir())


def test_a_plan_leaves_nothing_learnt(tmp_path: Path) -> None:
    told = SiDTrainer(**SMALL).plan(job(tmp_path))
    assert "student" in str(told["trainable parameters"]) and "fake" in str(told["trainable parameters"])
    assert told["evaluations a step"] == (4 + 8) + (4 + 8 + 8)  # drawn, fake score; drawn, teacher, fake score


@pytest.mark.parametrize(
    ("method", "evaluations", "first"),
    [
        (SiDTrainer(**SMALL, guidance="none", ratio=2, student_from=100.0), (8 + 8 + 12) / 2, None),
        (SiDTrainer(**SMALL, guidance="none", adversarial=0.01, real=50), 8 + 12, "50 pictures of the teacher"),
        (SiDTrainer(**SMALL, guidance="none", backtrack=3), 8 + 12, None),
        (FDistillTrainer(**SMALL), (5 * (8 + 4) + 4 + 4 + 8 + 4) / 5, "2048 pictures of the teacher"),
    ],
)
def test_a_plan_counts_every_role_and_not_what_is_drawn_first(
    method: Distillation, evaluations: float, first: str | None, tmp_path: Path
) -> None:
    """Features end a call before it is counted. f-distill's student is drawn twice; its teacher is guided."""
    told = method.plan(job(tmp_path))
    assert told["evaluations a step"] == round(evaluations) and told.get("drawn first") == first
    assert f"for {method.updates}" in str(told["seconds a step"])


def test_a_student_of_another_size_brings_it(tmp_path: Path) -> None:
    words = {**SMALL, "updates": 1, "look_prompts": 1}
    for name, size in (("plain", {}), ("tall", {"height": 32})):
        made = SiDTrainer(**words, **size).train(job(tmp_path / name))
        assert {"steps": 1, "guidance_scale": 1.0, **size} == SiD(weights=str(made)).recommended


# --- what they share ----------------------------------------------------------------------------------------------


def test_a_still_network_has_the_same_numbers_and_no_gradients() -> None:
    network = torch.nn.Linear(2, 2)
    seen = still(network)
    seen(torch.ones(1, 2, requires_grad=True)).sum().backward()
    assert network.weight.grad is None
    with torch.no_grad():
        network.weight.add_(1.0)
    assert torch.equal(seen(torch.ones(1, 2)), network(torch.ones(1, 2)))


def test_the_times_fall_evenly_from_the_first() -> None:
    assert SiDTrainer().times == (0.625,)
    assert SiDTrainer(steps=4).times == pytest.approx((0.625, 0.46875, 0.3125, 0.15625))


def test_all_parts_of_an_update_take_as_many_steps_and_every_number_comes(tmp_path: Path) -> None:
    lab = lab_of(SiDTrainer(**SMALL, steps=3), tmp_path)
    counts: list[int] = []
    conditioning = lab.encoded(["red cube"])
    for step in range(12):
        numbers: list[int] = []
        for items in ((0,), (1,)):
            before = lab.job.resources.ledger.evaluations
            with torch.no_grad():
                lab.drawn(Turn("0 sid", step, STUDENT, items, 2), conditioning)
            numbers.append(lab.job.resources.ledger.evaluations - before)
        assert numbers[0] == numbers[1]
        counts.append(numbers[0])
    assert set(counts) == {1, 2, 3}


def test_a_student_draws_what_it_learnt_to_draw(tmp_path: Path) -> None:
    """The walk of training and the sampler of a run are the same walk."""
    method = SiDTrainer(**SMALL, steps=2)
    lab = lab_of(method, tmp_path)
    drawing = lab.student.replace(sampler=FewStep(method.times))
    rollout = Rollout(lab.job.resources, drawing, 2, 1.0, 16, 16)
    ctx = rollout.context(["red cube"], [5])
    start = rollout.begin(ctx)
    from genbench.streams import normal
    from genbench.training.students import walked

    z = start.x / lab.walk[0].sigma
    later, _ = normal(start.rng, z.shape[1:], z.dtype, z.device)
    with torch.no_grad():
        learnt = walked(lab.student, lab.encoded(["red cube"]), lab.walk, torch.stack([z, later]))
    assert torch.allclose(rollout.latents(["red cube"], [5]), learnt, atol=1e-4)


def test_blocks_that_cannot_be_computed_again_are_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="checkpointing=true: model=tiny has no blocks that can be computed again"):
        SiDTrainer(**SMALL, checkpointing=True).train(job(tmp_path, model_of("hunyuan")))


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_blocks_computed_again_change_nothing(family: str, tmp_path: Path) -> None:
    """Also where the discriminator ends a call within a block."""
    figures: list[dict[str, float]] = []
    for again in (False, True):
        words = {**SMALL, "real": 2, "steps": 2, "adversarial": 0.5, "adversarial_from": 0.0, "checkpointing": again}
        training, _, _ = SiDTrainer(**words).prepare(job(tmp_path / str(again), model_of(family)))
        figures.append(training._step(0))
    assert figures[0] == pytest.approx(figures[1], rel=1e-4)


# --- a teacher that comes to meet its student ---------------------------------------------------------------------


@pytest.mark.parametrize(("trainer", "words"), TRAINERS)
def test_a_path_of_teachers_ends_at_the_teacher(
    trainer: type[Distillation], words: dict[str, Any], tmp_path: Path
) -> None:
    words = {**words, "updates": 7, "backtrack": 3, "backtrack_updates": 2, "backtrack_steps": 2}
    method = trainer(**words)
    _, lab, _ = method.prepare(job(tmp_path / "plan"))
    assert lab.path is not None and not (tmp_path / "plan" / "path").exists()
    assert [lab.path.node(step) for step in range(7)] == [2, 2, 1, 1, 0, 0, 0]
    method.train(job(tmp_path / "run"))
    assert [file.name for file in sorted((tmp_path / "run" / "path").iterdir())] == [
        f"00{node}.safetensors" for node in (1, 2, 3)
    ]
    _, lab, _ = method.prepare(job(tmp_path / "run"))
    own = lab.teacher.modules["unet"].state_dict()
    seen = [{k: v.clone() for k, v in lab.target(step).modules["unet"].state_dict().items()} for step in (0, 2, 4)]
    assert not same(own, seen[0]) and not same(seen[0], seen[1]) and same(own, seen[2])
    assert lab.target(4) is lab.teacher


def test_each_teacher_on_the_path_denoises_the_students_pictures_better(tmp_path: Path) -> None:
    words = {**SMALL, "batch": 8, "micro": 8, "lr": 3e-4, "backtrack": 3, "backtrack_updates": 15}
    method = SiDTrainer(**words)
    _, lab, _ = method.prepare(job(tmp_path))
    assert lab.path is not None
    method._record(lab, lab.path)
    turn = Turn("test", 0, FAKE, tuple(range(16)), 16)
    errors: list[float] = []
    with torch.no_grad():
        errors.append(float(lab.denoising(lab.teacher, turn).mean()))
        for node in (1, 2, 3):
            lab.path.load(node, lab.path.network)
            errors.append(float(lab.denoising(lab.path.target, turn).mean()))
        fake = float(lab.denoising(lab.fake, turn).mean())
    assert errors == sorted(errors, reverse=True) and fake == pytest.approx(errors[-1], rel=1e-3)


def test_a_path_goes_on_after_a_kill_and_resumes_in_the_same_bits(tmp_path: Path) -> None:
    method = SiDTrainer(**{**SMALL, "backtrack": 2, "backtrack_updates": 1, "backtrack_steps": 1})
    method.train(job(tmp_path / "whole"))
    training, lab, _ = method.prepare(job(tmp_path / "parts"))
    assert lab.path is not None
    method._record(lab, lab.path)
    training.run(until=1)
    method.train(job(tmp_path / "parts"))
    whole, parts = (roles(tmp_path / name, method) for name in ("whole", "parts"))
    assert all(same(whole[name]["weights"], parts[name]["weights"]) for name in whole)


def test_a_path_of_other_words_is_refused(tmp_path: Path) -> None:
    words = {**SMALL, "backtrack": 2, "backtrack_updates": 1}
    _, lab, _ = SiDTrainer(**words).prepare(job(tmp_path))
    assert lab.path is not None
    SiDTrainer(**words)._record(lab, lab.path)
    with pytest.raises(ModelError, match=r"path.pt was made with .*lr=0.001"):
        SiDTrainer(**{**words, "lr": 1e-4}).train(job(tmp_path))


# --- SiD's guidance -----------------------------------------------------------------------------------------------


def test_what_each_guidance_means() -> None:
    told = {name: SiDTrainer(guidance=name).kappas(2.0) for name in ("long_short", "long", "zero", "anti", "none")}  # type: ignore[arg-type]
    assert told == {
        "long_short": (2, 2, 2, 2),
        "long": (1, 1, 1, 2),
        "zero": (0, 0, 0, 1),
        "anti": (-1, -1, -1, 1),
        "none": (1, 1, 1, 1),
    }
    assert SiDTrainer(kappa1=1.0, kappa3=0.5).kappas(2.0) == (1.0, 2.0, 0.5, 2.0)


@pytest.mark.parametrize(
    ("guidance", "student", "fake"),
    [("none", 4 + 4 + 4, 4 + 4), ("zero", 12, 8), ("long", 4 + 8 + 4, 4 + 4), ("long_short", 4 + 8 + 8, 4 + 8)],
)
def test_no_half_is_evaluated_in_vain(guidance: Any, student: int, fake: int, tmp_path: Path) -> None:
    """The student's step asks itself, the teacher and the fake score; the fake score's the student and itself."""
    training, lab, _ = SiDTrainer(**SMALL, guidance=guidance).prepare(job(tmp_path))
    counts: dict[str, int] = {}
    for update in training.updates(0):
        before = lab.job.resources.ledger.evaluations
        update.loss(Turn("0 sid", 0, update.role, (0, 1, 2, 3), 4))
        counts[update.role] = lab.job.resources.ledger.evaluations - before
    assert counts == {STUDENT: student, FAKE: fake}


@pytest.mark.parametrize(("family", "law", "factor"), [("sd", None, 1), ("sd", "edm", 100), ("sd3", None, 100)])
def test_the_students_loss_has_the_factor_of_its_recipe(family: str, law: Any, factor: int, tmp_path: Path) -> None:
    losses: list[float] = []
    for scale in (None, 1.0):
        training, _, _ = SiDTrainer(**SMALL, law=law, student_scale=scale).prepare(job(tmp_path, model_of(family)))
        student = next(update for update in training.updates(0) if update.role == STUDENT)
        losses.append(float(student.loss(Turn("0 sid", 0, STUDENT, (0, 1), 2))[0].detach()))
    assert losses[0] == pytest.approx(factor * losses[1], rel=1e-4)


def test_zero_guidance_hides_the_prompt_from_the_fake_score(tmp_path: Path) -> None:
    training, lab, _ = SiDTrainer(**SMALL, guidance="zero").prepare(job(tmp_path))
    seen: list[Tensor] = []
    network: Any = lab.fake.modules["unet"]
    network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    fake = next(update for update in training.updates(0) if update.role == FAKE)
    fake.loss(Turn("0 sid", 0, FAKE, (0, 1), 2))
    empty = lab.encoded(["", ""]).positive["encoder_hidden_states"]
    assert torch.allclose(seen[-1], empty)


def test_a_teacher_without_guidance_is_not_asked_for_any(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no prompt-free half"):
        SiDTrainer(**SMALL, guidance_scale=2.0).train(job(tmp_path, model_of("flux")))
    SiDTrainer(**{**SMALL, "updates": 1}).prepare(job(tmp_path / "own", model_of("flux")))[0].run()


# --- SiDA ---------------------------------------------------------------------------------------------------------


def pictures(folder: Path, count: int = 5) -> Path:
    folder.mkdir()
    lines: list[str] = []
    for number in range(count):
        Image.new("RGB", (20 + number, 16), (40 * number, 90, 200)).save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": "red cube"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "pixart_alpha"])
def test_the_adversarial_term_needs_no_new_weights(family: str, tmp_path: Path) -> None:
    words = {**SMALL, "batch": 2, "micro": 2, "updates": 2, "adversarial": 0.01, "adversarial_from": 0.0, "real": 2}
    training, _, _ = SiDTrainer(**words).prepare(job(tmp_path, model_of(family)))
    assert [role.name for role in training.roles] == [STUDENT, FAKE]
    training.watcher = None
    training.run()
    line = curves.read(Place(tmp_path), "sid")[-1]
    assert line["fake/telling"] > 0 and line["student/fooling"] > 0


def test_the_adversarial_term_joins_and_the_student_moves_when_it_is_time(tmp_path: Path) -> None:
    words = {**SMALL, "adversarial": 0.01, "adversarial_from": 0.008, "student_from": 0.004, "real": 2}
    training, _, _ = SiDTrainer(**words).prepare(job(tmp_path))
    training.watcher = None
    training.run()
    lines = curves.read(Place(tmp_path), "sid")
    assert [("student/loss" in line, "student/fooling" in line) for line in lines] == [
        (False, False),
        (True, False),
        (True, True),
    ]


@pytest.mark.parametrize(("trainer", "words"), TRAINERS)
def test_real_pictures_come_from_a_folder(trainer: type[Distillation], words: dict[str, Any], tmp_path: Path) -> None:
    own = {"adversarial": 0.01, "adversarial_from": 0.0} if trainer is SiDTrainer else {}
    folder = pictures(tmp_path / "pictures")
    training, lab, _ = trainer(**words, **own).prepare(job(tmp_path / "run", exemplars=folder))
    training.watcher = None
    training.run()
    assert not (tmp_path / "run" / "reals").exists()
    latents, prompts = lab.reals(7).drawn([4, 0])
    assert latents.shape == (2, *lab.shape) and prompts == ["red cube"] * 2 and lab.reals(7).count == 5


def test_a_folder_without_captions_is_refused(tmp_path: Path) -> None:
    trainer = FDistillTrainer(**SMALL)
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="has no metadata.jsonl"):
        trainer.train(job(tmp_path / "run", exemplars=tmp_path / "none"))
    folder = pictures(tmp_path / "some")
    for text, said in (
        ("", "names no picture"),
        ("[]", "line 1 is not"),
        ('{"file_name": "x.png", "text": ""}', "x.png"),
    ):
        (folder / "metadata.jsonl").write_text(text)
        with pytest.raises(UsageError, match=said):
            trainer.train(job(tmp_path / "run", exemplars=folder))
    with pytest.raises(UsageError, match="sid learns without pictures"):
        SiDTrainer(**SMALL).train(job(tmp_path / "run", exemplars=pictures(tmp_path / "more")))


# --- f-distill ----------------------------------------------------------------------------------------------------


def test_the_bins_of_the_ratio_are_kept_in_checkpoints(tmp_path: Path) -> None:
    words = {**SMALL, "ratio": 1, "real": 6}
    FDistillTrainer(**words).train(job(tmp_path))
    bins = roles(tmp_path, FDistillTrainer())["discriminator"]["weights"]["bins"]
    assert bins.shape == (10,) and not torch.equal(bins, torch.ones(10))


def test_the_student_moves_at_every_fifth_step(tmp_path: Path) -> None:
    training, _, _ = FDistillTrainer(**{**SMALL, "real": 6}).prepare(job(tmp_path))
    turns = [[update.role for update in training.updates(step)] for step in range(5)]
    assert turns == [[FAKE, "discriminator"]] * 4 + [[FAKE, "discriminator", STUDENT]]
    later = FDistillTrainer(**{**SMALL, "real": 6, "student_from": 5 * SMALL["batch"] / 1000}).prepare(job(tmp_path))[0]
    assert [step for step in range(20) if STUDENT in {each.role for each in later.updates(step)}] == [9, 14, 19]


def test_the_teachers_pictures_are_drawn_once(tmp_path: Path) -> None:
    words = {**SMALL, "ratio": 1, "real": 6, "updates": 1}
    FDistillTrainer(**words).train(job(tmp_path))
    file = tmp_path / "reals" / "000000.safetensors"
    was = file.stat().st_mtime_ns
    FDistillTrainer(**{**words, "updates": 2}).train(job(tmp_path))
    assert file.stat().st_mtime_ns == was


@pytest.mark.parametrize("divergence", ["rkl", "sf", "js", "sh", "kl", "jf", "neyman"])
def test_every_divergence_trains(divergence: Any, tmp_path: Path) -> None:
    words = {**SMALL, "ratio": 1, "real": 4, "updates": 2, "r1": 1.0}
    training, _, _ = FDistillTrainer(**words, divergence=divergence).prepare(job(tmp_path))
    training.watcher = None
    training.run()
    line = curves.read(Place(tmp_path), "fdistill")[-1]
    square = line["student/h_square"]
    assert square == pytest.approx(1.0) if divergence == "rkl" else square >= 1.0  # mean 1, and some spread
