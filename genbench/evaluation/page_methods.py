"""What stands behind the numbers: settings, how each metric was measured, commands, papers and licences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from genbench import replay
from genbench.errors import GenbenchError
from genbench.evaluation import chains as naming, reproduce
from genbench.evaluation.lines import Measured
from genbench.evaluation.markup import Html, code_block, folded, note, section, table, tag
from genbench.evaluation.report import labels
from genbench.evaluation.store import Made, Store
from genbench.evaluation.table import reference
from genbench.evaluation.used import Used, used
from genbench.request import schema

UNLIKE = "made with unlike versions or on unlike devices"
LICENCE_COLUMNS = ("licence", "license")


def sections(store: Store, made: Sequence[Made], measured: Sequence[Measured]) -> list[Html]:
    """Return the sections of settings, commands and methods."""
    record = _record(store, made)
    found = [_settings(store, record, measured), _reproduce(store, made, record), _methods(used(store), made)]
    return [each for each in found if each]


def _record(store: Store, made: Sequence[Made]) -> Mapping[str, Any]:
    """Return what the first picture says of its making; empty where it says nothing."""
    try:
        return replay.read(store.folder / made[0].path) if made else {}
    except GenbenchError:
        return {}


# --- settings -----------------------------------------------------------------------------------------------------


def _per_row(store: Store) -> dict[str, str]:
    """Say which values a prompt list's own columns put in a setting's place."""
    found: dict[str, dict[str, None]] = {}
    for made in store.pictures():
        for name, value in made.row.items():
            if name in schema() and name not in ("prompt", "seed") and value not in (None, ""):
                found.setdefault(name, {})[str(value)] = None
    return {name: f"(rows of their own: {', '.join(values)})" for name, values in found.items()}


def _settings(store: Store, record: Mapping[str, Any], measured: Sequence[Measured]) -> Html:
    named = labels(store)
    flat = {named[settings]: naming.flattened(content) for settings, _, content in store.settings()}
    differs = [
        name
        for name in naming.differing(list(flat.values()))
        if any(each.get(name) not in (None, "auto") for each in flat.values())  # auto in one chain alone says nothing
    ]
    first = next(iter(flat.values()), dict[str, object]())
    own = _per_row(store)
    shared = [
        [name, " ".join(filter(None, [_shown(value), own.get(name, "")]))]
        for name, value in first.items()
        if (name not in differs and _says(value)) or name in own
    ]
    told = [[chain, *(_shown(each.get(name)) for name in differs)] for chain, each in flat.items()]
    parts = [table(["chain", *differs], told, caption="what differs", left=len(differs) + 1)] if differs else []
    mixed = [[_count(count, "picture"), made_with] for made_with, count in store.made_with().items()]
    shared += [] if len(mixed) > 1 else _environment(record)
    parts += [table(["setting", "value"], shared, caption="the same in all chains", left=2)]
    parts += [table(["pictures", "made with"], mixed, caption=UNLIKE, left=2)] if len(mixed) > 1 else []
    rows = [[each.metric, each.how, each.n, reference(each), each.resize, each.version] for each in measured]
    head = ["metric", "how", "n", "reference", "pictures resized", "version"]
    parts += [table(head, rows, caption="how each metric was taken", left=len(head), cards=True)] if rows else []
    return section("settings", "Settings", *parts)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _says(value: object) -> bool:
    return value is not False and value not in (None, "", [], "auto")


def _shown(value: object) -> str:
    return "" if value is None else naming.shown(reproduce.spelled(value))


def _environment(record: Mapping[str, Any]) -> Iterator[list[str]]:
    environment = record.get("environment", {})
    versions = environment.get("versions", {})
    if versions:
        yield ["made with", ", ".join(f"{name} {version}" for name, version in versions.items())]
    hardware = [str(environment[key]) for key in ("device_name", "device", "dtype") if environment.get(key)]
    hardware += [f"torch threads: {environment['threads']}"] if "threads" in environment else []
    if hardware:
        yield ["made on", ", ".join(hardware)]


# --- commands -----------------------------------------------------------------------------------------------------


def _reproduce(store: Store, made: Sequence[Made], record: Mapping[str, Any]) -> Html:
    if not made:
        return Html("")
    negative = str(record.get("picture", {}).get("negative_prompt") or "")
    listed = "negative_prompt" in made[0].row
    commands = reproduce.commands(store, made, "" if listed else negative)
    parts = [
        tag("p", "In this folder; ", tag("code", reproduce.PROMPTS), " is the prompt list."),
        code_block("\n\n".join(commands)),
        tag("p", "One picture, and this page:"),
        code_block(f"genbench rerun {made[0].path}\ngenbench report ."),
    ]
    folder = [note("FOLDER stands for the pictures that set metrics were compared with.")]
    return section("again", "Make it again", *parts, *(folder if any("=FOLDER" in each for each in commands) else []))


# --- methods ------------------------------------------------------------------------------------------------------


def _methods(found: Sequence[Used], made: Sequence[Made]) -> Html:
    head = ["name", "used as", "what it is", "paper", "licence"]
    rows = [[each.word, each.role, _summary(each), _paper(each), _licence(each)] for each in found]
    prompts = {str(p.row[column]) for p in made for column in LICENCE_COLUMNS if p.row.get(column)}
    told = [note(f"Licences of the prompts: {', '.join(sorted(prompts))}.")] if prompts else []
    citations = [each.about.paper for each in found if each.about and each.about.paper]
    listed = folded("As a list to cite", code_block("\n".join(dict.fromkeys(citations)))) if citations else ""
    return section(
        "methods", "Methods and licences", table(head, rows, left=5, cards=True) if rows else "", listed, *told
    )


def _summary(each: Used) -> str:
    if each.about is None:
        return "a model of the Hub or a folder; see its card" if each.role == "model" else "not installed here"
    return each.about.summary


def _paper(each: Used) -> Html | str:
    if each.about is None:
        return ""
    title = each.about.paper or each.about.url
    return tag("a", title, href=each.about.url, rel="noreferrer") if _is_link(each.about.url) else title


def _is_link(url: str) -> bool:
    return url.startswith(("https://", "http://"))


def _licence(each: Used) -> str:
    weights = each.about.license if each.about else ""
    parts = [f"weights {weights}" if weights else "", f"code {each.license}" if each.license else "", each.origin]
    return ", ".join(part for part in parts if part)
