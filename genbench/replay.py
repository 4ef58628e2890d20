"""From a picture or a run.json back to what made it (`show`), and to the request that makes it again (`rerun`)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from genbench.errors import UsageError
from genbench.layers import COMMAND_LINE, Layer, flatten, plugin_options
from genbench.prompts import Row
from genbench.record import SCHEMA, chosen, judgement
from genbench.request import CHOSEN_BY_ROW, LITERAL, PER_ROW, Request, Resolved, read_prompts, schema, unknown_word

RECORD, PARAMETERS = "genbench", "parameters"
KEEPING = ("out", "format", "metadata")
"""Words that change nothing in a picture."""
Trace = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Replay:
    """A request rebuilt from a record. Only pictures at the indices in `keep` are wanted; None is all of them.

    `environment` is that of the recorded run. `traces` are what its searches left, by the index of the picture: with
    nothing changed their winners are remade alone.
    """

    resolved: Resolved
    keep: frozenset[int] | None
    environment: Mapping[str, Any]
    traces: Mapping[int, Trace] = field(default_factory=dict[int, Trace])


def read(path: Path) -> Mapping[str, Any]:
    """Return what a PNG, a run.json or a run's folder says: a record, or `{"parameters": text}` from another tool's
    picture.

    Raises UsageError where there is no such file, it is neither, it says nothing, or a newer genbench wrote it.
    """
    if path.is_dir():
        path = path / "run.json"
    if not path.is_file():
        raise UsageError(f"{path} does not exist; give a PNG, a run.json or a run's folder")
    record = _json(path.read_bytes(), path) if path.suffix.lower() == ".json" else _picture(path)
    if record.get("schema", 0) > SCHEMA:
        raise UsageError(
            f"{path} was written by a newer genbench (record version {record['schema']}); upgrade genbench"
        )
    return record


def _picture(path: Path) -> Mapping[str, Any]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
            texts = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise UsageError(f"{path} is no whole picture; give a PNG or a run.json of a run") from None
    if RECORD in texts:
        return _json(texts[RECORD].encode(), path)
    if PARAMETERS in texts:
        return {PARAMETERS: texts[PARAMETERS]}
    raise UsageError(f"{path} does not say how it was made (metadata=none, or another program saved it)")


def _json(data: bytes, path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(data)
    except ValueError as error:
        raise UsageError(f"{path}: its record is no JSON: {error}") from None
    if not isinstance(record, dict) or "request" not in record:
        raise UsageError(f"{path} is no record of a run; give a PNG or a run.json of a run")
    return cast(dict[str, Any], record)


# --- show ---------------------------------------------------------------------------------------------------------


def show(record: Mapping[str, Any], path: Path) -> list[str]:
    """Return the lines that say what made a picture or a run; other tools' text as it is."""
    if PARAMETERS in record:
        return [str(record[PARAMETERS])]
    picture, environment = record.get("picture", {}), record["environment"]
    request = {**record["request"], **{key: picture[key] for key in ("prompt", "negative_prompt", "seed") if picture}}
    lines = [_line(key, value, record["origins"]) for key, value in request.items() if _says(key, value, picture)]
    lines += [_line(name, value, record["origins"]) for name, value in flatten({"options": record["options"]}).items()]
    versions = environment.get("versions", {})
    made_with = ", ".join(f"{name} {text}" for name, text in versions.items())
    hardware = [str(environment[key]) for key in ("device", "device_name", "dtype") if key in environment]
    hardware += [f"{environment['threads']} threads"] if "threads" in environment else []
    judged = judgement(picture, record["request"].get("verifier"))
    return [
        str(path),
        *lines,
        *([f"  {'judged':<14} {judged}"] if judged else []),
        _cost(record),
        f"  made with      {made_with}",
        f"  made on        {', '.join(hardware)}",
    ]


