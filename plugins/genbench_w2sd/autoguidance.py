"""The plugin `autoguidance`: guiding with a bad version of the model itself (Karras et al., arXiv:2406.02507).

    D = main + (w - 1) (strong - weak)          with main = strong: weak + w (strong - weak), eq. 6 of the paper

One evaluation at one point, no reflection. With w = 2 it is what `w2sd` with the same pair is to first order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from genbench.kinds import About, Context, Denoise, Level, Prediction, State, Step
from genbench_w2sd.options import PairOptions

PAPER = "Karras et al., Guiding a Diffusion Model with a Bad Version of Itself, NeurIPS 2024"
URL = "https://arxiv.org/abs/2406.02507"


def extrapolated(main: Prediction, strong: Prediction, weak: Prediction, weight: float) -> Prediction:
    """main + (weight - 1) (strong - weak), all at one point and level, in the convention of `main`."""
    apart = strong.to(main.type) - weak.to(main.type)
    return main.with_raw(main.raw + (weight - 1) * apart)


@dataclass(frozen=True)
class AutoGuidance(PairOptions):
    """Extrapolate from a weak denoiser through a strong one, within the step (arXiv:2406.02507)."""

    word: ClassVar[str] = "autoguidance"

    weight: float = 2.0  # w: 1 is neutral

    about: ClassVar[About] = About(
        "Guidance by a weaker version of the model: weak + w (strong - weak).",
        paper=PAPER,
        url=URL,
        cost="plain + the weak denoiser at every call, and the strong one where the run does not evaluate it anyway",
        neutral={"weight": 1.0},
    )

    def check(self, model: str, family: str) -> None:
        """Raise GenbenchError where the model's family cannot have the pair, before its weights load."""
        if self.weight != 1:
            self.check_before(model, family)

    def evaluations(self, plain: int, ctx: Context) -> int:
        """Network evaluations of one picture, where a plain one takes `plain`."""
        if self.weight == 1:
            return plain
        strong, weak = self.rows(ctx)
        calls = sum(len(levels) for levels in ctx.schedule.evaluations)
        return plain + calls * (weak + (0 if self.reads_half(ctx) else strong))

    def wrap_step(self, step: Step, ctx: Context) -> Step:
        """Take every step with the extrapolated denoiser. Raises UsageError or ModelError as the pair does."""
        if self.weight == 1:
            return step
        pair = self.pair(ctx)
        strong = None if pair.strong is None else pair.strong.denoiser()
        weak, main = pair.weak.denoiser(), None if pair.main is None else pair.main.denoiser()

        def guided_by(drawing: Denoise) -> Denoise:
            def denoise(x: Tensor, level: Level) -> Prediction:
                own = drawing(x, level)
                if strong is None:
                    return extrapolated(own, own, weak(x, level), self.weight)
                half = own.cond if pair.conditional else None
                return extrapolated(own, half or strong(x, level), weak(x, level), self.weight)

            return denoise

        def guided(state: State, denoise: Denoise) -> State:
            return step(state, guided_by(main or denoise))

        return guided
