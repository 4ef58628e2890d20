"""THE CONTRACT: the values that travel through a run, and one small protocol per kind of plugin.

A generation is a handful of nested functions. A *model* is loaded, *noise* is drawn, a *sampler* walks the noise to
an image one *step* at a time, and possibly a *search* repeats this over many noises guided by a *scorer*. Each kind
of plugin changes exactly one of these. A plugin is a frozen dataclass: its fields are its options, its one method is
its idea. No base class, no registration call: an entry point in the kind's group (`GROUPS`) names the class.

**Kinds nest as listed in GROUPS; within a kind, plugins apply in the order typed.**

Importing this module imports no torch, so that listing plugins stays instant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

from genbench import solvers
from genbench.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CONTRACT = 1
"""Version of this contract. A plugin whose `about.contract` differs is refused with a message that says which side
to upgrade."""

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]
T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """One kind of plugin: entry-point group, the method that makes a class one of this kind, composition law."""

    name: str
    group: str
    method: str
    law: str
    many: bool


GROUPS: tuple[Kind, ...] = (
    Kind("source", "genbench.source", "open", "exactly one: the model the run asks for", False),
    Kind("model", "genbench.model", "transform_model", "a chain, left to right", True),
    Kind("noise", "genbench.noise", "transform_noise", "a chain, left to right; after a search's proposals", True),
    Kind("sampler", "genbench.sampler", "step", "at most one; the model's own otherwise", False),
    Kind("step", "genbench.step", "wrap_step", "a chain, leftmost innermost; called once per trajectory", True),
    Kind("search", "genbench.search", "search", "at most one", False),
    Kind("scorer", "genbench.scorer", "score", "chosen by name: verifier=, reward=, metrics=, holdout=", True),
    Kind("encoder", "genbench.encoder", "embed_images", "chosen by name inside a metric", True),
    Kind("metric", "genbench.metric", "value", "chosen by name: metrics=", True),
    Kind("trainer", "genbench.trainer", "train", "exactly one, verb `train`", False),
    Kind("scene", "genbench.scene", "optimize", "at most one; takes the sampler's place", False),
)
RUN_KINDS = ("model", "noise", "sampler", "step", "search", "scene")
"""Kinds that `plugin=` may name; the others are chosen by their own words."""


@dataclass(frozen=True)
class About:
    """What a plugin says of itself; shown by `genbench plugins NAME` and checked before a run.

    `families` and `prediction_types` say where the method holds (empty: everywhere). `neutral` maps options to the
    values at which a run is bit-identical to no plugin (None: it has no such setting). `cost` is in network
    evaluations, in words. `cache_safe`: the method may run over a step cache. `step_cache`: the plugin is one, so it is
    refused beside a step wrapper or search that is not cache_safe.
    """

    summary: str
    contract: int = CONTRACT
    paper: str = ""
    url: str = ""
    license: str = ""
    families: tuple[str, ...] = ()
    prediction_types: tuple[str, ...] = ()
    cost: str = ""
    neutral: Mapping[str, object] | None = None
    cache_safe: bool = False
    step_cache: bool = False


# --- values -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """One noise level of one schedule: `x = alpha * x0 + sigma * noise`.

    `t` is what the network is told (0-dim), alpha and sigma are 0-dim; the network's input is `x / scale` (samplers
    that walk `x0 + sigma * noise` carry sqrt(sigma^2 + 1) here, the others 1).
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    scale: Tensor | float = 1.0


