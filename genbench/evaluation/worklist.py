"""The work list: cells = settings x prompt x seed, each keyed by the content of what makes its picture.

A key changes exactly when the picture could: with a resolved option, a plugin's version, the model's hash, the text or
the seed; not with the batch size, the folder, the order of the list or columns of the prompt file that only scorers
read. So a grown grid, a fixed prompt or a killed run finds everything else already made, by set difference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from genbench import judging, models
from genbench.generation import Session, build_chain, check_rows
from genbench.models import Located, file_hash
from genbench.prompts import STDIN
from genbench.request import Item, Request, Resolved, request_fields

WHICH = ("prompt", "prompts", "negative_prompt", "seed", "seeds", "num_images", "plugin")
HOW = ("batch_size", "out", "format", "metadata", "offline", "offload", "device")
"""Request fields that say which pictures, or where and how fast, and not what is in them."""
REOPENED = ("steps", "guidance_scale", "height", "width", "sampler")
"""Request fields that an open session can change."""
CONTENT = (".safetensors", ".json", ".txt", ".model")
"""Files of a model's folder that shape its pictures: weights, configs, vocabularies."""


@dataclass(frozen=True)
class Settings:
    """One chain with its resolved options. `content` is what `id` is the hash of; `resolved` draws it."""

    id: str
    chain: str
    content: Mapping[str, object]
    resolved: Resolved
    searches: bool = False
    scene: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture to make: `key` names it by content, `settings` its chain, `prompt` what its row asks for.

    `pair` is the same for every chain that draws this text: with the seed it says which pictures are compared.
    """

    key: str
    settings: str
    prompt: str
    pair: str
    item: Item


Listed = tuple[Item, str, str]
"""One picture asked for: its item, the hash of its text for all chains, and the hash of what this chain draws."""
_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=str)


def digest(value: object) -> str:
    """Hash of a value by its canonical JSON, 24 hex digits."""
    text = _JSON.encode(value)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def settings_of(resolved: Resolved) -> Settings:
    """Build the chain's plugins (no weights), take over what they and the model recommend, and hash the result.

    Raises UsageError, PluginError or ModelError where the chain cannot run.
    """
    resolved, chain = build_chain(resolved)
    check_rows(resolved, chain)
    found = located(resolved.request)
    resolved = resolved.with_recommended(f"model {resolved.request.model}", found.recommended)
    request = {name: value for name, value in request_fields(resolved.request).items() if name not in (*WHICH, *HOW)}
    request["dtype"] = dtype(resolved.request)
    request.pop("verifier")
    holdout = request.pop("holdout")
    if chain.search is not None:
        request["verifier"] = judging.identity(resolved)
        request |= {"holdout": holdout} if holdout else {}
    plugins = [
        {"plugin": word, "version": plugin.fingerprint, "options": resolved.options.get(word, {})}
        for word, plugin in zip(resolved.plugins, chain.plugins, strict=True)
    ]
    content = {"request": request, "plugins": plugins, "model": weights_hash(resolved.request, found)}
    name = ",".join(resolved.plugins) or "none"
    return Settings(digest(content), name, content, resolved, chain.search is not None, chain.scene is not None)


def dtype(request: Request) -> str:
    """Return what `dtype=` comes to on the device that draws here: `auto` is another one on another machine."""
    if request.dtype != "auto":
        return request.dtype
    return str(models.chosen_dtype("auto", models.chosen_device(request.device))).removeprefix("torch.")


def weights_hash(request: Request, found: Located | None = None) -> str:
    """Hash of the model's weights and configs and of LoRA files, without loading any; a toy's is its family's name."""
    place = (found or located(request)).place
    files = models.lora_files(request.lora)
    if not isinstance(place, Path):
        return digest([place.family, [file_hash(file) for file in files]])
    parts = [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.suffix in CONTENT)
    return digest([(file.name, file_hash(file)) for file in (*parts, *files)])


def located(request: Request) -> Located:
    """Find the model's files. Raises ModelError saying what exists."""
    return models.located(request.model, models.ModelOptions.from_request(request), models.installed_source)


