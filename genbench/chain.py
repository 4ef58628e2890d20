"""Composition: the plugins of one run, sorted by kind in the order typed, or an error that names both and the law.

Kinds nest as in `genbench.kinds.GROUPS`; what cannot be combined is refused here, before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from genbench import discovery
from genbench.discovery import KINDS, Plugin
from genbench.errors import PluginError
from genbench.kinds import (
    RUN_KINDS,
    Checked,
    Encoder,
    Model,
    ModelTransform,
    NoiseTransform,
    Sampler,
    SceneOptimizer,
    Scorer,
    Search,
    SetMetric,
    Source,
    StepWrapper,
    Trainer,
)


@dataclass(frozen=True)
class Chain:
    """The composed plugins of one run, each kind in the order typed; `plugins` is what they were composed from."""

    model: tuple[ModelTransform, ...] = ()
    noise: tuple[NoiseTransform, ...] = ()
    sampler: Sampler | None = None
    steps: tuple[StepWrapper, ...] = ()
    search: Search | None = None
    scene: SceneOptimizer | None = None
    names: tuple[str, ...] = ()
    plugins: tuple[Plugin, ...] = ()


def compose(plugins: Sequence[Plugin]) -> Chain:
    """Sort plugins by kind, keeping their order.

    Raises PluginError for two of a kind that allows one, for a scene optimiser with a plugin that it would ignore,
    and for a step cache with a method that is not declared `cache_safe`.
    """
    for kind in RUN_KINDS:
        if not KINDS[kind].many:
            _at_most_one(plugins, kind)
    _check_scene(plugins)
    for plugin in plugins:
        if plugin.about.step_cache:
            check_cache(plugins, f"'{plugin.name}'")
    of = {kind: tuple(p.object for p in plugins if kind in p.kinds) for kind in RUN_KINDS}
    return Chain(
        model=cast(tuple[ModelTransform, ...], of["model"]),
        noise=cast(tuple[NoiseTransform, ...], of["noise"]),
        sampler=cast(Sampler | None, _first(of["sampler"])),
        steps=cast(tuple[StepWrapper, ...], of["step"]),
        search=cast(Search | None, _first(of["search"])),
        scene=cast(SceneOptimizer | None, _first(of["scene"])),
        names=tuple(plugin.name for plugin in plugins),
        plugins=tuple(plugins),
    )


def _first(objects: Sequence[object]) -> object | None:
    return objects[0] if objects else None


def _at_most_one(plugins: Sequence[Plugin], kind: str) -> None:
    of_kind = [plugin for plugin in plugins if kind in plugin.kinds]
    if len(of_kind) > 1:
        law = f"{kind}: {KINDS[kind].law}"
        raise PluginError(f"'{of_kind[0].name}' and '{of_kind[1].name}' are both of kind {law}; leave one out")


def _check_scene(plugins: Sequence[Plugin]) -> None:
    scene = next((plugin for plugin in plugins if "scene" in plugin.kinds), None)
    if scene is None:
        return
    for plugin in plugins:
        ignored = [kind for kind in plugin.kinds if kind in ("noise", "sampler", "step", "search")]
        if plugin is not scene and ignored:
            law = f"scene: {KINDS['scene'].law}"
            raise PluginError(f"'{scene.name}' ({law}) leaves no {ignored[0]} to '{plugin.name}'; leave one out")


def check_cache(plugins: Sequence[Plugin], cache: str) -> None:
    """Refuse a step cache (named `cache` in the message) with a step wrapper or search that is not `cache_safe`.

    A cache answers from the last step of its trajectory; a method that evaluates a step twice, or walks back, would
    be answered with its own past.
    """
    for plugin in plugins:
        revisits = bool({"step", "search"} & set(plugin.kinds)) and not plugin.about.step_cache
        if revisits and not plugin.about.cache_safe:
            raise PluginError(
                f"the step cache {cache} cannot run with '{plugin.name}' ({plugin.kinds[0]}), which may evaluate a "
                "step more than once and does not declare cache_safe; leave one out"
            )


def check_model(chain: Chain, model: Model) -> None:
    """Refuse plugins that do not hold for the model. Raises PluginError naming the plugin and what it holds for."""
    check_family(chain.plugins, model.family, model.prediction_type)


def check_family(plugins: Sequence[Plugin], family: str, prediction_type: str | None = None) -> None:
    """As `check_model`, from the family alone (model_index.json names it before any weight is loaded)."""
    for plugin in plugins:
        _holds(plugin.name, "models of family", family, plugin.about.families)
        if prediction_type is not None:
            _holds(plugin.name, "prediction type", prediction_type, plugin.about.prediction_types)


def check_before(plugins: Sequence[Plugin], model: str, family: str) -> None:
    """What can be refused once a model's family is known and before its weights load: see `kinds.Checked`."""
    check_family(plugins, family)
    for plugin in plugins:
        if isinstance(plugin.object, Checked):
            plugin.object.check(model, family)


def _holds(name: str, what: str, found: str, allowed: Sequence[str]) -> None:
    if allowed and found not in allowed:
        raise PluginError(f"'{name}' does not hold for {what} '{found}', only for {', '.join(allowed)}")


# --- what is chosen by its own word -------------------------------------------------------------------------------


def named(kind: str, word: str, options: Mapping[str, object] | None = None) -> object:
    """Build the plugin of this kind that `word` names; see `genbench.discovery.build`."""
    return discovery.build(word, options, (kind,)).object


def named_scorer(word: str, options: Mapping[str, object] | None = None) -> Scorer:
    """Build a scorer by name: `verifier=`, `reward=`, `holdout=`."""
    return cast(Scorer, named("scorer", word, options))


def named_encoder(word: str, options: Mapping[str, object] | None = None) -> Encoder:
    """Build an encoder by name."""
    return cast(Encoder, named("encoder", word, options))


def named_metric(word: str, options: Mapping[str, object] | None = None) -> SetMetric:
    """Build a set metric by name: `metrics=`."""
    return cast(SetMetric, named("metric", word, options))


def named_trainer(word: str, options: Mapping[str, object] | None = None) -> Trainer:
    """Build a trainer by name: `genbench train plugin=`."""
    return cast(Trainer, named("trainer", word, options))


def named_source(word: str, options: Mapping[str, object] | None = None) -> Source:
    """Build a model source by name: `model=`."""
    return cast(Source, named("source", word, options))