@dataclass(frozen=True)
class Prediction:
    """One network output at (x, level), seen as `x0`, `eps`, `v` or `flow`, each computed once.

    `raw` (b, ...) is what the network said, in the convention `type`. `cond` and `uncond` are set where
    classifier-free guidance ran (arXiv:2207.12598). `to(type)` returns `raw` itself when it already is of that type.
    """

    raw: Tensor
    x: Tensor
    level: Level
    type: PredictionType
    cond: Prediction | None = None
    uncond: Prediction | None = None

    @cached_property
    def x0(self) -> Tensor:
        a, s = self.level.alpha, self.level.sigma
        match self.type:
            case "sample":
                return self.raw
            case "epsilon":
                return solvers.eps_to_x0(self.raw, self.x, a, s)
            case "v_prediction":
                return solvers.v_to_x0(self.raw, self.x, a, s)
            case "flow_prediction":
                return solvers.flow_to_x0(self.raw, self.x, a, s)

    @cached_property
    def eps(self) -> Tensor:
        a, s = self.level.alpha, self.level.sigma
        match self.type:
            case "epsilon":
                return self.raw
            case "sample":
                return solvers.x0_to_eps(self.raw, self.x, a, s)
            case "v_prediction":
                return solvers.v_to_eps(self.raw, self.x, a, s)
            case "flow_prediction":
                return solvers.flow_to_eps(self.raw, self.x, a, s)

    @cached_property
    def v(self) -> Tensor:
        a, s = self.level.alpha, self.level.sigma
        match self.type:
            case "v_prediction":
                return self.raw
            case "epsilon":
                return solvers.eps_to_v(self.raw, self.x, a, s)
            case _:
                return solvers.x0_to_v(self.x0, self.x, a, s)

    @cached_property
    def flow(self) -> Tensor:
        a, s = self.level.alpha, self.level.sigma
        match self.type:
            case "flow_prediction":
                return self.raw
            case "epsilon":
                return solvers.eps_to_flow(self.raw, self.x, a, s)
            case _:
                return solvers.x0_to_flow(self.x0, self.x, a, s)

    def to(self, type: PredictionType) -> Tensor:
        """Return this prediction in another convention, `(b, ...)`."""
        views = {"sample": "x0", "epsilon": "eps", "v_prediction": "v", "flow_prediction": "flow"}
        return getattr(self, views[type])

    def with_raw(self, raw: Tensor, type: PredictionType | None = None) -> Prediction:
        """Return a prediction at the same point that says `raw` instead, in convention `type` (default: this one)."""
        return Prediction(raw, self.x, self.level, type or self.type)


Memory = Mapping[str, Any]


@dataclass(frozen=True)
class State:
    """The sampler's whole state; a step returns a new one.

    `x` (b, ...) at outer step `index`; `memory` is what a multistep solver remembers (tensors with the same b rows,
    in lists or alone, and plain numbers); `rng` holds one random stream per row (see `genbench.streams`).
    """

    x: Tensor
    index: int = 0
    memory: Memory = field(default_factory=dict)
    rng: tuple[Tensor, ...] = ()

    def replace(self, **changes: Any) -> State:
        """Return a copy with fields replaced."""
        return replace(self, **changes)

    def rows(self, index: Sequence[int]) -> State:
        """Select or repeat rows. Repeats share their stream, so they stay equal; see `fork`."""
        rows = list(index)
        return State(self.x[rows], self.index, _rows(self.memory, rows, len(self.x)), tuple(self.rng[i] for i in rows))

    def fork(self, index: Sequence[int]) -> State:
        """Select or repeat rows, giving every repeat after the first a random stream of its own."""
        from genbench import streams

        return replace(self.rows(index), rng=streams.fork(self.rng, list(index)))


def cat(states: Sequence[State]) -> State:
    """Join states of the same outer step into one batch. Raises UsageError where their steps differ."""
    import torch

    if len({state.index for state in states}) != 1:
        raise UsageError(f"states of different steps cannot be joined: {[state.index for state in states]}")
    memory = _join([state.memory for state in states])
    return State(
        torch.cat([state.x for state in states]),
        states[0].index,
        memory,
        tuple(s for state in states for s in state.rng),
    )


def _rows(value: Any, rows: list[int], batch: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _rows(item, rows, batch) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_rows(item, rows, batch) for item in value)
    carries_batch = hasattr(value, "shape") and len(value.shape) > 0 and value.shape[0] == batch
    return value[rows] if carries_batch else value


