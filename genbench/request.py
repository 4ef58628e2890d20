"""What a run is asked to do: `Request` (typed, validated fields) and `Resolved` (a request, its plugins' options, and
where each value came from). Imports no torch and no plugin.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Any, Literal

from genbench import layers, prompts
from genbench.errors import UsageError, did_you_mean
from genbench.options import Option, Range, check_utf8, convert, options, short
from genbench.prompts import Row

MAX_SEED = 2**63 - 1
MAX_PICTURES = 1_000_000
LITERAL = ("prompt", "negative_prompt")
PER_ROW = ("steps", "guidance_scale", "height", "width", "sampler", "verifier", "true_cfg")
"""Fields that a column of a prompt file may override besides prompt, negative_prompt, seed, seeds and num_images."""
CHOSEN_BY_ROW = (*LITERAL, "seed", "seeds", "num_images")
ROW_FIELDS = frozenset((*PER_ROW, *CHOSEN_BY_ROW))
EXCLUSIVE = (("seed", "seeds"), ("num_images", "seeds"), ("prompt", "prompts"))
SYNONYMS = {
    "num_inference_steps": "steps", "cfg": "guidance_scale", "cfg_scale": "guidance_scale", "n": "num_images",
    "guidance": "guidance_scale", "num_images_per_prompt": "num_images", "scheduler": "sampler", "plugins": "plugin",
    "output": "out", "checkpoint": "model", "reward": "verifier", "negative": "negative_prompt",
}  # fmt: skip


Seed = Annotated[int, Range(0, MAX_SEED)]
Count = Annotated[int, Range(1, MAX_PICTURES)]
Pixels = Annotated[int, Range(1, 65_536)]


@dataclass(frozen=True)
class Request:
    """The fields of a run: the comment after each is its help. None means: as the plugin recommends, then the model.

    Built from words or Python values, both validated here. Raises UsageError.
    """

    prompt: str = ""  # text, literally as typed
    prompts: str | None = None  # file of prompts (txt, csv, jsonl, parquet, hf:org/name/file), or - for standard input
    negative_prompt: str = ""  # what to steer away from, literally as typed
    model: str = "solids"  # installed name, Hub id, diffusers folder or .safetensors file
    plugin: tuple[str, ...] = ()  # chain of plugins: a,b,./file.py:Class
    seed: Seed = 0  # seed of the first picture
    seeds: tuple[Seed, ...] | None = None  # 0..3 or 1,5,9: one picture per seed and prompt
    num_images: Count | None = None  # pictures per prompt, with seeds seed, seed + 1, ...
    steps: Count | None = None  # outer sampling steps
    guidance_scale: Annotated[float, Range()] | None = None  # classifier-free guidance; 1 is none
    height: Pixels | None = None  # pixels
    width: Pixels | None = None  # pixels
    sampler: str | None = None  # euler, dpmpp_2m, ddim, ...; default: the model's own
    verifier: str | None = None  # scorer that a search follows; a,b: their mean rank
    holdout: str | None = None  # scorers reported beside the verifier of a search, never followed: a,b
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"  # of the weights
    device: str = "auto"  # cpu, cuda, cuda:1, mps
    revision: str | None = None  # Hub revision
    variant: str | None = None  # weight variant, as fp16
    config: str | None = None  # folder with the configs of a single .safetensors file
    lora: tuple[str, ...] = ()  # path:scale, several with commas
    true_cfg: Annotated[float, Range(1)] = 1.0  # FLUX: a second guidance with the negative prompt; 1 is none
    attention: str | None = None  # attention backend of diffusers
    offload: str | None = None  # model or sequential: keep idle parts off the device
    compile: bool = False  # torch.compile the network
    cache: str | None = None  # step cache of diffusers: first_block[:threshold] or taylorseer[:interval]
    offline: bool = False  # never touch the network
    batch_size: Count | None = None  # pictures, or candidates of a search, per network call
    out: str = "outputs"  # folder of the run folders
    format: Literal["text", "json"] = "text"  # what is printed: json is one object per picture
    metadata: Literal["none", "basic", "full"] = "full"  # what a picture says of its making

    def __post_init__(self) -> None:
        for name in schema():
            object.__setattr__(self, name, checked(name, getattr(self, name)))
        self.check()

    @property
    def option_owners(self) -> tuple[str, ...]:
        """The plugins whose options a run takes: its chain, its verifiers and its holdouts."""
        return (*self.plugin, *self.verifiers, *words_of(self.holdout))

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The scorers that a search follows."""
        return words_of(self.verifier)

    def check(self) -> None:
        """Refuse fields that exclude each other. Raises UsageError."""
        if self.prompt and self.prompts:
            raise UsageError("prompt= and prompts= are both given; keep one")
        if self.seeds is not None and self.num_images not in (None, len(self.seeds)):
            raise UsageError(f"num_images={self.num_images} but seeds= names {len(self.seeds)}; keep one of the two")
        if self.all_seeds[-1] > MAX_SEED:
            raise UsageError(f"seed={self.seed} with num_images={self.num_images} goes beyond the last seed {MAX_SEED}")

    @property
    def all_seeds(self) -> tuple[int, ...] | range:
        """The seed of each picture of one prompt."""
        return self.seeds if self.seeds is not None else range(self.seed, self.seed + (self.num_images or 1))