def _says(key: str, value: object, picture: Mapping[str, Any]) -> bool:
    quiet = ("seeds", "num_images", "prompts", "out", "format", "metadata") if picture else ("format", "metadata")
    return key == "prompt" or (value not in (None, "", [], False, "auto") and key not in quiet)


def _line(key: str, value: object, origins: Mapping[str, str]) -> str:
    text = ",".join(map(str, cast(list[object], value))) if isinstance(value, list) else str(value)
    origin = origins.get(key, "default")
    return f"  {key:<14} {text}" + ("" if origin in ("command line", "default") else f"  ({origin})")


def _cost(record: Mapping[str, Any]) -> str:
    picture = record.get("picture")
    if picture is None:
        return f"  cost           {record['evaluations']} network evaluations for {len(record['images'])} pictures"
    best = f", best of {picture['candidates']}" if picture.get("candidates") else ""
    batch = f", in a batch of {len(record['batch'])}" if len(record["batch"]) > 1 else ""
    return f"  cost           {picture['nfe']} network evaluations, {picture['seconds']} s{best}{batch}"


# --- rerun --------------------------------------------------------------------------------------------------------


def replay(record: Mapping[str, Any], words: Mapping[str, object], path: Path) -> Replay:
    """Rebuild the request of a record with `words` in place of what it says.

    A picture that was sampled in a batch is remade in that batch, so that it comes out bit-identical; other prompts or
    seeds make it a batch of its own. A new model or plugin takes its own recommended settings again. Raises UsageError.
    """
    if PARAMETERS in record:
        raise UsageError(f"{path} was not made by genbench; `genbench show {path}` prints its settings")
    flat = flatten(words)
    changes: dict[str, Any] = {name: value for name, value in flat.items() if "." not in name}
    for name in changes:
        if name not in schema():
            raise unknown_word(name)
    kept = _kept(record, changes)
    request = Request(**{**kept, **_resets(changes), **changes})
    options, option_origins = _options(record, flat, request)
    origins = {name: record["origins"].get(name, "default") for name in kept}
    origins |= {**option_origins, **dict.fromkeys(changes, COMMAND_LINE)}
    resolved = Resolved(request, options, origins)
    if "prompts" in changes:
        return Replay(read_prompts(resolved), None, record["environment"])
    rows, keep = _rows(record, changes)
    traces = {} if set(flat) - set(KEEPING) else _traces(record)
    return Replay(replace(resolved, rows=rows, places=()), keep, record["environment"], traces)


def resumed(record: Mapping[str, Any], words: Mapping[str, object], path: Path) -> Path:
    """Return the folder of a stopped run of scenes that is to go on. Raises UsageError where it cannot."""
    folder = path if path.is_dir() else path.parent
    if "images" not in record:
        raise UsageError(f"resume=true goes on with a run that was stopped; give its folder, {folder}")
    if words:
        raise UsageError(f"resume=true goes on with the same words; leave {next(iter(words))}= out")
    if record["status"] == "done":
        raise UsageError(f"{folder} is done; leave resume=true out to make it again")
    return folder


def _traces(record: Mapping[str, Any]) -> dict[int, Trace]:
    """Return the traces of searched pictures that say which candidate won, by the index that a rerun gives them."""
    if "picture" in record:
        traces = {int(record["picture"]["position"]): record.get("trace")}
    else:
        traces = {int(image["index"]): image.get("trace") for image in record["images"]}
    return {index: trace for index, trace in traces.items() if trace and chosen(trace)}


def _kept(record: Mapping[str, Any], changes: Mapping[str, object]) -> dict[str, Any]:
    """Return the recorded fields that still hold: not what an exchanged model or plugin had recommended."""
    gone = {f"{name} " for name in ("model", "plugin") if name in changes}
    gone |= {"model "} if "plugin" in changes else set()
    lines: set[str] = {"seeds", "num_images"} if _streamed(record) else set()
    fields = {name: value for name, value in record["request"].items() if name not in {"prompts", *lines}}
    origin = record["origins"].get
    held = {name: value for name, value in fields.items() if not origin(name, "").startswith(tuple(gone))}
    return {name: value if name in LITERAL else _expanded(value) for name, value in held.items()}


