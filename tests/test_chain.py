"""Composition: order, conflicts that are named with their law, and what a plugin holds for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from genbench import chain
from genbench.backbones.toy import ToyModel, ToyScorer
from genbench.chain import Chain, check_family, check_model, compose, named_scorer, named_source
from genbench.discovery import Plugin
from genbench.errors import PluginError
from genbench.kinds import About, SceneJob


@dataclass(frozen=True)
class Anything:
    """Stands for a plugin; `compose` looks at kinds and `about` alone."""

    about: ClassVar[About] = About("Anything.")

    def optimize(self, job: SceneJob) -> Any: ...


def made(name: str, *kinds: str, **about: Any) -> Plugin:
    cls = type(name, (Anything,), {"about": About("Something.", **about)})
    return Plugin(name, cls(), kinds)


def test_kinds_are_sorted_and_keep_the_order_typed() -> None:
    a, b, c = made("a", "step"), made("b", "noise", "step"), made("c", "model")
    s, r = made("s", "sampler"), made("r", "search")
    composed = compose([a, s, b, r, c])
    assert composed.steps == (a.object, b.object)
    assert composed.noise == (b.object,) and composed.model == (c.object,)
    assert composed.sampler is s.object and composed.search is r.object and composed.scene is None
    assert composed.names == ("a", "s", "b", "r", "c") and composed.plugins == (a, s, b, r, c)
    assert compose([b, a]).steps == (b.object, a.object)
    assert compose([]) == Chain()


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        ("sampler", "at most one; the model's own otherwise"),
        ("search", "at most one"),
        ("scene", "at most one; takes the sampler's place"),
    ],
)
def test_two_of_a_kind_that_allows_one_names_both_and_the_law(kind: str, law: str) -> None:
    with pytest.raises(PluginError) as caught:
        compose([made("first", kind), made("second", kind)])
    assert str(caught.value) == f"'first' and 'second' are both of kind {kind}: {law}; leave one out"


@pytest.mark.parametrize("kind", ["noise", "sampler", "step", "search"])
def test_a_scene_optimiser_refuses_what_it_would_ignore(kind: str) -> None:
    with pytest.raises(PluginError) as caught:
        compose([made("glow", kind), made("shape", "scene")])
    law = "at most one; takes the sampler's place"
    assert str(caught.value) == f"'shape' (scene: {law}) leaves no {kind} to 'glow'; leave one out"
    assert compose([made("lora", "model"), made("shape", "scene")]).names == ("lora", "shape")


def test_a_step_cache_needs_neighbours_that_are_safe() -> None:
    cache, safe, unsafe = (
        made("cache", "step", step_cache=True),
        made("safe", "step", cache_safe=True),
        made("two", "step"),
    )
    assert compose([cache, safe, made("lora", "model"), made("start", "noise")]).names[0] == "cache"
    with pytest.raises(PluginError, match=r"the step cache 'cache' cannot run with 'two' \(step\)"):
        compose([unsafe, cache])
    with pytest.raises(PluginError, match=r"the step cache cache=fora cannot run with 'two' \(step\)"):
        chain.check_cache([safe, unsafe], "cache=fora")


def test_a_plugin_is_refused_on_a_model_it_does_not_hold_for() -> None:
    sdxl = compose([made("gold", "noise", families=("sdxl", "dit"))])
    with pytest.raises(PluginError) as caught:
        check_model(sdxl, ToyModel())
    assert str(caught.value) == "'gold' does not hold for models of family 'toy', only for sdxl, dit"
    flow = compose([made("flow", "step", families=("toy",), prediction_types=("flow_prediction",))])
    with pytest.raises(
        PluginError, match="'flow' does not hold for prediction type 'epsilon', only for flow_prediction"
    ):
        check_model(flow, ToyModel())
    check_family(flow.plugins, "toy")  # the prediction type is not known before the model is open
    check_model(compose([made("any", "step")]), ToyModel())


def test_a_plugin_may_look_at_the_model_before_it_loads() -> None:
    seen: list[tuple[str, str]] = []

    class Looks(Anything):
        about = About("Looks.", families=("toy",))

        def check(self, model: str, family: str) -> None:
            seen.append((model, family))

    looks = Plugin("looks", Looks(), ("noise",))
    chain.check_before([looks, made("any", "step")], "org/model", "toy")
    assert seen == [("org/model", "toy")]
    with pytest.raises(PluginError, match="'looks' does not hold for models of family 'sd'"):
        chain.check_before([looks], "org/model", "sd")
    assert len(seen) == 1


def test_things_chosen_by_their_own_word_are_built_by_name() -> None:
    assert named_source("toy").open().family == "toy"  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(named_scorer("toy"), ToyScorer)
    with pytest.raises(PluginError, match="is a search, not a scorer; use plugin=search"):
        named_scorer("search")
    with pytest.raises(PluginError, match="no metric 'frechett'; did you mean 'frechet'"):
        chain.named_metric("frechett")