def _join(values: Sequence[Any]) -> Any:
    import torch

    first = values[0]
    if isinstance(first, Mapping):
        return {key: _join([value[key] for value in values]) for key in first}
    if isinstance(first, (list, tuple)):
        return type(first)(_join(list(items)) for items in zip(*values, strict=True))
    return torch.cat(list(values)) if hasattr(first, "shape") and len(first.shape) > 0 else first


@dataclass(frozen=True)
class Schedule:
    """The levels one sampler visits in `steps` outer steps.

    `levels[i]` is the level of a state with index i, `levels[steps]` the last (usually sigma = 0). `evaluations[i]`
    lists the levels at which outer step i calls the network (two for Heun). The walk starts from
    `init_scale * noise`. `plan` belongs to the sampler that made the schedule.
    """

    levels: tuple[Level, ...]
    evaluations: tuple[tuple[Level, ...], ...]
    init_scale: Tensor | float = 1.0
    plan: Any = None

    @property
    def steps(self) -> int:
        return len(self.evaluations)


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts, b rows: keyword tensors for the network with the prompt, and without it (or with the negative).

    `negative` is None where the model does no classifier-free guidance. Every tensor has b rows.
    """

    positive: Mapping[str, Tensor]
    negative: Mapping[str, Tensor] | None = None

    def rows(self, index: Sequence[int]) -> Conditioning:
        """Select or repeat rows."""
        rows = list(index)
        positive = {name: tensor[rows] for name, tensor in self.positive.items()}
        if self.negative is None:
            return Conditioning(positive)
        return Conditioning(positive, {name: tensor[rows] for name, tensor in self.negative.items()})

    def halves(self, weight: float) -> tuple[Mapping[str, Tensor], ...]:
        """What guidance at `weight` evaluates: (negative, positive), or at 0 and 1 the half that it is."""
        if self.negative is None or weight == 1.0:
            return (self.positive,)
        return (self.negative,) if weight == 0.0 else (self.negative, self.positive)


@dataclass(frozen=True)
class Start:
    """Where a walk begins; what a noise transform receives and returns.

    `noise` (b, ...) is unit-variance noise. With `origin` (clean latents, b rows) the walk starts at outer step
    `index` from `alpha * origin + sigma * noise` (image-to-image); without it from `init_scale * noise` at index 0.
    `step_noise` (steps, b, ...) replaces the sampler's own draws (edit-friendly inversion).
    """

    noise: Tensor
    index: int = 0
    origin: Tensor | None = None
    step_noise: Tensor | None = None


@dataclass
class Ledger:
    """Counts network evaluations: every row that goes through a denoising network, guidance counted as two."""

    evaluations: int = 0
    calls: int = 0

    def count(self, rows: int) -> None:
        """Add one call of `rows` rows."""
        self.calls += 1
        self.evaluations += rows


Denoise = Callable[["Tensor", Level], Prediction]
"""The model at a point: `denoise(x, level) -> Prediction`, x (b, ...). Architecture, guidance and prediction type are
hidden inside."""

Step = Callable[[State, Denoise], State]
"""One outer step: a pure function of the state. Guidance methods call it with another Denoise, reflection twice."""


# --- what the core gives to plugins -------------------------------------------------------------------------------


class Model(Protocol):
    """A text-to-image model: one adapter per diffusers family, or the toy. Immutable: `replace` and `view` copy.

    `name` is the word that opened it (`model=`); a plugin finds its weights for a model by it.
    """

    @property
    def name(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def prediction_type(self) -> PredictionType: ...
    @property
    def recommended(self) -> Mapping[str, object]: ...
    @property
    def sampler(self) -> Sampler: ...
    @property
    def modules(self) -> Mapping[str, nn.Module]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...

    def replace(
        self,
        *,
        modules: Mapping[str, nn.Module] | None = None,
        sampler: Sampler | None = None,
        recommended: Mapping[str, object] | None = None,
        ledger: Ledger | None = None,
        name: str | None = None,
    ) -> Model:
        """Return a model with other modules (by name), sampler, recommended settings, ledger, name; shares the rest."""
        ...

    def view(
        self,
        *,
        lora: str | None = None,
        lora_scale: float = 1.0,
        controlnet: str | None = None,
        ip_adapter: str | None = None,
        image: Tensor | None = None,
    ) -> Model:
        """Return a model that shares these weights and adds an adapter; nothing has to be switched back.

        `image` (1 or b, 3, h, w) in [0, 1] is what the ControlNet or the IP-Adapter follows. An adapter is opened once.
        """
        ...

    def encode_prompt(
        self,
        prompts: Sequence[str],
        negative: Sequence[str] | None = None,
        *,
        guidance: bool = True,
        height: int = 0,
        width: int = 0,
    ) -> Conditioning:
        """Encode b prompts; `guidance=False` skips the negative half. Warns where a prompt is cut and says where."""
        ...

    def encode_image(self, images: Tensor) -> Tensor:
        """Images (b, 3, h, w) in [0, 1] to clean latents; differentiable."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Clean latents to images (b, 3, h, w), float in [0, 1]; differentiable."""
        ...

    def guidance_weight(self, guidance_scale: float) -> float:
        """The scale of classifier-free guidance that a run's `guidance_scale` means; 0 and 1 are one evaluation."""
        ...

    def denoiser(self, conditioning: Conditioning, guidance_scale: float) -> Denoise:
        """Return the denoiser of one trajectory; it owns any step cache. One row of conditioning serves any batch."""
        ...

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of one latent without the batch axis. Raises UsageError where a size does not fit the model."""
        ...


@dataclass(frozen=True)
class Resources:
    """What a model transform may use: the ledger and the loaders that keep one copy of a weight file per process."""

    ledger: Ledger
    load_file: Callable[[str | Path, Callable[[Path], Any]], Any]
    open_model: Callable[[str], Model]

    def load(self, source: str | Path, build: Callable[[Path], T]) -> T:
        """Build a plugin's own weights from a file: one copy per process, its hash goes into the record.

        `source` is a path, or `hf:org/name/file` for a file of the Hub. Raises ModelError where it cannot be had.
        """
        return self.load_file(source, build)

    def load_model(self, word: str) -> Model:
        """Open a second model (weak, reward ...) by the same word as `model=`; its calls go to the same ledger."""
        return self.open_model(word)


def encode_prompt(model: Model, *prompts: Any, **settings: Any) -> Conditioning:
    """`model.encode_prompt`, nothing kept."""
    return model.encode_prompt(*prompts, **settings)


@dataclass(frozen=True)
class Context(Resources):
    """What a trajectory's plugins may use. b is the batch; every sequence has b entries."""

    model: Model
    sampler: Sampler
    schedule: Schedule
    conditioning: Conditioning
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    guidance_scale: float
    negative: tuple[str, ...] | None = None
    height: int = 0
    width: int = 0
    price: Callable[[Context, int, int], int] | None = None  # of a walk with the run's plugins: see `genbench.cost`
    encode: Callable[..., Conditioning] = encode_prompt  # a session keeps encoded prompts: see `genbench.embeddings`

    def rows(self, index: Sequence[int]) -> Context:
        """Select or repeat rows of everything that has b rows."""
        rows = list(index)
        return replace(
            self,
            conditioning=self.conditioning.rows(rows),
            prompts=tuple(self.prompts[i] for i in rows),
            seeds=tuple(self.seeds[i] for i in rows),
            negative=None if self.negative is None else tuple(self.negative[i] for i in rows),
        )

    def denoiser(
        self,
        *,
        model: Model | None = None,
        guidance_scale: float | None = None,
        conditioning: Conditioning | None = None,
    ) -> Denoise:
        """Return a denoiser like the run's own, with another model, guidance scale or conditioning."""
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        return (model or self.model).denoiser(conditioning or self.conditioning, scale)

    def encode_prompt(self, prompts: Sequence[str], model: Model | None = None) -> Conditioning:
        """Encode other prompts (or the same for another model) at this run's size, with guidance if it could run."""
        size = {"height": self.height, "width": self.width}
        return self.encode(model or self.model, prompts, self.negative, guidance=True, **size)


