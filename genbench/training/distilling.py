"""Distilling a model into a student of few steps: what every such method asks, begins with, watches and leaves behind.

A method inherits `Distillation` (its options come first) and brings the updates of its roles; its losses work with a
`genbench.training.lab.Lab`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from torch import Tensor

from genbench.distilled import StudentFile, save_student
from genbench.errors import ModelError, UsageError
from genbench.fewstep import FewStep, levels_of
from genbench.hashes import file_hash
from genbench.kinds import About, Model, TrainJob
from genbench.models import model_hash
from genbench.options import Range
from genbench.studentfiles import network_of, read_about, weight_files
from genbench.training.backtracking import PATH, Backtracking
from genbench.training.card import card
from genbench.training.keeping import Keeping
from genbench.training.lab import Lab, checkpoint_blocks, name_of, own_copy, still
from genbench.training.laws import Law, Laws
from genbench.training.machines import accelerated
from genbench.training.optimise import Figures, Training, Turn, Update
from genbench.training.place import Place
from genbench.training.planning import planned
from genbench.training.reals import captioned
from genbench.training.roles import Average, Optimiser, Role
from genbench.training.rollouts import Rollout
from genbench.training.watching import Looks, Sitting
from genbench.training.writers import open_writers

STUDENT, FAKE = "student", "fake"
FILE = "student.safetensors"
GRID = 1000
"""Times in (0, 1) from which a training draws its noise levels."""


@dataclass(frozen=True)
class Play:
    """What a method does: the updates of a step, in their order, and roles besides student and fake score.

    After `cycle` steps the same turns come again.
    """

    updates: Callable[[int], Sequence[Update]]
    roles: Sequence[Role] = ()
    cycle: int = 1


@dataclass(frozen=True)
class Distillation:
    """The options that every distillation shares."""

    updates: Annotated[int, Range(1)] = 2000  # steps of the training, each of one update or more
    batch: Annotated[int, Range(1)] = 64  # samples of an update, over all processes
    micro: Annotated[int, Range(1)] = 16  # samples at once; bounds memory, changes no result
    steps: Annotated[int, Range(1)] = 1  # the most steps the student is asked for; it learns 1 to so many
    initial: Annotated[float, Range(0, 1)] = 0.625  # time of its first level, as a share of the schedule
    start: str | None = None  # a student to go on from, a file or a training's folder; none: the teacher's weights
    lr: Annotated[float, Range(0)] = 1e-5  # of the student's AdamW
    fake_lr: Annotated[float, Range(0)] | None = None  # of the fake score's; none: as the student's
    betas: tuple[float, ...] = (0.0, 0.999)  # of AdamW
    weight_decay: Annotated[float, Range(0)] = 0.0  # of AdamW
    warmup: Annotated[int, Range(0)] = 0  # updates in which the rates rise
    clip: Annotated[float, Range(0)] | None = None  # bound of a gradient's norm; none: no bound
    clip_value: Annotated[float, Range(0)] | None = None  # bound of each of its numbers
    ema: Annotated[float, Range(0)] = 50.0  # half-life of the student's moving average in thousand samples; 0: none
    student_from: Annotated[float, Range(0)] = 0.0  # thousand samples before the student moves; SiDA: 100
    law: Law | None = None  # of noise levels: sd, edm, flow; none: by the model's kind
    height: int | None = None  # of the pictures; none: as the model recommends
    width: int | None = None  # of the pictures; none: as the model recommends
    precision: Literal["no", "bf16"] = "no"  # of the networks' arithmetic; weights stay float32
    checkpointing: bool = False  # compute the networks' own blocks again instead of storing them
    backtrack: Annotated[int, Range(0)] = 0  # teachers on the way from the student to its teacher; 0: none (DisBack)
    backtrack_updates: Annotated[int, Range(1)] = 50  # updates between two of them when they are recorded
    backtrack_steps: Annotated[int, Range(1)] = 50  # steps for which the student follows each
    keep_every: Annotated[int, Range(0)] = 0  # updates between students that are kept in snapshots/; 0 keeps none
    look_every: Annotated[int, Range(1)] = 200  # updates between two looks
    look_prompts: Annotated[int, Range(1)] = 25  # prompts that are drawn at a look
    look_seeds: Annotated[int, Range(1)] = 4  # pictures of each
    patience: Annotated[int, Range(0)] = 0  # looks without a better held-out score until it stops; 0: never

    about: ClassVar[About]
    usage: ClassVar[str]

    def __post_init__(self) -> None:
        if not 0 < self.initial <= 1:
            raise UsageError(
                f"{self.name}.initial={self.initial} is a share of the schedule's time, above 0, at most 1"
            )
        if len(self.betas) != 2:
            raise UsageError(f"{self.name}.betas= are two numbers, such as 0,0.999")

    # --- what a method says ---------------------------------------------------------------------------------------

    def play(self, lab: Lab) -> Play:
        """The method: whose turn it is at a step, and the losses."""
        raise NotImplementedError

    def check(self, job: TrainJob) -> None:
        """Refuse what a job lacks, before anything is drawn. Raises UsageError."""
        missing = [word for word, given in (("model=", job.model), ("prompts=FILE", job.rows)) if not given]
        if missing:
            raise UsageError(f"{self.name} distils a model on prompts; give {' and '.join(missing)}")
        if job.exemplars is not None:
            captioned(job.exemplars)
        if job.metrics:
            raise UsageError(f"metrics= play no part in {self.name}; reward= and holdout= watch a student")
        if self.patience and job.holdout is None:
            raise UsageError(f"{self.name}.patience= waits for a held-out score; name a scorer with holdout=")

    def rehearsal(self) -> Self:
        """The method as `plan` tries it: all roles move in the first cycle, and nothing is drawn or recorded before."""
        return replace(self, backtrack=0, student_from=0.0)

    def drawn_first(self, job: TrainJob) -> int:
        """How many pictures of the teacher a training draws before its first step."""
        return 0

    @property
    def name(self) -> str:
        """What messages, checkpoints and curves call the method."""
        return type(self).__name__.removesuffix("Trainer").lower()

    @property
    def times(self) -> tuple[float, ...]:
        """When the student is asked: from `initial` down in equal steps."""
        return tuple(self.initial * (1 - step / self.steps) for step in range(self.steps))

    def moves(self, step: int, ratio: int) -> bool:
        """Whether the student learns at a step: at every `ratio`th, after the lead that the others have."""
        return (step + 1) % ratio == 0 and step * self.batch >= 1000 * self.student_from

    def settings(self, job: TrainJob) -> dict[str, object]:
        """What the result depends on besides chance."""
        free = {"patience", "micro", "updates", "keep_every", "start"}
        own = {key: value for key, value in asdict(self).items() if not key.startswith("look_") and key not in free}
        begun = {} if self.start is None else {"start": [file_hash(file) for file in self._start_files()]}
        model = "" if job.model is None else f"{job.model.name} {model_hash(job.model)[:12]}"
        texts = sha256("\n".join(job.prompts).encode()).hexdigest()[:12]
        told = {"model": model, "prompts": texts, "exemplars": str(job.exemplars or ""), "seed": job.seed}
        return {**own, **begun, **told}

    # --- what they share ------------------------------------------------------------------------------------------

    def train(self, job: TrainJob) -> Path:
        """Make or continue the student; returns its folder. Raises GenbenchError, keeping what was reached."""
        training, lab, looks = self.prepare(job)
        if lab.path is not None and not training.started:
            self._record(lab, lab.path)
        if not looks.looks and not training.started:
            looks.look(0)
        looks.finish(training.run())
        return self.export(job, lab, training, looks)

    def plan(self, job: TrainJob) -> dict[str, object]:
        """Say what a training takes, from steps that are thrown away: a whole cycle, after one to warm up."""
        tried = self.rehearsal()
        training, lab, _ = tried.prepare(job)
        counts = {role.name: sum(p.numel() for p in role.parameters.values()) for role in training.roles}
        trainable = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        told = planned(training, job.resources.ledger, trainable, "a step", cycle=tried.play(lab).cycle, warm=True)
        first = self.drawn_first(job)
        return {**told, "drawn first": f"{first} pictures of the teacher"} if first else told

    def prepare(self, job: TrainJob) -> tuple[Training, Lab, Looks]:
        """Everything up to the first update."""
        self.check(job)
        assert job.model is not None  # `check` refuses that
        lab = self._lab(job, job.model)
        play = self.play(lab)
        roles = [*self._roles(lab), *play.roles]
        place = Place(job.run, job.seed, device=job.device)
        looks = self._looks(job, lab, roles[0], place)
        watcher = Keeping(self.keep_every, lambda step: self._keep(job, lab, roles[0], step), looks)
        training = Training(
            place, self.name, roles, play.updates, self.updates, lab.accelerator, self.settings(job), watcher
        )
        training.writers = looks.writers
        return training, lab, looks

    def _lab(self, job: TrainJob, model: Model) -> Lab:
        student, fake = own_copy(self._begun(model)), own_copy(model)
        if self.checkpointing:
            for each in (student, fake):
                checkpoint_blocks(each)
        teacher = model.replace(modules={name_of(model): still(model.modules[name_of(model)])})
        height = int(str(self.height or model.recommended["height"]))
        width = int(str(self.width or model.recommended["width"]))
        shape = model.latent_shape(height, width)
        return Lab(
            job,
            teacher,
            student,
            fake,
            fake.replace(modules={name_of(model): still(fake.modules[name_of(model)])}),
            accelerated(job.device, self.precision),
            Laws.of(levels_of(model, shape, [1 - i / GRID for i in range(GRID)]), model, self.law),
            levels_of(model, shape, self.times),
            height,
            width,
            self._path(job, model),
        )

    def _begun(self, model: Model) -> Model:
        """The model with the weights that the student starts from. Raises ModelError for a student of another one."""
        if self.start is None:
            return model
        said, files, name = f"{self.name}.start={self.start}", self._start_files(), name_of(model)
        told = read_about(files[0])
        if told is not None and told.base_hash not in ("", model_hash(model)):
            raise ModelError(f"{said} is a student of model={told.base}, and model={model.name} has other weights")
        return model.replace(modules={name: network_of(files, model.modules[name], said, model.name)})

    def _start_files(self) -> tuple[Path, ...]:
        files = weight_files(Path(str(self.start)).expanduser())
        if not files or not all(file.is_file() for file in files):
            raise ModelError(f"{self.name}.start={self.start} is no student; give its file or its training's folder")
        return files

    def _path(self, job: TrainJob, model: Model) -> Backtracking | None:
        if not self.backtrack:
            return None
        target = own_copy(model, trainable=False)
        network = target.modules[name_of(model)]
        return Backtracking(job.run / "path", self.backtrack, self.backtrack_steps, target, network)

    def _record(self, lab: Lab, path: Backtracking) -> None:
        """Record the path, from the teacher to the student as it is; the fake score begins at its end."""
        copied = own_copy(lab.teacher)
        network, optimiser = copied.modules[name_of(copied)], self.optimiser(self.fake_lr or self.lr)
        place = Place(lab.job.run, lab.job.seed, device=lab.job.device)

        def loss(turn: Turn) -> tuple[Tensor, Figures]:
            return lab.denoising(copied, turn).mean(), {}

        update, role = Update(PATH, loss, self.batch, self.micro), Role.of(PATH, network, optimiser)
        path.record(place, role, update, self.backtrack_updates, lab.accelerator, self.settings(lab.job))
        path.load(self.backtrack, lab.fake.modules[name_of(lab.fake)])

    def optimiser(self, lr: float) -> Optimiser:
        """AdamW at another rate, the rest as asked."""
        return Optimiser(
            lr,
            (self.betas[0], self.betas[1]),
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            clip_norm=self.clip,
            clip_value=self.clip_value,
        )

    def _roles(self, lab: Lab) -> list[Role]:
        average = Average(half_life=1000 * self.ema) if self.ema else None
        student, fake = (model.modules[name_of(model)] for model in (lab.student, lab.fake))
        rate = self.lr if self.fake_lr is None else self.fake_lr
        return [
            Role.of(STUDENT, student, self.optimiser(self.lr), average),
            Role.of(FAKE, fake, self.optimiser(rate)),
        ]

    def _looks(self, job: TrainJob, lab: Lab, role: Role, place: Place) -> Looks:
        """Looks at held-out prompts where there are some, drawn as the student will be."""
        rows = (job.holdout_rows or job.rows)[: self.look_prompts]
        judges = {"reward": job.reward, "holdout": job.holdout}
        size = {"height": lab.height, "width": lab.width}
        drawing = lab.student.replace(sampler=FewStep(self.times), recommended={**lab.student.recommended, **size})
        return Looks(
            place,
            self.name,
            role,
            Rollout(job.resources, drawing, self.steps, 1.0),
            Sitting.of(rows, self.look_seeds, job.seed + 10_000),
            {name: judge for name, judge in judges.items() if judge is not None},
            lab.accelerator,
            encoder=job.encoder,
            writers=open_writers(job.track, job.run, self.name) if lab.accelerator.is_main_process else (),
            every=self.look_every,
            patience=self.patience,
        )

    def export(self, job: TrainJob, lab: Lab, training: Training, looks: Looks) -> Path:
        """Write the student, of the best look where a held-out score followed it with patience, and its card."""
        best = looks.best if self.patience and looks.best else None
        weights: Mapping[str, Tensor] = best["weights"] if best else training.roles[0].result()
        if lab.accelerator.is_main_process:
            self._save(job, lab, weights, job.run / FILE)
            text = card(self, job, looks.looks, None if best is None else int(best["step"]), made="Student")
            (job.run / "README.md").write_text(text)
        for writer in looks.writers:
            writer.close()
        return job.run

    @property
    def _size(self) -> dict[str, object]:
        """Of the pictures, where the words gave it."""
        asked = {"height": self.height, "width": self.width}
        return {name: value for name, value in asked.items() if value is not None}

    def _keep(self, job: TrainJob, lab: Lab, role: Role, step: int) -> None:
        if lab.accelerator.is_main_process:
            self._save(job, lab, role.result(), job.run / "snapshots" / f"{step:06d}.safetensors")

    def _save(self, job: TrainJob, lab: Lab, weights: Mapping[str, Tensor], path: Path) -> None:
        assert job.model is not None  # `check` refuses that
        told = StudentFile(
            method=self.name,
            base=job.model.name,
            base_hash=model_hash(job.model),
            module=name_of(job.model),
            times=self.times,
            recommended={"steps": 1, "guidance_scale": 1.0, **self._size},
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        save_student(path, {name: value.half() for name, value in weights.items()}, told)
