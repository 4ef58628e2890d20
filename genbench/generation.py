"""Request + plugins -> pictures: the life of one run, in the order in which it happens.

plugins are found and their options checked -> the model is opened -> model transforms -> recommended settings are
filled in -> prompts are encoded -> one random stream per picture -> sampling or search -> decode -> pictures.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import Tensor

from genbench import chain as chains, cost, discovery, hub, judging, models, sampling, schedulers
from genbench.chain import Chain
from genbench.embeddings import Embeddings
from genbench.errors import BrokenImage, GenbenchError, ModelError, UsageError
from genbench.judging import Panel
from genbench.kinds import (
    RUN_KINDS,
    Candidate,
    CheckedWords,
    Context,
    Ledger,
    Model,
    Remaking,
    Resources,
    Scene,
    SceneJob,
    SceneOptimizer,
)
from genbench.prompts import STDIN
from genbench.request import Item, Resolved, request_fields, resolve
from genbench.sampler_names import sampler_name
from genbench.scenes.turntables import SIZE, VIEWS
from genbench.scenes.views import Stand, between, sheet
from genbench.searchspace import TrajectorySpace

T = TypeVar("T")
Progress = Callable[[int], None]
Trace = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Picture:
    """One finished picture and what is needed to make it again.

    `image` (3, h, w) float in [0, 1]; `latents` (c, ...); `nfe` network evaluations, guidance counted as two;
    `seconds` of wall time; `batch` the items it was sampled with and `position` its place among them; `score` and
    `trace` (one mapping per candidate) where a search chose it. Of a `scene` the picture shows eight views around it.
    """

    image: Tensor
    latents: Tensor
    item: Item
    resolved: Resolved
    nfe: int
    seconds: float
    batch: tuple[Item, ...]
    position: int
    score: float | None = None
    trace: tuple[Mapping[str, object], ...] = ()
    scene: Scene | None = None

    @property
    def prompt(self) -> str:
        return self.item.prompt

    @property
    def seed(self) -> int:
        return self.item.seed

    @property
    def pil(self) -> Any:
        """The picture as a `PIL.Image`, rounded to 8 bits as diffusers does."""
        from PIL import Image

        return Image.fromarray((self.image.permute(1, 2, 0).float().cpu().numpy() * 255).round().astype("uint8"))


@dataclass
class Session:
    """A model and a chain of plugins kept loaded; draws as many pictures as wanted.

    `timings` are seconds per stage, `weights` the SHA-256 of every file that plugins loaded. `traces` are what earlier
    searches left, by the index of their picture: those winners are remade, not searched for. `place` is where the scene
    of an item keeps its checkpoint (None: nowhere that stays), `resume` says to go on from one.
    """

    resolved: Resolved
    chain: Chain
    model: Model
    panel: Panel
    ledger: Ledger
    resources: Resources
    timings: dict[str, float] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    embeddings: Embeddings = field(default_factory=Embeddings)
    traces: Mapping[int, Trace] = field(default_factory=dict[int, Trace])
    place: Callable[[Item], Path] | None = None
    resume: bool = False

    @classmethod
    def open(cls, resolved: Resolved) -> Session:
        """Check everything that can be checked without weights, then load. Raises GenbenchError subclasses."""
        with hub.closed(resolved.request.offline):
            return cls._open(resolved)

    @classmethod
    def _open(cls, resolved: Resolved) -> Session:
        began = time.perf_counter()
        resolved, chain = build_chain(resolved)
        check_words(resolved, chain)
        check_rows(resolved, chain)
        ledger, weights = Ledger(), {}
        options = models.ModelOptions.from_request(resolved.request)
        cache = FileCache(weights, options.local_only)
        # A second model is opened once: a trajectory asks for it per batch.
        opened = functools.cache(lambda word: models.open_model(word, options, ledger))
        resources = Resources(ledger, cache.load, opened)
        word = resolved.request.model
        model = models.open_model(
            word, options, ledger, allow=lambda family: chains.check_before(chain.plugins, word, family)
        )
        for plugin in chain.model:
            model = plugin.transform_model(model, resources)
        resolved = resolved.with_recommended(f"model {resolved.request.model}", model.recommended)
        chains.check_model(chain, model)
        panel = Panel() if chain.search is None else judging.panel(resolved)
        timings = {"load": time.perf_counter() - began}
        return cls(resolved, chain, model, panel, ledger, resources, timings, weights)

    def pictures(self, items: Iterable[Item], progress: Progress | None = None) -> Iterator[Picture]:
        """Draw items in batches of neighbours with equal settings; yields pictures as they finish.

        A broken picture (NaN, constant) is left out; BrokenImage is raised when everything else is done.
        """
        broken: list[str] = []
        for overrides, group in groupby(items, key=lambda item: item.overrides):
            session = self.changed(overrides)
            for batch in batched(group, batch_size(session.resolved)):
                for picture in session.draw(batch, session.resolved, progress):
                    problem = diagnose(picture, self.model)
                    if problem is None:
                        yield picture
                    else:
                        broken.append(problem)
        if broken:
            raise BrokenImage(broken[0] if len(broken) == 1 else f"{len(broken)} pictures broke; first: {broken[0]}")

    def changed(self, overrides: Mapping[str, object]) -> Session:
        """Return this session with a row's settings: plugins and verifiers are built anew where the row has others."""
        resolved, chain, model, panel = self.resolved.override(overrides), self.chain, self.model, self.panel
        if any("." in name for name in overrides):
            resolved, chain = build_chain(resolved)
        if "true_cfg" in overrides:
            model = models.with_true_cfg(model, resolved.request.true_cfg)
        if "verifier" in overrides and chain.search is not None:
            panel = judging.panel(resolved)
        return replace(self, resolved=resolved, chain=chain, model=model, panel=panel)

    def draw(
        self, items: Sequence[Item], resolved: Resolved | None = None, progress: Progress | None = None
    ) -> list[Picture]:
        """Draw one batch of items with one group of settings."""
        resolved = resolved or self.resolved
        with torch.no_grad(), hub.closed(resolved.request.offline):
            if self.chain.scene is not None:
                return [self._scene(self.chain.scene, item, resolved, progress) for item in items]
            if self.chain.search is not None:
                return [self._search(item, resolved, progress) for item in items]
            return self._sample(tuple(items), resolved, progress)

    def _sample(self, items: tuple[Item, ...], resolved: Resolved, progress: Progress | None) -> list[Picture]:
        began, before = time.perf_counter(), self.ledger.evaluations
        with self._timed("encode"):
            ctx, shape = self.context(items, resolved)
        with self._timed("sample"):
            state = sampling.draw(self.chain, ctx, shape, progress)
        with self._timed("decode"):
            images = self.model.decode(state.x)
        nfe = (self.ledger.evaluations - before) // len(items)
        seconds = (time.perf_counter() - began) / len(items)
        return [Picture(images[i], state.x[i], item, resolved, nfe, seconds, items, i) for i, item in enumerate(items)]

    def _search(self, item: Item, resolved: Resolved, progress: Progress | None) -> Picture:
        began, before = time.perf_counter(), self.ledger.evaluations
        with self._timed("encode"):
            ctx, shape = self.context((item,), resolved)
        size = batch_size(resolved)
        space = TrajectorySpace(self.chain, ctx, shape, self.panel, size, item.row, progress)
        with self._timed("search"):
            found = self._found(space, item)
        with self._timed("decode"):
            images = self.model.decode(found.state.x)
        trace = judging.with_holdouts(found, space.watch, images)
        nfe, seconds = self.ledger.evaluations - before, time.perf_counter() - began
        return Picture(images[0], found.state.x[0], item, resolved, nfe, seconds, (item,), 0, float(found.score), trace)

    def _scene(self, optimizer: SceneOptimizer, item: Item, resolved: Resolved, progress: Progress | None) -> Picture:
        began, before = time.perf_counter(), self.ledger.evaluations
        with self._timed("encode"):
            ctx, _ = self.context((item,), resolved)
        with self._timed("optimize"), self._placed(item) as folder, torch.enable_grad():
            scene = optimizer.optimize(SceneJob(folder, ctx, item.prompt, item.seed, self.resume, progress))
        with self._timed("look"):
            image = looked_at(scene)
        nfe = int(getattr(scene, "evaluations", self.ledger.evaluations - before))
        seconds = time.perf_counter() - began
        return Picture(image, torch.empty(0), item, resolved, nfe, seconds, (item,), 0, scene=scene)

    @contextmanager
    def _placed(self, item: Item) -> Iterator[Path]:
        if self.place is not None:
            yield self.place(item)
            return
        with TemporaryDirectory(prefix="genbench-scene-") as folder:
            yield Path(folder)

    def _found(self, space: TrajectorySpace, item: Item) -> Candidate:
        search, trace = self.chain.search, self.traces.get(item.index)
        if trace and isinstance(search, Remaking):
            return search.remake(space, trace)
        return search.search(space)  # pyright: ignore[reportOptionalMemberAccess]  # set: see draw

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - began

    def context(self, items: Sequence[Item], resolved: Resolved) -> tuple[Context, tuple[int, ...]]:
        """Encode the prompts and lay out the schedule: (context of one batch, shape of one latent)."""
        request = resolved.request
        ctx = sampling.context(
            self.resources,
            self.model,
            self.sampler(request.sampler),
            prompts=[item.prompt for item in items],
            seeds=[item.seed for item in items],
            negative=[item.negative_prompt for item in items] if any(i.negative_prompt for i in items) else None,
            steps=request.steps,
            guidance_scale=request.guidance_scale,
            height=request.height,
            width=request.width,
            negative_half=bool(self.chain.steps),
            encode=self.embeddings.encode,
        )
        return ctx, self.model.latent_shape(request.height, request.width)

    def cost(self, item: Item, resolved: Resolved) -> tuple[int, int, int]:
        """Return (outer steps, evaluations of a plain picture, evaluations with the plugins that state theirs)."""
        with torch.no_grad():
            ctx, _ = self.context((item,), resolved)
        return ctx.schedule.steps, cost.plain_evaluations(ctx), cost.picture_evaluations(self.chain, ctx)

    def sampler(self, word: str | None) -> Any:
        """The chain's sampler plugin, else the one named by `sampler=`, else the model's own."""
        if self.chain.sampler is not None:
            return self.chain.sampler
        if word is None:
            return self.model.sampler
        base = getattr(self.model.sampler, "scheduler", None)
        if base is None:
            raise UsageError(f"sampler={word}: this model brings a sampler of its own kind; leave sampler= out")
        return schedulers.named_sampler(word, base)


