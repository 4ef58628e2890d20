"""`genbench train plugin=asd model=... prompts=...`: a generator of scenes for many prompts (arXiv:2407.02040, sec. 4).

One update: some prompts, a scene of each from the generator, a camera for each scene, and the prior's gradient on what
the cameras see, as `plugin=asd` takes it for one scene, into the generator. No pictures or scenes are needed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from genbench.errors import UsageError
from genbench.kinds import About, Model, TrainJob
from genbench.models import model_hash
from genbench.options import Range
from genbench.scenes.cameras import Cameras
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.looking import Looking, backdrop
from genbench.scenes.prior import Prior, Told
from genbench.scenes.prompting import Prompting, Texts
from genbench.scenes.rendering import Engine, Rendered, engine
from genbench.scenes.scores import Sight
from genbench.training.adapters import write_card
from genbench.training.card import card
from genbench.training.machines import accelerated
from genbench.training.optimise import Figures, Training, Turn, Update
from genbench.training.place import Place
from genbench.training.planning import planned
from genbench.training.roles import Average, Optimiser, Role
from genbench.training.watching import Looks, Sitting
from genbench.training.writers import open_writers
from genbench_asd.generator import FILE, Shape, TextToGaussians, encoded, save
from genbench_asd.plugin import ABOUT, Asynchronous

ROLE = "generator"
KNOWN = 512
"""Prompts whose encodings are kept."""


@dataclass(frozen=True)
class ASDTrainer(Asynchronous, Looking):
    """Amortised ASD: one network makes the scene of any prompt at once."""

    batch: Annotated[int, Range(1)] = 8  # prompts of an update, a camera for each
    updates: Annotated[int, Range(1)] = 4000  # of the generator
    lr: Annotated[float, Range(0)] = 1e-3  # of AdamW at its peak; half a cosine, after `warmup` updates
    warmup: Annotated[int, Range(0)] = 100  # updates in which the rate rises
    ema: Annotated[float, Range(0, 1)] = 0.995  # decay of the average that is written; 0: none
    clip: Annotated[float, Range(0)] | None = 1.0  # norm of the gradient; none: no bound
    guidance_scale: Annotated[float, Range(0)] = 7.5  # of the first term
    count: Annotated[int, Range(1)] = 1024  # Gaussians of a scene
    radius: Annotated[float, Range(0, low_open=True)] = 0.5  # of the ball in which they begin, world units
    width: Annotated[int, Range(1)] = 128  # of the generator's layers
    depth: Annotated[int, Range(1)] = 4  # how many there are
    look_every: Annotated[int, Range(1)] = 500  # updates between looks
    look_prompts: Annotated[int, Range(1)] = 16  # prompts that are looked at, held-out ones where there are some
    look_views: Annotated[int, Range(1)] = 4  # directions from which
    patience: Annotated[int, Range(0)] = 0  # looks without a better held-out score that end it; 0: never

    about: ClassVar[About] = replace(
        ABOUT,
        summary="Trains a network that makes the scene of any prompt in one pass.",
        cost="3 per prompt and update",
    )
    usage: ClassVar[str] = 'genbench run plugin=asd asd.weights={made} model={model} prompt="..."'
    name: ClassVar[str] = "asd"

    def check(self, job: TrainJob) -> Model:
        """The prior. Raises UsageError, ModelError for a job that cannot be trained."""
        missing = [word for word, given in (("model=", job.model), ("prompts=FILE", job.rows)) if not given]
        if job.model is None or missing:
            raise UsageError(f"asd trains on a model and prompts; give {' and '.join(missing)}")
        if job.reward is not None or job.metrics or job.exemplars is not None:
            raise UsageError("reward=, metrics= and exemplars= play no part in asd: it follows the model alone")
        if self.patience and job.holdout is None:
            raise UsageError("asd.patience= waits for a held-out score; name a scorer with holdout=")
        if self.batch > len(set(job.prompts)):
            raise UsageError(f"asd.batch={self.batch} prompts of an update are more than there are")
        self.check_looking(job.model.name, job.model.family)
        return job.model

    def train(self, job: TrainJob) -> Path:
        """Make or continue the generator; returns its file. Raises GenbenchError, keeping what was reached."""
        training, amortised, looks = self.prepare(job)
        if not looks.looks and not training.started:
            looks.look(0)
        looks.finish(training.run())
        return self.export(job, training, amortised, looks)

    def plan(self, job: TrainJob) -> dict[str, object]:
        """Say what a training takes, from one update that is thrown away."""
        training, amortised, _ = self.prepare(job)
        count = sum(parameter.numel() for parameter in amortised.network.parameters())
        return planned(training, job.resources.ledger, f"{count:,}, {2 * count / 1e6:.2f} MB", "an update", warm=True)

    def prepare(self, job: TrainJob) -> tuple[Training, Amortised, Looks]:
        """Everything up to the first update."""
        model = self.check(job)
        settled: ASDTrainer = self.settled(model.name)
        recommended = {key: int(str(model.recommended[key])) for key in ("height", "width")}
        prior = Prior.of(model, **recommended)
        amortised = Amortised(settled, prior, self._network(model, job.seed), tuple(dict.fromkeys(job.prompts)))
        place, accelerator = Place(job.run, job.seed, device=job.device), accelerated(job.device)
        schedule = Optimiser(self.lr, (0.9, 0.99), warmup=self.warmup, schedule="cosine", clip_norm=self.clip)
        role = Role.of(ROLE, amortised.network, schedule, Average(self.ema) if self.ema else None)
        main = accelerator.is_main_process
        looks = Looks(
            place,
            self.name,
            role,
            amortised,
            Sitting.of((job.holdout_rows or job.rows)[: self.look_prompts], self.look_views, job.seed),
            {} if job.holdout is None else {"holdout": job.holdout},
            accelerator,
            writers=open_writers(job.track, job.run, self.name) if main else (),
            every=self.look_every,
            patience=self.patience,
        )
        update = Update(ROLE, amortised.loss, self.batch)
        settings = self.settings(job, model)
        training = Training(place, self.name, [role], lambda _: [update], self.updates, accelerator, settings, looks)
        training.writers = looks.writers
        return training, amortised, looks

    def _network(self, model: Model, seed: int) -> TextToGaussians:
        with torch.no_grad():
            text = encoded(model, [""]).shape[-1]
        torch.manual_seed(seed)
        return TextToGaussians(Shape(text, self.count, self.radius, self.width, self.depth)).to(model.device)

    def settings(self, job: TrainJob, model: Model) -> dict[str, object]:
        """What the result depends on besides chance."""
        texts = sha256("\n".join(job.prompts).encode()).hexdigest()[:12]
        own = {key: value for key, value in asdict(self).items() if not key.startswith("look_") and key != "patience"}
        return {**own, "model": f"{model.name} {model_hash(model)[:12]}", "prompts": texts, "seed": job.seed}

    def export(self, job: TrainJob, training: Training, amortised: Amortised, looks: Looks) -> Path:
        """Write the generator, of the best look where patience followed one, and its card."""
        best = looks.best if self.patience and looks.best else None
        path, role = job.run / FILE, training.roles[0]
        role.load(best["weights"] if best else role.result())
        if training.accelerator.is_main_process:
            save(amortised.network, path, amortised.prior.model, len(amortised.prompts))
            told = card(self, job, looks.looks, None if best is None else int(best["step"]), made="Generator")
            write_card(job.run, told)
            said = f"the best look, after update {best['step']}" if best else f"update {training.done}"
            tqdm.write(f"the generator is that of {said}", file=sys.stderr)
        for writer in looks.writers:
            writer.close()
        return path


@dataclass
class Amortised:
    """A generator before its prior. `method` says how scenes are looked at and in which direction they go."""

    method: ASDTrainer
    prior: Prior
    network: TextToGaussians
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        self.render: Engine = engine(self.method.engine, self.prior.model.device)
        self.prompting = lru_cache(KNOWN)(self._prompting)
        self.encoding = lru_cache(KNOWN)(self._encoding)

    def loss(self, turn: Turn) -> tuple[Tensor, Figures]:
        """The mean over a turn's scenes; its gradient is ASD's."""
        method, generator = self.method, turn.generator("scenes")
        chosen = torch.randperm(len(self.prompts), generator=generator)[: turn.batch].tolist()
        items = list(turn.items)
        cameras = method.cameras(self.prior, generator).rows(items)
        backdrops = method.backdrops(generator)[items].to(self.prior.model.device)
        own = torch.Generator().manual_seed(turn.seeds("noise")[0])
        prompts = [self.prompts[chosen[item]] for item in items]
        rendered, size = self.seen(prompts, cameras, backdrops)
        z = self.prior.encode(rendered.rgb, own)
        progress = turn.step / method.updates
        with torch.no_grad():
            sight = Sight(self.prior, z.detach(), self.texts(prompts, cameras), method.guidance_scale, progress, own)
            gradient = method.direction(sight).nan_to_num()
        loss = (z * gradient).sum() + method.penalty(rendered, size, progress)
        return loss, {"moved": float(gradient.square().mean().sqrt()), "covered": float(rendered.alpha.detach().mean())}

    def seen(self, prompts: Sequence[str], cameras: Cameras, backdrops: Tensor) -> tuple[Rendered, Tensor]:
        """What a camera sees of the scene of each prompt, and the mean size of their Gaussians."""
        scenes = self.scenes(prompts)
        views = [
            self.render(scene, cameras.rows([number]), backdrops[number : number + 1])
            for number, scene in enumerate(scenes)
        ]
        size = torch.stack([scene.scales.exp().mean() for scene in scenes]).mean()
        return Rendered(
            *(torch.cat([getattr(view, part) for view in views]) for part in ("rgb", "alpha", "depth"))
        ), size

    def scenes(self, prompts: Sequence[str]) -> list[Gaussians]:
        """One pass of the generator."""
        return self.network(torch.cat([self.encoding(prompt) for prompt in prompts]))

    def texts(self, prompts: Sequence[str], cameras: Cameras) -> Texts:
        """What the prior is told of each prompt, seen by its camera."""
        each = [self.prompting(prompt).texts(cameras.rows([number])) for number, prompt in enumerate(prompts)]

        def joined(part: str) -> Told:
            told: list[Told] = [getattr(texts, part) for texts in each]
            return {name: torch.cat([one[name] for one in told]) for name in told[0]}

        return Texts(joined("prompt"), joined("negative"), joined("empty"))

    def pictures(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """What is looked at, (n, 3, h, w): of each prompt's scene one direction after the other."""
        count, background = self.method.look_views, backdrop(self.method.background or "random")
        around = self.method.stand().around(count, self.prior.height)
        cameras = around.rows([number % count for number in range(len(prompts))])
        backdrops = background.expand(len(prompts), 3).to(self.prior.model.device)
        with torch.no_grad():
            rendered, _ = self.seen(prompts, cameras, backdrops)
        return rendered.rgb.clamp(0, 1)

    def _prompting(self, prompt: str) -> Prompting:
        return Prompting.of(self.prior, prompt, "", self.method.view_words or (), self.method.view_blend)

    def _encoding(self, prompt: str) -> Tensor:
        with torch.no_grad():
            return encoded(self.prior.model, [prompt])