@dataclass(frozen=True)
class Candidate:
    """What a search returns: a final one-row state, the score it was chosen by, and a record of every candidate.

    `trace` has one mapping per candidate in the order made: at least `score` and `seed` (or how its noise was made).
    The core reads three more words of a row: `chosen` marks the candidate that was returned, `preview` one that was
    judged unfinished, `again` a winner that was drawn once more; the last two are not counted as candidates.
    """

    state: State
    score: float
    trace: tuple[Mapping[str, object], ...] = ()


class Space(Protocol):
    """All a search sees: one prompt, one seed. Contains every diffusion operation, so a search contains none.

    States have n rows; images are (n, 3, h, w) in [0, 1]; noise is (n, *latent shape), unit variance.
    """

    @property
    def ctx(self) -> Context: ...
    @property
    def spent(self) -> int:
        """Network evaluations so far."""
        ...

    @property
    def batch(self) -> int:
        """Rows per network call; states of more rows go through in chunks."""
        ...

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The names of the run's verifiers, at least one where there is something to search by."""
        ...

    @property
    def draws_noise(self) -> bool:
        """Whether the sampler draws noise, so that forked copies of a state part ways by themselves."""
        ...

    def price(self, since: int = 0, until: int | None = None) -> int:
        """Network evaluations of one row's walk that begins at step `since` and ends at `until` (default: the end)."""
        ...

    def propose(
        self, n: int, around: Tensor | None = None, cosine: float | None = None
    ) -> tuple[Tensor, tuple[int, ...]]:
        """Draw n fresh noises and the seeds that remake them; the first ever drawn is the picture's own noise.

        With `around` (1, ...) and `cosine` in [-1, 1]: n neighbours with the pivot's norm and that cosine to it.
        """
        ...

    def redraw(self, seeds: Sequence[int], around: Tensor | None = None, cosine: float | None = None) -> Tensor:
        """Draw again the noises that `propose` gave with these seeds."""
        ...

    def start(self, noise: Tensor, seeds: Sequence[int]) -> State:
        """Turn noises into states at the first level; noise transforms apply here. Seeds continue as step noise."""
        ...

    def run(self, state: State, until: int | None = None) -> State:
        """Sample to outer step `until` (default: the end), in batches that fit."""
        ...

    def renoise(self, state: State, to: int) -> State:
        """Add noise to go back to outer step `to` <= state.index with the exact marginal; forgets solver memory."""
        ...

    def preview(self, state: State) -> Tensor:
        """Predict the clean image from an unfinished state: one denoiser call, decoded."""
        ...

    def decode(self, state: State) -> Tensor:
        """Decode finished states to images."""
        ...

    def score(self, images: Tensor) -> Tensor:
        """Ask the run's one verifier: (n,), larger is better. Raises UsageError where there are several."""
        ...

    def judge(self, images: Tensor) -> Mapping[str, Tensor]:
        """Ask every verifier: name -> (n,), larger is better. Scales differ; what they share is an order."""
        ...

    def watch(self, images: Tensor) -> Mapping[str, Tensor]:
        """Ask the scorers of `holdout=`, which are reported and never followed: name -> (n,)."""
        ...

    def draft(self, steps: int | None = None, cache: str | None = None) -> Space:
        """Return a space of cheaper walks from the same noises: other steps, a step cache."""
        ...

    def among(self, row: int, of: int) -> Space:
        """Return a space in which one row goes through the network as row `row` of `of` rows did: the same bits."""
        ...


