"""The verb bench: words in, one table out.

genbench bench model=solids steps=30 batch_size=16
genbench bench plugin=search search.candidates=4 format=json
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice, product
from typing import cast

import torch

from genbench import judging
from genbench.bench import stock
from genbench.bench.measure import Measured, measure, peak_memory
from genbench.bench.watch import Clock, now
from genbench.errors import UsageError
from genbench.generation import Picture, Session, batch_size, build_chain, check_words
from genbench.kinds import Scorer
from genbench.options import parse_words
from genbench.prompts import STDIN
from genbench.request import Item, Resolved, resolve

HELP = """\
genbench bench key=value ...

  efficiency       time of the bare network calls / time from the first noise to the last score
  overhead         the rest of that time, in percent; with plugin= of the plain run and of the plugin's
  outside          time outside the network's calls as the run made them, in percent; on a processor
  pictures per second, start-up, peak memory, and a plain diffusers loop on the same prompts

  Words are those of `genbench run`; without prompt= or prompts= one batch of simple prompts is drawn.
  verifier=NAME scores the pictures (default: the model's own, if it has one); format=json prints JSON.
"""
COLOURS = ("a red", "a blue", "a green", "a yellow", "a purple", "an orange", "a cyan", "a pink")
SOLIDS = ("cube", "sphere", "cone", "cylinder")
Told = Mapping[str, object]


def main(argv: Sequence[str]) -> int:
    """Run the verb. Raises GenbenchError subclasses."""
    if {"--help", "-h"} & set(argv):
        sys.stdout.write(HELP)
        return 0
    resolved = resolve(parse_words(argv))
    told = bench(resolved)
    as_json = resolved.request.format == "json"
    sys.stdout.write((json.dumps(told, indent=1) if as_json else "\n".join(lines(told))) + "\n")
    return 0


def bench(resolved: Resolved, clock: Clock = now) -> dict[str, object]:
    """Measure the plain chain, the diffusers loop on the same items, and the plugins' chain where there is one.

    Raises UsageError for words that have no place here, before anything loads.
    """
    check(resolved)
    session = Session.open(plain(resolved))
    startup = since_start()
    drawn, scorer = listed(session), scorer_of(session.resolved)
    told: dict[str, object] = {**_setting(session, resolved, len(drawn)), "startup_seconds": startup}
    measured, pictures = measure(session, drawn, scorer, clock, warm=True)
    told["plain"] = {**measured.told(), **peak_memory()}
    told["diffusers"] = compared(stock.draw(session, drawn, clock), measured, pictures)
    told["plugin"] = None
    if resolved.plugins:
        del session, pictures
        chained = Session.open(resolved)  # with steps of its own, where it brings some
        measured, _ = measure(chained, drawn, scorer, clock, warm=False)
        told["plugin"] = {"steps": chained.resolved.request.steps, **measured.told(), **peak_memory()}
    return told


def check(resolved: Resolved) -> None:
    """Refuse what bench cannot measure, and what the chain's own words show to be wrong. Raises GenbenchError."""
    request = resolved.request
    if request.cache is not None:
        raise UsageError(f"cache={request.cache}: bench times bare network calls, which a step cache skips; leave it")
    if request.prompts == STDIN:
        raise UsageError("prompts=-: bench needs a list that is there before it starts; give a file")
    check_words(*build_chain(resolved))


def plain(resolved: Resolved) -> Resolved:
    """Return the request without its plugins."""
    return replace(resolved.override({"plugin": ()}), options={})


def listed(session: Session) -> list[Item]:
    """Return what is drawn: the prompts given, else one batch of different simple ones."""
    resolved = session.resolved
    if not resolved.request.prompt and resolved.rows is None:
        texts = (f"{colour} {solid}" for solid, colour in cycle(product(SOLIDS, COLOURS)))
        resolved = replace(resolved, rows=tuple({"prompt": text} for text in islice(texts, batch_size(resolved))))
    return list(resolved.items())


def scorer_of(resolved: Resolved) -> Scorer | None:
    """Build the verifier that a search would follow, if there is one."""
    return next(iter(judging.panel(resolved).verifiers.values())) if resolved.request.verifiers else None


def compared(loop: stock.Stock | None, measured: Measured, pictures: Sequence[Picture]) -> dict[str, object] | None:
    """Say how the loop did: its pictures per second, how much faster genbench drew, the largest difference in [0, 1].

    None for a model without a diffusers pipeline. Scoring is in neither's time.
    """
    if loop is None:
        return None
    pairs = zip(loop.images, pictures, strict=True)
    return {
        "drawing_seconds": loop.seconds,
        "pictures_per_second": len(loop.images) / loop.seconds,
        "speedup": loop.seconds / measured.drawing,
        "largest_difference": max(float((image - made.image.cpu()).abs().max()) for image, made in pairs),
    }


def since_start() -> float | None:
    """Seconds since this process began, imports included; None where the system does not say."""
    try:
        import psutil
    except ModuleNotFoundError:
        return None
    return time.time() - psutil.Process().create_time()


def _setting(session: Session, resolved: Resolved, pictures: int) -> dict[str, object]:
    request = session.resolved.request
    return {
        "model": request.model,
        "plugins": list(resolved.plugins),
        "verifier": request.verifier,
        "pictures": pictures,
        "batch_size": batch_size(session.resolved),
        "steps": request.steps,
        "device": str(session.model.device),
        "dtype": str(session.model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def lines(told: Told) -> list[str]:
    """Return the result as text, one value a line; a part's values are indented under its name."""
    shown: list[str] = []
    for name, value in told.items():
        if isinstance(value, Mapping):
            shown += ["", name, *(f"  {line}" for line in lines(cast(Told, value)))]
        else:
            shown.append(f"{name.replace('_', ' '):<24} {_value(name, value)}")
    return shown


def _value(name: str, value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, cast(list[object], value))) or "none"
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value / 1e9:.2f} GB"
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