@cache
def schema() -> Mapping[str, Option]:
    """Return every request field by name."""
    return options(Request)


def checked(name: str, value: object) -> Any:
    """Return a request field's value, read from text where it is text. Raises UsageError for type or range."""
    if name in LITERAL and isinstance(value, str):
        return check_utf8(value)
    if name == "seeds" and isinstance(value, str) and value.lower() != "none":
        value = parse_seeds(value)
    value = convert(value, schema()[name].annotation, name)
    if value in ("", ()) and name in ("model", "seeds", "out", "device"):
        raise UsageError(f"{name}= is empty; leave it out for the default")
    return value


def words_of(text: str | None) -> tuple[str, ...]:
    """Return the words of a comma list."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read `0..3` (both ends included), `1,5,9`, or both mixed. Raises UsageError."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dots, last = part.partition("..")
        low = convert(first.strip(), int, "seeds")
        high = convert(last.strip(), int, "seeds") if dots else low
        if high < low or high - low + len(seeds) >= MAX_PICTURES:
            raise UsageError(f"seeds={short(text)}: a range goes upwards, as 0..3, over at most {MAX_PICTURES} seeds")
        seeds.extend(range(low, high + 1))
    return tuple(seeds)


def unknown_word(name: str) -> UsageError:
    """Return the error for a word that no request field has."""
    meant = f"; did you mean '{SYNONYMS[name]}'?" if name in SYNONYMS else did_you_mean(name.lstrip("-"), schema())
    return UsageError(f"there is no word '{short(name)}'{meant}")


# --- a resolved request -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """One picture to draw. `row` is its line of the prompt file, `overrides` the request fields that line changes."""

    index: int
    prompt: str
    negative_prompt: str
    seed: int
    row: Row = field(default_factory=dict[str, object])
    overrides: Mapping[str, object] = field(default_factory=dict[str, object])

    def as_row(self) -> Row:
        """Return the row that asks for this picture again."""
        made = {"prompt": self.prompt, "negative_prompt": self.negative_prompt, "seed": self.seed}
        return {**{k: v for k, v in self.row.items() if k not in CHOSEN_BY_ROW}, **self.overrides, **made}


@dataclass(frozen=True)
class Resolved:
    """A request with every layer applied. `options` maps a plugin's word to its options, `origins` every field and
    `word.option` to where its value came from. `rows` is the prompt file, read once; None without one. `places` says
    where each row stands, as `list.csv:7`.
    """

    request: Request
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict[str, Mapping[str, object]])
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    rows: tuple[Row, ...] | None = None
    places: tuple[str, ...] = ()

    def place(self, number: int) -> str:
        """Say where row `number` (from 0) stands."""
        return self.places[number] if number < len(self.places) else f"prompt {number + 1}"

    def value(self, name: str) -> Any:
        """Return a request field's value."""
        return getattr(self.request, name)

    def origin(self, name: str) -> str:
        """Return where a value came from: `command line`, `environment`, `project file`, ..., `default`."""
        return self.origins.get(name, "default")

    def with_recommended(self, name: str, recommended: Mapping[str, object]) -> Resolved:
        """Fill fields that nobody set with recommended settings; `name` (`plugin halo`, `model toy`) is their origin.

        Raises UsageError for a setting that is no request field or out of range.
        """
        for key in recommended:
            if key not in schema():
                raise UsageError(f"{name} recommends '{key}', which is no request field{did_you_mean(key, schema())}")
        free = {
            key: value
            for key, value in recommended.items()
            if value is not None and (self.value(key) is None or self.origin(key) == "default")
        }
        return self._with(free, name)

    def override(self, values: Mapping[str, object], origin: str = "prompt file") -> Resolved:
        """Return a copy with request fields, and options written as `word.option`, replaced."""
        options = {name: dict(table) for name, table in self.options.items()}
        for name, value in values.items():
            word, dot, option = name.rpartition(".")
            if dot:
                options.setdefault(word, {})[option] = value
        fields = {name: value for name, value in values.items() if "." not in name}
        changed = self._with(fields, origin)
        return changed if len(fields) == len(values) else replace(changed, options=options)

    def with_options(self, word: str, values: Mapping[str, object]) -> Resolved:
        """Return a copy that holds all options of a built plugin; those not yet known come from its defaults."""
        known = self.options.get(word, {})
        origins = {f"{word}.{name}": self.origin(f"{word}.{name}") if name in known else "default" for name in values}
        return replace(self, options={**self.options, word: dict(values)}, origins={**self.origins, **origins})

    def row_options(self, row: Row, owners: Mapping[str, str] | None = None) -> dict[str, object]:
        """Return the columns of a row that are options of this run's plugins, as `word.option`."""
        known = layers.owners(self.plugins) if owners is None else owners
        named = [(name, layers.owner(name, known)) for name in row if "." in name] if known else []
        return {f"{word}.{name.rpartition('.')[2]}": row[name] for name, word in named if word is not None}

    def _with(self, values: Mapping[str, object], origin: str) -> Resolved:
        if not values:
            return self
        request = replace(self.request, **values)
        return replace(self, request=request, origins={**self.origins, **dict.fromkeys(values, origin)})

    def items(self) -> Iterator[Item]:
        """Yield every picture to draw, prompt by prompt, then seed by seed; lines of standard input as they arrive."""
        index, told, owners = 0, False, layers.owners(self.plugins)
        for number, row in enumerate(self.given_rows()):
            chosen = row_request(self.request, row, self.place(number))
            if not chosen.prompt.strip() and not told:
                warnings.warn("the prompt is empty: the picture is drawn without a text to follow", stacklevel=2)
                told = True
            fields = {name: getattr(chosen, name) for name in PER_ROW if name in row}
            overrides = {**fields, **self.row_options(row, owners)}
            for seed in chosen.all_seeds:
                yield Item(index, chosen.prompt, chosen.negative_prompt, seed, row, overrides)
                index += 1

    @property
    def plugins(self) -> tuple[str, ...]:
        """The chain of plugins, as typed."""
        return self.request.plugin

    @property
    def single(self) -> bool:
        """Whether the run is one picture."""
        return self.request.prompts is None and len(self.rows or "1") == len(self.request.all_seeds) == 1

    def given_rows(self) -> Iterator[Row]:
        """Yield one row per prompt; from standard input as its lines arrive."""
        if self.rows is not None:
            yield from self.rows
        elif self.request.prompts == prompts.STDIN:
            yield from prompts.stdin_rows()
        else:
            yield {"prompt": self.request.prompt}