@dataclass
class FileCache:
    """Plugin weights: one copy per process and file, its SHA-256 noted in `weights`; `local_only` forbids fetching."""

    weights: dict[str, str]
    local_only: bool = False
    built: dict[tuple[Path, object], Any] = field(default_factory=dict)

    def load(self, source: str | Path, build: Callable[[Path], T]) -> T:
        word = str(source)
        path = hub.fetch(word, self.local_only) if hub.is_hub_file(word) else Path(source)
        if not path.is_file():
            raise ModelError(f"weights '{source}' do not exist; give the path of a file")
        key = (path.resolve(), getattr(build, "__code__", build))
        if key not in self.built:
            name = word if hub.is_hub_file(word) else f"{path.resolve().parent.name}/{path.name}"
            self.weights[name] = models.file_hash(path)
            self.built[key] = build(path)
        return self.built[key]


def build_chain(resolved: Resolved) -> tuple[Resolved, Chain]:
    """Build the plugins with their options, compose them and take over the settings they recommend."""
    plugins = {word: discovery.build(word, resolved.options.get(word, {}), RUN_KINDS) for word in resolved.plugins}
    for word, plugin in plugins.items():
        chosen = {option.name: getattr(plugin.object, option.name) for option in fields(plugin.object)}
        resolved = resolved.with_options(word, chosen).with_recommended(f"plugin {plugin.name}", plugin.recommended)
    return resolved, chains.compose([plugins[word] for word in resolved.plugins])