# --- kinds --------------------------------------------------------------------------------------------------------


@runtime_checkable
class Checked(Protocol):
    """What any run-time plugin may have besides its kind's method: a check before the model's weights load.

    `check(model, family)` gets the word of `model=` and the family that it turned out to be, and raises a GenbenchError
    where the plugin's options, or the files that they name, do not go with it.
    """

    def check(self, model: str, family: str) -> None: ...


@runtime_checkable
class CheckedWords(Protocol):
    """What any run-time plugin may have besides its kind's method: a check of the run's words before anything loads.

    `words` are the request's fields by name, with the settings that the plugins and an installed model recommend; a
    field is None where only the model will say. Raises a GenbenchError.
    """

    def check_words(self, words: Mapping[str, object]) -> None: ...


@runtime_checkable
class Source(Protocol):
    """Name -> model. `open()` returns a diffusers folder or a ready Model; `recommended` are request fields it brings.

    Law: exactly one per run, `model=NAME`. Optional `views: Mapping[str, Path]` names further folders (`solids/weak`);
    `reference(prompts, seed) -> (n, 3, h, w)` in [0, 1] draws true pictures for set metrics, which look at them with
    the encoder that `encoder: str` names; `captions(count, seed) -> rows` writes prompts to train on; `scene: Mapping`
    holds what it recommends for options of scene methods that are left open.
    """

    recommended: Mapping[str, object]

    def open(self) -> Path | Model: ...


