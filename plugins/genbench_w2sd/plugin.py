"""The plugin `w2sd`: weak-to-strong diffusion with reflection; without a pair named it is Z-Sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from genbench import cost
from genbench.errors import UsageError
from genbench.kinds import About, Context, Denoise, State, Step
from genbench_w2sd.options import PairOptions
from genbench_w2sd.reflection import Bookkeeping, Label, placed, reflect

PAPER = "Bai, Sugiyama, Xie: Weak-to-Strong Diffusion with Reflection"
URL = "https://arxiv.org/abs/2502.00473"


@dataclass(frozen=True)
class W2SD(PairOptions):
    """Before a step, one step down with a strong denoiser and one back with a weak one (arXiv:2502.00473).

    With a pair of guidance scales it is Z-Sampling (arXiv:2412.10891). To first order in the step a reflected step is a
    plain one with eps_main + eps_strong - eps_weak.
    """

    word: ClassVar[str] = "w2sd"

    start: int = field(default=0, metadata={"range": (0, None)})  # first outer step that reflects
    stop: int | None = field(default=None, metadata={"range": (0, None)})  # reflect before it; none: all but the last
    reflections: int = field(default=1, metadata={"range": (1, None)})  # per reflected step (T_max)
    label: Label = "state"  # what the way back tells the network of its point: its own level, or the step's first
    bookkeeping: Bookkeeping = "exact"  # published: back by the next level's coefficients, as the authors' code does

    about: ClassVar[About] = About(
        "Reflection: each step first goes down with a strong denoiser and back with a weak one; also Z-Sampling.",
        paper=PAPER,
        url=URL,
        license="MIT (code of the authors; nothing of it is here)",
        cost="plain + 2 calls per reflection, each doubled where its guidance is neither 0 nor 1; 3T - 2 calls in all",
        neutral={"stop": 0},
    )

    def check(self, model: str, family: str) -> None:
        """Raise GenbenchError where the model's family cannot have the pair, before its weights load."""
        if self.stop != 0:
            self.check_before(model, family)

    def check_words(self, words: Mapping[str, object]) -> None:
        """Raise UsageError where `start` and `stop` leave no step of the walk."""
        steps = words.get("steps")
        if isinstance(steps, int) and self.start > 0 and self.stop != 0 and not self.reflecting(steps):
            asked = f"w2sd.start={self.start}" + ("" if self.stop is None else f" w2sd.stop={self.stop}")
            raise UsageError(f"{asked} reflects no step: of steps={steps} those from 0 to {steps - 2} can, before stop")

    def reflecting(self, steps: int) -> range:
        """The outer steps of a walk of `steps` that reflect. The last never does: below it lies clean data."""
        last = steps - 1 if self.stop is None else min(self.stop, steps - 1)
        return range(self.start, last)

    def evaluations(self, plain: int, ctx: Context) -> int:
        """Network evaluations of one picture, where a plain one takes `plain`."""
        evaluated = ctx.schedule.evaluations
        times = sum(1 for i in self.reflecting(ctx.schedule.steps) if evaluated[i]) * self.reflections
        if not times:
            return plain
        strong, weak = self.rows(ctx)
        return plain + times * ((strong or cost.rows_per_call(ctx)) + weak)

    def wrap_step(self, step: Step, ctx: Context) -> Step:
        """Reflect before the steps that do. Raises UsageError or ModelError where the pair cannot be had."""
        reflecting = self.reflecting(ctx.schedule.steps)
        if not reflecting:
            return step
        pair = self.pair(ctx)
        strong = None if pair.strong is None else pair.strong.denoiser()
        levels = ctx.schedule.levels
        weak, main = pair.weak.denoiser(), None if pair.main is None else pair.main.denoiser()

        def reflected(state: State, denoise: Denoise) -> State:
            drawing = main or denoise
            if state.index not in reflecting:
                return step(state, drawing)
            how = (self.label, self.bookkeeping, state.x.dtype)
            x = state.x
            for _ in range(self.reflections):
                x = reflect(x, strong or drawing, weak, levels, state.index, *how)
            return step(placed(state, x, levels), drawing)

        return reflected