def check_words(resolved: Resolved, chain: Chain) -> None:
    """Refuse what words alone show to be wrong, before anything loads. Raises GenbenchError subclasses."""
    request = resolved.request
    if request.sampler is not None:
        sampler_name(request.sampler)
        if chain.sampler is not None:
            raise UsageError(f"sampler={request.sampler} and a sampler plugin; a run has at most one, leave one out")
    if request.cache is not None:
        chains.check_cache(chain.plugins, f"cache={request.cache}")
    source = None if chain.model else models.source_of(request.model)
    known = resolved if source is None else resolved.with_recommended("model", source.recommended)
    for plugin in chain.plugins:
        if isinstance(plugin.object, CheckedWords):
            plugin.object.check_words(request_fields(known.request))
    if chain.search is not None and (request.verifier is not None or not chain.model):
        judging.check(known)


def check_rows(resolved: Resolved, chain: Chain) -> None:
    """Build what each row asks for by itself, so that what is wrong stops the run early. Raises GenbenchError
    subclasses that name the row's place.
    """
    seen: set[str] = set()
    for number, row in enumerate(resolved.rows or ()):
        own = {name: row[name] for name in ("sampler", "verifier") if name in row} | resolved.row_options(row)
        if own and repr(own) not in seen:
            seen.add(repr(own))
            try:
                _check_row(resolved, chain, own)
            except GenbenchError as error:
                raise type(error)(f"{resolved.place(number)}: {error}") from None


