"""`genbench bench`: what it counts, and how its numbers follow from each other; never how fast this machine is."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from genbench import cli
from genbench.backbones import adapt
from genbench.bench import command, stock
from genbench.bench.command import bench
from genbench.bench.measure import Measured, measure
from genbench.bench.watch import REPEATS, Watch, Watched
from genbench.errors import ModelError, PluginError, UsageError
from genbench.generation import Session
from genbench.kinds import Ledger, Model
from genbench.request import resolve
from tests.tiny import tiny

PLUGIN = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genbench.kinds import About


@dataclass(frozen=True)
class Second:
    """Asks a second model before each step."""

    about: ClassVar[About] = About("Asks a second model.")

    def wrap_step(self, step, ctx):
        second = ctx.denoiser(model=ctx.load_model("toy"))

        def asked(state, denoise):
            second(state.x, ctx.schedule.levels[state.index])
            return step(state, denoise)

        return asked
'''


def ticking() -> Callable[[], float]:
    """A clock that shows one second more each time it is read."""
    ticks = count()
    return lambda: float(next(ticks))


def toy(**words: object) -> dict[str, Any]:
    return bench(resolve({"model": "toy", "steps": 3, "batch_size": 4, **words}), ticking())


def test_arithmetic_with_a_clock_that_ticks_once_a_look() -> None:
    told = toy()
    plain = told["plain"]
    assert plain["network_calls"] == 3 * 2  # with and without the prompt
    assert plain["evaluations"] == plain["evaluations_seen"] == 4 * 3 * 2
    assert plain["network_seconds"] == 6.0  # each call by itself is one tick
    assert (plain["drawing_seconds"], plain["wall_seconds"]) == (1.0, 2.0)
    assert plain["pictures_per_second"] == 2.0
    assert plain["efficiency"] == 3.0 and plain["overhead_percent"] == -200.0
    assert told["diffusers"] is None and told["plugin"] is None


def test_efficiency_is_the_share_of_the_wall_time() -> None:
    told = Measured(16, 30, 960, 960, network=9.0, drawing=9.8, wall=10.0).told()
    assert told["efficiency"] == 0.9 and told["overhead_percent"] == pytest.approx(10)
    assert told["pictures_per_second"] == 1.6


def test_one_batch_of_different_prompts_unless_prompts_are_given() -> None:
    def listed(**words: object) -> list[str]:
        session = Session.open(resolve({"model": "toy", **words}))
        return [item.prompt for item in command.listed(session)]

    assert len(set(listed(batch_size=16))) == 16 and len(listed()) == 1
    assert listed(prompt="red", seeds="0..2", batch_size=16) == ["red"] * 3


def test_a_plugin_is_measured_beside_the_plain_chain() -> None:
    told = toy(plugin="search", options={"search": {"candidates": 3}})
    assert told["plugins"] == ["search"]
    assert told["plugin"]["evaluations"] == told["plugin"]["evaluations_seen"] == 3 * told["plain"]["evaluations"]


def test_a_plugin_brings_steps_of_its_own() -> None:
    told: Any = bench(resolve({"model": "solids", "plugin": "sid", "prompt": "a red cube"}))
    assert told["steps"] == 30 and told["plain"]["evaluations"] == 60
    assert told["plugin"]["steps"] == told["plugin"]["evaluations"] == 1


def test_calls_of_a_second_model_count_as_network(work: Path) -> None:
    (work / "second.py").write_text(PLUGIN)
    told = toy(plugin="./second.py:Second", guidance_scale=2)
    assert told["plain"]["evaluations"] == 24
    assert told["plugin"]["evaluations"] == told["plugin"]["evaluations_seen"] == 48
    assert told["plugin"]["network_seconds"] == 12.0


def test_the_watch_times_each_shape_by_itself_and_weighs_it_by_its_calls() -> None:
    watch, network = Watch(), torch.nn.Identity()
    for rows in (2, 2, 2, 5):
        watch.note(network, (torch.zeros(rows, 1),), {})
    times = {key: [0.1 * key[1][0]] * REPEATS for key in watch.bare(ticking())}
    assert watch.network_seconds(times) == pytest.approx(3 * 0.2 + 0.5) and watch.rows == 11
    assert all(len(seconds) == REPEATS for seconds in watch.bare(ticking()).values())


def test_the_time_within_calls_is_what_the_clock_says_around_each() -> None:
    watch = Watch(ticking())
    network: Any = Watched(torch.nn.Identity(), watch)
    for _ in range(3):
        network(torch.zeros(2, 1))
    assert watch.within == 3.0
    told = Measured(16, 30, 960, 960, network=9.0, drawing=9.8, wall=10.0, within=9.5).told()
    assert told["outside_percent"] == pytest.approx(5)
    watch.forget_counts()
    assert watch.within == 0 and Watch().within == 0


def test_nothing_is_said_of_a_device_that_answers_before_it_is_done() -> None:
    assert Measured(1, 1, 2, 2, network=1.0, drawing=1.0, wall=1.0).told()["outside_percent"] is None
    assert 0 < toy()["plain"]["outside_percent"] < 100


def test_watching_changes_no_picture() -> None:
    session = Session.open(resolve({"model": "toy", "prompt": "red", "seeds": "0..2"}))
    items = list(session.resolved.items())
    _, watched = measure(session, items, None, ticking(), warm=True)
    for one, other in zip(watched, session.pictures(items), strict=True):
        assert torch.equal(one.image, other.image) and one.nfe == other.nfe


def test_a_watched_network_is_otherwise_the_one_it_holds() -> None:
    model: Any = adapt(tiny("sd"), Ledger())
    watched: Any = Watch().model(model)
    assert watched.modules["unet"].config is model.modules["unet"].config
    assert watched.modules["unet"].dtype == torch.float32 and watched.modules["vae"] is model.modules["vae"]


def test_a_model_without_a_known_network_is_refused() -> None:
    model: Any = SimpleNamespace(family="other", modules={"brain": torch.nn.Identity()})
    with pytest.raises(ModelError, match="no network of 'other' \\(it has brain\\)"):
        Watch().model(model)


@pytest.mark.parametrize(
    ("family", "sampler"), [("sd", None), ("sd", "euler"), ("sdxl", None), ("pixart_sigma", None), ("flux", None)]
)
def test_the_stock_loop_draws_the_same_pictures(
    family: str, sampler: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(word: str, options: object, ledger: Ledger, **named: object) -> Model:
        model: Any = adapt(tiny(family), ledger)
        model.pipeline.set_progress_bar_config(disable=True)
        return model.replace(recommended={"height": 32, "width": 32})

    monkeypatch.setattr("genbench.models.open_model", opened)
    words = {"model": "toy", "verifier": "toy", "steps": 2, "batch_size": 2, "prompt": "a red cube", "seeds": "3..4"}
    told: Any = bench(resolve({**words, **({"sampler": sampler} if sampler else {})}), ticking())
    assert told["diffusers"]["largest_difference"] < 1e-4
    assert (told["diffusers"]["drawing_seconds"], told["diffusers"]["speedup"]) == (1.0, 1.0)
    assert told["diffusers"]["pictures_per_second"] == 2.0


def test_a_difference_is_found() -> None:
    session = Session.open(resolve({"model": "toy", "prompt": "red"}))
    measured, pictures = measure(session, list(session.resolved.items()), None, ticking(), warm=False)
    loop = stock.Stock([pictures[0].image.clone()], 4.0)
    loop.images[0][0, 2, 2] += 0.25
    found = command.compared(loop, measured, pictures)
    assert found is not None and found["largest_difference"] == pytest.approx(0.25) and found["speedup"] == 4.0


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ({"cache": "first_block"}, UsageError, "cache=first_block"),
        ({"prompts": "-"}, UsageError, "give a file"),
        ({"plugin": "serch"}, PluginError, "did you mean 'search'"),
        ({"sampler": "eulr"}, UsageError, "eulr"),
    ],
)
def test_mistakes_stop_before_the_model_is_opened(
    words: dict[str, object], error: type[Exception], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "open", lambda resolved: pytest.fail("a model was opened"))
    with pytest.raises(error, match=says):
        toy(**words)


def test_the_verb_prints_lines_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "model=toy", "steps=2", "batch_size=2", "plugin=search"]
    assert cli.main([*words, "format=json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pictures"] == 2 and told["startup_seconds"] > 0 and told["plain"]["peak_memory_bytes"] > 1e6
    assert 0 < told["plain"]["drawing_seconds"] <= told["plain"]["wall_seconds"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "\nplain\n" in shown and "\nplugin\n" in shown and "  efficiency " in shown
    assert cli.main(["bench", "--help"]) == 0 and "format=json" in capsys.readouterr().out