@runtime_checkable
class ModelTransform(Protocol):
    """LoRA, distilled weights, quantization: model in, model out. Law: a chain, left to right."""

    def transform_model(self, model: Model, ctx: Resources) -> Model: ...


@runtime_checkable
class NoiseTransform(Protocol):
    """Golden noise, image-to-image, inversion. Law: a chain, left to right; after a search's proposals."""

    def transform_noise(self, start: Start, ctx: Context) -> Start: ...


@runtime_checkable
class Sampler(Protocol):
    """Schedule and update rule. Law: at most one; the model's own otherwise."""

    def schedule(self, steps: int, model: Model, shape: tuple[int, ...]) -> Schedule:
        """Return the levels of a walk in `steps` outer steps for one latent of `shape`."""
        ...

    def step(self, state: State, denoise: Denoise, ctx: Context) -> State:
        """Take outer step `state.index`; pure."""
        ...


@runtime_checkable
class StepWrapper(Protocol):
    """Guidance variants, reflection, step caches. Law: a chain, leftmost innermost; called once per trajectory."""

    def wrap_step(self, step: Step, ctx: Context) -> Step: ...


@runtime_checkable
class Search(Protocol):
    """Best-of-n, zero-order, path search, particle steering. Law: at most one."""

    def search(self, space: Space) -> Candidate: ...


@runtime_checkable
class Remaking(Protocol):
    """What a search may have besides `search`: its winner made again, alone, from the trace that it left."""

    def remake(self, space: Space, trace: Sequence[Mapping[str, Any]]) -> Candidate: ...


@runtime_checkable
class Scorer(Protocol):
    """Verifier in search, reward in finetuning, metric in evaluation: (b,), larger is better.

    `images` (b, 3, h, w) float in [0, 1]; `rows` are the prompt file's rows. Optional `details(...)` with the same
    arguments returns `{name: (b,)}`; with the score itself under the empty name, judging calls `details` alone.
    Optional `version()`, also of an encoder, names the content of weights that lie outside the plugin's package:
    values of unlike versions are never put together. Optional `relative: bool`, a class attribute or a property: the
    score only compares pictures seen together, as a rank does; a search may follow it, a metric it cannot be. Optional
    `score_views(views, prompts, rows)` says (b,) of scenes seen from v directions, `views` (b, v, 3, h, w); else their
    score is the mean over views. Law: chosen by name.
    """

    def score(
        self, *, images: Tensor, prompts: Sequence[str], rows: Sequence[Mapping[str, object]] | None = None
    ) -> Tensor: ...