def _check_row(resolved: Resolved, chain: Chain, own: Mapping[str, object]) -> None:
    for plugin, word in zip(chain.plugins, resolved.plugins, strict=True):
        if "model" in plugin.kinds and any(name.rpartition(".")[0] == word for name in own):
            raise UsageError(f"options of '{plugin.name}' cannot change from row to row: it changes the model itself")
    changed, _ = build_chain(resolved.override(own))
    if changed.request.sampler is not None:
        sampler_name(changed.request.sampler)
    if "verifier" in own and chain.search is not None:
        judging.check(changed)


def pictures(resolved: Resolved, progress: Progress | None = None) -> Iterator[Picture]:
    """Run a resolved request: yields pictures as they finish."""
    session = Session.open(resolved)
    yield from session.pictures(session.resolved.items(), progress)


def generate(**words: object) -> list[Picture]:
    """Make pictures: the same run as `genbench run`, with the same words.

    `generate(plugin="search", prompt="a red cube", seed=7, options={"search": {"candidates": 8}})`.
    Raises GenbenchError subclasses for everything that a user can get wrong.
    """
    return list(pictures(resolve(words)))


def plan(resolved: Resolved) -> dict[str, object]:
    """Say what would run and its network evaluations, row by row; opens the model and draws nothing.

    A plugin that states its evaluations (see `genbench.cost`) is counted exactly; the others say theirs in words.
    Standard input is left alone: its number of pictures is unknown (None).
    """
    session = Session.open(resolved)
    resolved, chain = session.resolved, session.chain
    streamed = resolved.request.prompts == STDIN
    items = [Item(0, "", "", 0)] if streamed else list(resolved.items())
    groups = [(key, list(group)) for key, group in groupby(items, key=lambda item: item.overrides)]
    sessions = [session.changed(key) for key, _ in groups]
    costs = [each.cost(group[0], each.resolved) for each, (_, group) in zip(sessions, groups, strict=True)]
    total = sum(each[2] * len(group) for each, (_, group) in zip(costs, groups, strict=True))
    words = [f"{type(p).__name__}: {p.about.cost or 'cost not stated'}" for p in cost.unstated(chain)]
    return {
        "pictures": None if streamed else len(items),
        "family": session.model.family,
        "plugins": list(resolved.plugins),
        "steps": costs[0][0],
        "plain_evaluations": costs[0][1],
        "evaluations_per_picture": costs[0][2],
        "evaluations": None if streamed else total,
        "not_counted": words,
    }


def looked_at(scene: Scene, judged: bool = False) -> Tensor:
    """Eight views around a scene on one sheet, (3, h, w) in [0, 1]; from where the scene's own `stand` says.

    `judged` are those between them: where cameras keep to directions (front, side, back), none has stood there.
    """
    stand: Stand = getattr(scene, "stand", Stand())
    stand = between(stand, VIEWS) if judged else stand
    with torch.no_grad():
        return sheet(list(scene.render(stand.around(VIEWS, SIZE)).clamp(0, 1).float().cpu()))


def diagnose(picture: Picture, model: Model) -> str | None:
    """Say in one line why a picture is not one (NaN, constant), or None; a scene is told when it is saved."""
    if picture.scene is not None:
        return None
    what = f"the picture of seed {picture.seed}"
    if not torch.isfinite(picture.latents).all():
        advice = "use dtype=bfloat16 or dtype=float32" if model.dtype == torch.float16 else "lower guidance_scale"
        return f"{what} is broken: the network produced NaN or infinity in {model.dtype}; {advice}"
    if not torch.isfinite(picture.image).all():
        return f"{what} is broken: the VAE produced NaN in {model.dtype}; use dtype=float32 or dtype=bfloat16"
    if float(picture.image.max() - picture.image.min()) < 1 / 255:
        return f"{what} is one constant colour; the VAE or the latents are wrong: try dtype=float32 or another model"
    return None


def batch_size(resolved: Resolved) -> int:
    """Pictures (or candidates) per network call: `batch_size=`, else as the model recommends, else 1.

    Lines of standard input are drawn one by one, so that each picture comes when its line does.
    """
    return 1 if resolved.request.prompts == STDIN else resolved.request.batch_size or 1


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut an iterable into lists of at most `size`, as soon as each is full."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