def _options(
    record: Mapping[str, Any], flat: Mapping[str, object], request: Request
) -> tuple[dict[str, dict[str, object]], dict[str, str]]:
    """Return the plugins' options, the words before the record, and where each came from."""
    old, changed = record["origins"], {name.rpartition(".")[0] for name in flat}
    given = {  # an option that nobody set takes its default again where others of its plugin change
        name: value
        for name, value in flatten({"options": _expanded(record["options"])}).items()
        if name.rpartition(".")[0] not in changed or old.get(name, "") != "default"
    }
    options, origins = plugin_options([Layer(COMMAND_LINE, flat), Layer(RECORD, given)], request.option_owners)
    return options, {name: old.get(name, "default") if where == RECORD else where for name, where in origins.items()}


def _resets(changes: Mapping[str, object]) -> dict[str, Any]:
    """Return the fields that a new choice of seeds or prompts makes void."""
    seeds = {"seeds": None, "num_images": None} if {"seed", "seeds", "num_images"} & set(changes) else {}
    return {**seeds, **({"prompt": ""} if "prompts" in changes else {})}


def _rows(
    record: Mapping[str, Any], changes: Mapping[str, object]
) -> tuple[tuple[Row, ...] | None, frozenset[int] | None]:
    """Return the rows to draw and which pictures of them are wanted."""
    dropped = {*changes} & {*PER_ROW, *CHOSEN_BY_ROW}
    if "picture" not in record:
        rows = record["rows"] or ([image["row"] for image in record["images"]] if _streamed(record) else None)
        return (None if rows is None or "prompt" in changes else _without(rows, dropped)), None
    position = int(record["picture"]["position"])
    if set(CHOSEN_BY_ROW) & set(changes):
        chosen: dict[str, object] = {name: value for name, value in changes.items() if name in CHOSEN_BY_ROW}
        own: Row = _without(record["batch"], dropped)[position]
        return (dict(own) | chosen,), None
    return _without(record["batch"], dropped), frozenset({position})


def _without(rows: Sequence[Row], dropped: Collection[str]) -> tuple[Row, ...]:
    return tuple({name: value for name, value in row.items() if name not in dropped} for row in rows)


def _streamed(record: Mapping[str, Any]) -> bool:
    return record["request"].get("prompts") == "-"


def _expanded(value: Any) -> Any:
    """Return a recorded value with `~` as this user's home."""
    if isinstance(value, str) and value.startswith("~"):
        return str(Path(value).expanduser())
    if isinstance(value, Mapping):
        return {name: _expanded(each) for name, each in cast(Mapping[str, Any], value).items()}
    return [_expanded(each) for each in cast(list[Any], value)] if isinstance(value, list) else value


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what differs between two environments that can change a picture's bits."""
    old, new = recorded.get("versions", {}), now.get("versions", {})
    packages = [f"{name} was {old[name]}, is {new.get(name, 'absent')}" for name in old if old[name] != new.get(name)]
    simple = ("device_name", "dtype", "threads", "model_hash", "sampler", "batch_size")
    keys = [key for key in simple if key in recorded and key in now]
    changed = [f"{key} was {recorded[key]}, is {now[key]}" for key in keys if recorded[key] != now[key]]
    before, after = _contents(recorded), _contents(now)
    code = [word for word in before if word in after and before[word] != after[word]]
    return packages + changed + [f"the code or weights of {word} changed" for word in code]


def _contents(environment: Mapping[str, Any]) -> dict[str, object]:
    """Return the hash of code and weights by word, of plugins and verifier; other words are another request."""
    verifier: Any = environment.get("verifier") or []
    used: list[Any] = [*environment.get("plugins", ()), *(verifier if isinstance(verifier, list) else [verifier])]
    return {str(each["word"]): each.get("content") for each in used if each.get("content")}