def cells(settings: Settings, listed: Sequence[Listed] | None = None) -> Iterator[Cell]:
    """Yield every cell of one chain, prompt by prompt, then seed by seed.

    A search's verifier sees the whole row of the prompt file, so there every column counts in the key.
    """
    for item, pair, prompt in listing(settings.resolved, settings.searches) if listed is None else listed:
        yield Cell(cell_key(settings.id, prompt, item.seed), settings.id, prompt, pair, item)


def listing(resolved: Resolved, whole_rows: bool) -> list[Listed]:
    """Return every picture that a prompt list asks for, with the hashes of its text (or of its whole row)."""
    row, pair, prompt = None, "", ""
    verifiers: dict[object, object] = {}
    listed: list[Listed] = []
    for item in resolved.items():
        if row is not item.row:
            row, text = item.row, _text(item)
            pair, drawn = digest(text), {**text, "overrides": _drawn(item.overrides, resolved, whole_rows, verifiers)}
            prompt = digest({**drawn, "row": _seedless(item.row)}) if whole_rows else pair
            if not whole_rows and drawn != text:
                prompt = digest(drawn)
        listed.append((item, pair, prompt))
    return listed


def _text(item: Item) -> dict[str, object]:
    """What every chain draws of a row; options of one chain's plugins are left out."""
    overrides = {name: value for name, value in item.overrides.items() if "." not in name and name != "verifier"}
    return {"prompt": item.prompt, "negative_prompt": item.negative_prompt, "overrides": overrides}


def _drawn(
    overrides: Mapping[str, object], resolved: Resolved, searches: bool, known: dict[object, object]
) -> Mapping[str, object]:
    """Return a row's overrides as they count in a picture: a verifier with what it is, in a search alone."""
    if "verifier" not in overrides:
        return overrides
    word = overrides["verifier"]
    if searches and word not in known:
        known[word] = judging.identity(resolved.override({"verifier": word}))
    others = {name: value for name, value in overrides.items() if name != "verifier"}
    return {**others, "verifier": known[word]} if searches else others


def _seedless(row: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if name not in ("seed", "seeds", "num_images")}


def cell_key(settings: str, prompt: str, seed: int) -> str:
    """Hash of the three coordinates, 24 hex digits."""
    return hashlib.sha256(f"{settings} {prompt} {seed}".encode()).hexdigest()[:24]


def unique(planned: Iterable[Cell]) -> list[Cell]:
    """Drop cells that ask for the same picture again (a prompt listed twice)."""
    return list({cell.key: cell for cell in planned}.values())


def to_do(planned: Sequence[Cell], done: set[str]) -> list[Cell]:
    """Return the cells that are not done, in the order planned."""
    return [cell for cell in planned if cell.key not in done]


def chunks(todo: Sequence[Cell], size: int) -> Iterator[list[Cell]]:
    """Cut the list into batches that one network call can serve: same chain, same overrides, at most `size`."""
    for _, group in groupby(todo, key=_served_together):
        members = list(group)
        yield from (members[first : first + size] for first in range(0, len(members), size))


def _served_together(cell: Cell) -> tuple[str, str]:
    return cell.settings, digest(cell.item.overrides) if cell.item.overrides else ""


def opening(settings: Settings) -> str:
    """Hash of what opens a session: settings that differ only in what a row could change share one."""
    fields = request_fields(settings.resolved.request)
    request = {name: value for name, value in fields.items() if name not in REOPENED}
    content = {name: value for name, value in settings.content.items() if name != "request"}
    return digest({**content, "request": request})


def reopened(session: Session, settings: Settings) -> Session:
    """Return an open session with the settings of another one that shares its `opening`."""
    name = f"model {settings.resolved.request.model}"
    return replace(session, resolved=settings.resolved.with_recommended(name, session.model.recommended))


def for_worker(settings: Settings, batch_size: int) -> Settings:
    """Return settings as a worker draws them: with the batch size, and light, for the prompt file stays behind."""
    resolved = settings.resolved.override({"dtype": dtype(settings.resolved.request)}, "default")
    if resolved.request.prompts == STDIN:  # a run draws lines of standard input one by one, as they arrive
        resolved = resolved.override({"prompts": None})
    sized = resolved if resolved.request.batch_size else resolved.override({"batch_size": batch_size}, "default")
    return replace(settings, resolved=replace(sized, rows=(), places=()))