def row_request(request: Request, row: Row, place: str) -> Request:
    """Return the request with one row's columns applied. Raises UsageError, with the row's place, for a column that
    cannot change per row or holds what its word cannot be.
    """
    known = schema()
    changes = {name: value for name, value in row.items() if name in known}
    wrong = sorted(changes.keys() - ROW_FIELDS)
    if wrong:
        allowed = ", ".join((*CHOSEN_BY_ROW, *PER_ROW))
        raise UsageError(f"{place}: '{wrong[0]}' cannot change from row to row; these can: {allowed}")
    resets = {"seeds": None} if "seed" in changes or "num_images" in changes else {}
    resets |= {"num_images": None} if "seeds" in changes or ("seed" in changes and request.seeds is not None) else {}
    try:
        read = {name: checked(name, value) for name, value in changes.items()}
        return _changed(request, {"prompts": None, **resets, **read})
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None


def _changed(request: Request, values: Mapping[str, object]) -> Request:
    """As `dataclasses.replace` with values that are checked already: a prompt file has many rows."""
    changed: Request = object.__new__(Request)
    vars(changed).update(vars(request), **values)
    changed.check()
    return changed


def resolve(words: Mapping[str, object], *, files: bool = True, rows: tuple[Row, ...] | None = None) -> Resolved:
    """Apply the layers: these words, `GENBENCH_*`, the project's and the user's genbench.toml, defaults.

    Keys are request fields, `name.option`, or `options={name: {option: value}}`. With `files=False` only the words
    count. The prompt file is read here, so that what is wrong with it stops the run early; `rows` are its rows where
    it has been read before. Raises UsageError.
    """
    stack = [layers.Layer("command line", layers.flatten(words)), *(layers.below() if files else ())]
    for layer in stack:
        layer.check(schema(), checked, unknown_word, EXCLUSIVE)
    values, origins = layers.merge(stack, schema(), EXCLUSIVE)
    request = Request(**values)
    options, option_origins = layers.plugin_options(stack, request.option_owners)
    resolved = Resolved(request, options, {**origins, **option_origins})
    return read_prompts(resolved) if rows is None else replace(resolved, rows=rows)


def says_offline(argv: Sequence[str]) -> bool:
    """Whether a command's words, or else the layers below, say `offline=true`; False for what cannot be read, which is
    for the command to tell.
    """
    typed = {name: value for name, equals, value in (word.partition("=") for word in argv) if equals}
    try:
        with warnings.catch_warnings(action="ignore"):
            stack = [layers.Layer("command line", typed), *layers.below()]
        values, _ = layers.merge(stack, {"offline": None}, ())
        return bool(checked("offline", values.get("offline", False)))
    except UsageError:
        return False


def read_prompts(resolved: Resolved) -> Resolved:
    """Return the resolved request with its prompt file read and every row checked; unchanged without a file."""
    if resolved.request.prompts in (None, prompts.STDIN):
        return resolved
    placed = prompts.read_placed(resolved.request.prompts, resolved.request.offline)
    fields = schema().keys() - {"prompt"}
    for place, row in placed:
        if row.keys() & fields or not str(row["prompt"]).isascii():  # else there is nothing to check
            row_request(resolved.request, row, place)
    return replace(resolved, rows=tuple(row for _, row in placed), places=tuple(place for place, _ in placed))


def request_fields(request: Request) -> dict[str, Any]:
    """Return the fields as plain values, in order."""
    return {f.name: getattr(request, f.name) for f in dataclasses.fields(request)}