@runtime_checkable
class Encoder(Protocol):
    """Feature space for set metrics and similarities. Law: chosen by name."""

    def embed_images(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, d)."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """n texts -> (n, d)."""
        ...


@runtime_checkable
class SetMetric(Protocol):
    """A number for a set of pictures: Frechet, KID, Vendi. Law: chosen by name.

    `features` (n, d), `reference` (m, d) where the metric compares, `groups` (n,) where it averages over groups.
    Optional `without(features, reference, groups)` returns the values with each group left out, in order of group
    number, where that is cheaper than asking again; `resampled(features, reference, weights)` those of resamples
    (draw i takes row j weights[i, j] times), whose spread is then the interval; `subsets(features, reference)` a
    function from row numbers to the value of these rows, prepared once for many questions. Optional
    `trusted_from: int`: a value of fewer pictures comes with a note; `larger_is_better: bool` (default false).
    Optional `known_as: Mapping[str, str]`: other names and what to write for them; `bounds: tuple[float, float]`, also
    of a scorer: the range of its values, to which intervals are clipped.
    """

    def value(
        self, features: Tensor, reference: Tensor | None = None, groups: Sequence[object] | None = None
    ) -> float: ...


@dataclass(frozen=True)
class TrainJob:
    """What a trainer receives. `run` is its folder; `resume` says that checkpoints there are to be continued.

    `rows` are the prompt file's rows and `prompts` their texts, `holdout_rows` those of prompts that are only watched;
    `encoder` sees how much pictures of one prompt differ; `track` names writers of curves.
    """

    run: Path
    resources: Resources
    model: Model | None = None
    prompts: tuple[str, ...] = ()
    reward: Scorer | None = None
    metrics: Mapping[str, object] = field(default_factory=dict)
    exemplars: Path | None = None
    holdout: Scorer | None = None
    seed: int = 0
    resume: bool = False
    device: str = "cpu"  # what `device=` comes to here
    rows: tuple[Mapping[str, object], ...] = ()
    holdout_rows: tuple[Mapping[str, object], ...] = ()
    encoder: Encoder | None = None
    track: tuple[str, ...] = ()


@runtime_checkable
class Trainer(Protocol):
    """Makes weights. Law: exactly one, verb `train`; the same name may also be a run-time plugin.

    Optional `plan(job) -> {name: value}` says what a training would take (`--dry-run`): trainable parameters, memory,
    cost; it leaves nothing behind.
    """

    def train(self, job: TrainJob) -> Path: ...


class Scene(Protocol):
    """A 3D result: Gaussians or a radiance field.

    Optional `stand` (`genbench.scenes.views.Stand`) says from where it is shown; `evaluations` how many network
    evaluations it took in all, also before it was continued.
    """

    def render(self, cameras: Any) -> Tensor:
        """What c cameras see (`genbench.scenes.cameras.Cameras`), (c, 3, h, w) in [0, 1]."""
        ...

    def save(self, folder: Path) -> Sequence[Path]:
        """Write its files into the folder, the scene itself first; returns their paths."""
        ...


@dataclass(frozen=True)
class SceneJob:
    """What a scene optimiser receives: the prior, the prompt and a folder of the scene's own.

    `resume` says that a checkpoint there is to be continued; `progress(n)` is told of n iterations that are done.
    """

    run: Path
    ctx: Context
    prompt: str
    seed: int = 0
    resume: bool = False
    progress: Callable[[int], None] | None = None


@runtime_checkable
class SceneOptimizer(Protocol):
    """Text-to-3D. Law: at most one; takes the sampler's place."""

    def optimize(self, job: SceneJob) -> Scene: ...


PROTOCOLS: Mapping[str, type] = {
    "source": Source,
    "model": ModelTransform,
    "noise": NoiseTransform,
    "sampler": Sampler,
    "step": StepWrapper,
    "search": Search,
    "scorer": Scorer,
    "encoder": Encoder,
    "metric": SetMetric,
    "trainer": Trainer,
    "scene": SceneOptimizer,
}
