"""The contract checks: sound plugins pass, and each fault is caught by the check that is there for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from genbench.backbones.toy import Ancestral, Toy, ToyModel, ToyScorer
from genbench.errors import UsageError
from genbench.kinds import RUN_KINDS, About, Context, Denoise, Model, Resources, Start, State, Step, TrainJob
from genbench.testing import check_plugin, checks_of, contract_tests, toy_context, toy_draw, toy_images
from genbench.testing.case import Case
from genbench.testing.general import is_frozen_and_picklable

ABOUT = About("Under test.", contract=1, neutral={"strength": 0.0})


@dataclass(frozen=True)
class Sound:
    """A noise transform without a fault; the faulty ones below change one thing each."""

    strength: float = 0.2  # 0 is neutral
    about: ClassVar[About] = ABOUT

    def transform_noise(self, start: Start, ctx: Context) -> Start:
        mixed = start.noise + self.strength * start.noise.roll(1, -1)
        return replace(start, noise=mixed)


def noise(change: Callable[[Any, Start, Context], Tensor], **members: Any) -> type:
    """Return a noise transform whose noise is `change(self, start, ctx)`."""

    def transform_noise(self: Any, start: Start, ctx: Context) -> Start:
        return replace(start, noise=change(self, start, ctx))

    return type("Faulty", (Sound,), {"transform_noise": transform_noise, **members})


COUNT = {"calls": 0}


def counted(self: Any, start: Start, ctx: Context) -> Tensor:
    COUNT["calls"] += 1
    return start.noise * COUNT["calls"]


def in_place(self: Any, start: Start, ctx: Context) -> Tensor:
    return start.noise.mul_(1 + self.strength)


def detached(self: Any, start: Start, ctx: Context) -> Tensor:
    return start.noise * (1.5 if torch.is_grad_enabled() else 1 + self.strength)


FAULTS: Mapping[str, tuple[type, str, str]] = {
    "no_summary": (noise(lambda s, start, c: start.noise, about=About("", contract=1)), "noise", "summary is empty"),
    "nan": (noise(lambda s, start, c: start.noise * float("nan")), "noise", "the result is not finite"),
    "shape": (noise(lambda s, start, c: start.noise[..., :4]), "noise", "the shape became"),
    "dtype": (noise(lambda s, start, c: start.noise.double()), "noise", "the dtype became torch.float64"),
    "global_rng": (
        noise(lambda s, start, c: start.noise + torch.randn(start.noise.shape)), "noise", "same seeds differs",
    ),
    "counter": (noise(counted), "noise", "same seeds differs"),
    "batch": (noise(lambda s, start, c: start.noise - start.noise.mean()), "noise", "a picture depends on its batch"),
    "not_neutral": (noise(lambda s, start, c: start.noise * 1.1), "noise", "not bit-identical to no plugin"),
    "idle": (noise(lambda s, start, c: start.noise), "noise", "it changes nothing"),
    "in_place": (noise(in_place), "noise", "transform_noise changed its input in place"),
    "gradients": (noise(detached), "noise", "the result differs when gradients are on"),
}  # fmt: skip


def test_a_sound_plugin_passes() -> None:
    check_plugin(Sound, "noise")
    check_plugin(Sound, "noise", strength="0.7")
    check_plugin(Toy, "source")
    check_plugin(ToyScorer, "scorer")


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_faulty_plugin_is_caught_by_name(fault: str) -> None:
    cls, kind, said = FAULTS[fault]
    with pytest.raises(AssertionError, match=said) as caught:
        for check in checks_of(kind):
            if check is not is_frozen_and_picklable:  # a class made by a function cannot be pickled
                check(Case(cls, kind))
    assert str(caught.value).startswith("Faulty (noise): ")


def test_what_a_worker_process_cannot_receive_is_caught() -> None:
    with pytest.raises(AssertionError, match="Faulty .noise.: it cannot be pickled: "):
        check_plugin(noise(lambda self, start, ctx: start.noise * (1 + self.strength)), "noise")


def test_the_shape_of_a_class_is_checked() -> None:
    @dataclass
    class Melted:
        about: ClassVar[About] = ABOUT

        def transform_noise(self, start: Start, ctx: Context) -> Start:
            return start

    @dataclass(frozen=True)
    class Mute:
        strength: float = 0.2
        about: ClassVar[About] = ABOUT

        def transform_noise(self, start: Start, ctx: Context) -> Start:
            return start

    with pytest.raises(AssertionError, match="Melted is no frozen dataclass"):
        check_plugin(Melted, "noise")
    with pytest.raises(AssertionError, match="option 'strength' has no help; end its line with a comment"):
        check_plugin(Mute, "noise")
    with pytest.raises(AssertionError, match=r"Sound lacks search\(\)"):
        check_plugin(Sound, "search")
    with pytest.raises(UsageError, match="there is no kind 'nose'; did you mean 'noise'"):
        check_plugin(Sound, "nose")


# --- faults of other kinds ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hidden:
    """A step wrapper that writes into its input state."""

    about: ClassVar[About] = About("Writes into its input.", contract=1)

    def wrap_step(self, step: Step, ctx: Context) -> Step:
        def wrapped(state: State, denoise: Denoise) -> State:
            state.x.mul_(1.01)
            return step(state, denoise)

        return wrapped


@dataclass(frozen=True)
class Stuck:
    """A sampler that forgets to count."""

    about: ClassVar[About] = About("Never arrives.", contract=1)
    schedule = Ancestral.schedule

    def step(self, state: State, denoise: Denoise, ctx: Context) -> State:
        here = ctx.schedule.levels[state.index]
        return state.replace(x=denoise(state.x, here).x0, index=state.index + (2 if state.index == 0 else 1))


@dataclass(frozen=True)
class Vandal:
    """A model transform that changes the model it was given."""

    about: ClassVar[About] = About("Edits its input.", contract=1)

    def transform_model(self, model: Model, ctx: Resources) -> Model:
        model.modules["network"].means.mul_(0.5)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        return model


@dataclass(frozen=True)
class Flat:
    """A scorer that likes everything alike."""

    about: ClassVar[About] = About("One score for all.", contract=1)

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Any = None) -> Tensor:
        return torch.ones(len(images))


@dataclass(frozen=True)
class Ranking:
    """A scorer that compares pictures with one another."""

    about: ClassVar[About] = About("Ranks.", contract=1)

    def score(self, *, images: Tensor, prompts: Sequence[str], rows: Any = None) -> Tensor:
        brightness = images.flatten(1).mean(1)
        return brightness - brightness.mean()


@dataclass(frozen=True)
class Ordered:
    """A metric that looks at the first feature only."""

    about: ClassVar[About] = About("Depends on order.", contract=1)

    def value(self, features: Tensor, reference: Tensor | None = None, groups: Any = None) -> float:
        return float(features[0, 0])


@dataclass(frozen=True)
class Careless:
    """A trainer that draws from the global generator."""

    about: ClassVar[About] = About("Trains anew each time.", contract=1)

    def train(self, job: TrainJob) -> Path:
        made = job.run / "weights.txt"
        made.write_text(str(torch.rand(()).item()))
        return made


@pytest.mark.parametrize(
    ("cls", "kind", "said"),
    [
        (Hidden, "step", "a step changed its input state in place"),
        (Stuck, "sampler", "raise the state's index by one"),
        (Vandal, "model", "transform_model changed its input; copy what you change"),
        (Flat, "scorer", "it gives every picture the same score"),
        (Ranking, "scorer", "a score depends on its batch"),
        (Ordered, "metric", "order matters"),
        (Careless, "trainer", "the same seed trains to other weights"),
    ],
)
def test_a_fault_of_each_kind_is_caught(cls: type, kind: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_plugin(cls, kind)


# --- what authors use ---------------------------------------------------------------------------------------------

test_contract = contract_tests(Sound, "noise", strength=0.4)


def test_contract_tests_has_one_case_per_check() -> None:
    [mark] = test_contract.pytestmark  # pyright: ignore[reportFunctionMemberAccess]
    assert mark.args == ("check", checks_of("noise"))
    assert all(check.__doc__ for kind in (*RUN_KINDS, "scorer", "metric") for check in checks_of(kind))


def test_toy_draw_is_a_run_of_the_core() -> None:
    drawn = toy_draw(seeds=[3, 4], prompts=["red", "blue"])
    assert drawn.shape == (2, 3, 8, 8) and torch.equal(drawn, toy_draw(seeds=[3, 4], prompts=["red", "blue"]))
    scores = ToyScorer().score(images=ToyModel().decode(drawn), prompts=["red", "blue"])
    assert (scores > -0.1).all()
    assert toy_images([1, 2, 3], 16).shape == (3, 3, 16, 16)
    ctx = toy_context([5], prompts=["red"], steps=7)
    assert (ctx.schedule.steps, ctx.seeds, ctx.prompts, ctx.guidance_scale) == (7, (5,), ("red",), 2.0)
